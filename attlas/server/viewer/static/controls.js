// Small parts of the page: menus that open below a button, choices, switches.

import { element } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  theme: "M8 2a6 6 0 1 0 0 12z M8 2a6 6 0 0 1 0 12",
  full: "M2.5 6V2.5H6 M10 2.5h3.5V6 M13.5 10v3.5H10 M6 13.5H2.5V10",
  help: "M6 6.2a2 2 0 1 1 2.6 1.9c-.5.2-.6.6-.6 1.2 M8 11.8v.1",
  search: "M7 3a4 4 0 1 0 0 8 4 4 0 0 0 0-8z M10 10l3.5 3.5",
  close: "M4 4l8 8 M12 4l-8 8",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", width: "16", height: "16", "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  if (name === "theme") {
    path.setAttribute("d", "M8 2a6 6 0 1 0 0 12z");
    path.setAttribute("class", "att-filled");
    const ring = document.createElementNS(SVG, "circle");
    for (const [key, value] of Object.entries({ cx: "8", cy: "8", r: "6" })) ring.setAttribute(key, value);
    svg.append(ring);
  }
  return svg;
}

export function iconButton(name, why, press) {
  const button = element("button", "att-icon", null, { type: "button", title: why, "aria-label": why });
  button.append(icon(name));
  button.addEventListener("click", press);
  return button;
}

// a button, and what it opens; closed by Escape, and by a press anywhere else
export class Menu {
  constructor(words, { align = "left", label = null } = {}) {
    this.element = element("div", "att-menu");
    this.button = element("button", "att-menu-button", words, { type: "button", "aria-expanded": "false", "aria-haspopup": "true" });
    if (label) this.button.setAttribute("aria-label", label);
    this.panel = element("div", `att-panel att-${align}`);
    this.panel.hidden = true;
    this.element.append(this.button, this.panel);
    this.button.addEventListener("click", () => this.toggle());
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.panel.hidden) {
        event.stopPropagation();
        this.toggle(false);
        this.button.focus();
      }
    });
    this.outside = (event) => {
      if (!event.composedPath().includes(this.element)) this.toggle(false);
    };
  }

  toggle(open = this.panel.hidden) {
    if (open === !this.panel.hidden) return;
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    const call = open ? "addEventListener" : "removeEventListener";
    document[call]("pointerdown", this.outside, true);
    if (open) this.opened?.();
  }
}

export function segment(words, options, choose) {
  const group = element("div", "att-segment", null, { role: "group", "aria-label": words });
  for (const [value, text, why] of options) {
    const button = element("button", "", text, { type: "button", title: why ?? text, "data-value": value });
    button.addEventListener("click", () => choose(value));
    group.append(button);
  }
  group.mark = (chosen) => {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset.value === String(chosen)));
  };
  return group;
}

export function select(words, choose) {
  const made = element("select", "att-select", null, { "aria-label": words });
  made.addEventListener("change", () => choose(made.value));
  made.fill = (options, chosen) => {
    const wanted = JSON.stringify(options);
    if (made.dataset.options !== wanted) {
      made.replaceChildren(...options.map(([value, text]) => element("option", "", text, { value })));
      made.dataset.options = wanted;
    }
    made.value = String(chosen);
  };
  return made;
}

export function field(words, control) {
  const line = element("label", "att-field");
  line.append(element("span", "", words), control);
  return line;
}

// for groups of buttons, which are no single control to label
export function row(words, control) {
  const line = element("div", "att-field");
  line.append(element("span", "", words), control);
  return line;
}

export function checkbox(words, choose) {
  const line = element("label", "att-check");
  const box = element("input", "", null, { type: "checkbox" });
  box.addEventListener("change", () => choose(box.checked));
  line.append(box, element("span", "", words));
  line.mark = (on) => {
    box.checked = on;
  };
  return line;
}
