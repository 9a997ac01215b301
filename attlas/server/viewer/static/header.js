// The bars: above all, what is looked at and how; above each map, which head it is and what its colours mean.

import { gradient } from "./save.js";
import { checkbox, field, iconButton, icon, Menu, row, segment, select } from "./controls.js";
import { count, element, later, oneLine } from "./format.js";

const LOWS = [1e-5, 1e-4, 1e-3, 1e-2, 0.1];
const HIGHS = [1, 0.3, 0.1, 0.03, 0.01];
const KEYS = [
  ["drag, arrows", "move the map"],
  ["wheel, + −", "zoom"],
  ["0", "the whole map"],
  ["h l", "next head, next layer; with Shift the one before"],
  ["m", "mean over the heads of a layer, and back"],
  ["click", "lock the row (or column) under the pointer; again to release"],
  ["j k", "the locked row one on, one back"],
  ["Esc", "release"],
  ["Shift-click a head", "put it beside, linked"],
  ["v", "map or lines"],
  ["/", "search: who reads this word?"],
  ["d", "light or dark"],
  ["f", "full screen"],
];

export class Header {
  constructor(state, hooks) {
    Object.assign(this, { state, hooks });
    this.element = element("header", "att-head");
    this.brand = element("span", "att-brand", "attlas");
    this.documents = new Menu("…", { label: "documents" });
    this.documents.button.classList.add("att-document");
    this.atlases = select("atlas", (value) => state.set({ atlas: value, document: "" }));
    this.kinds = select("kind of attention", (value) => state.set({ kind: value }));
    this.size = element("span", "att-size");
    this.shape = segment("map or lines", [["map", "Map"], ["lines", "Lines", "short spans: a line where one token reads another"]], (value) => state.set({ show: value }));
    this.element.append(
      this.brand, this.atlases, this.documents.element, this.kinds, this.size, element("span", "att-space"),
      this.makeSearch(), this.shape, this.makeView(), this.makeCompare(), this.makeSave(),
      iconButton("theme", "light or dark (d)", () => this.turnTheme()),
      iconButton("full", "full screen (f)", hooks.full),
      this.makeHelp(),
    );
    this.makeDocuments();
  }

  makeDocuments() {
    const { panel } = this.documents;
    const input = element("input", "att-input", null, { type: "search", placeholder: "Find a document", "aria-label": "find a document" });
    const list = element("div", "att-list");
    const note = element("p", "att-note");
    panel.append(input, list, note);
    const fill = async () => {
      const { data } = await this.hooks.documents(input.value);
      list.replaceChildren(
        ...data.documents.map((one) => {
          const button = element("button", "att-item", null, { type: "button" });
          const size = one.queries !== undefined ? `${count(one.queries)} × ${count(one.keys)}` : count(one.tokens);
          button.append(element("span", "", one.id), element("span", "att-at", size));
          button.toggleAttribute("data-chosen", one.id === this.state.get("document"));
          button.addEventListener("click", () => {
            this.documents.toggle(false);
            this.state.set({ document: one.id });
          });
          return button;
        }),
      );
      note.textContent = data.total > data.documents.length ? `${count(data.total)} documents: type to find one` : "";
    };
    const soon = later(150, fill);
    input.addEventListener("input", () => soon());
    this.documents.opened = () => {
      fill().catch((error) => {
        note.textContent = error.message;
      });
      input.focus();
    };
  }

  makeSearch() {
    const box = element("div", "att-search");
    this.input = element("input", "att-input", null, {
      type: "search", placeholder: "Who reads this word?", "aria-label": "search the text: who reads this word?", spellcheck: "false",
    });
    this.found = element("div", "att-panel att-right att-found");
    this.found.hidden = true;
    box.append(icon("search"), this.input, this.found);
    let last = null;
    const ask = async () => {
      const text = this.input.value;
      if (text === last) {
        this.found.hidden = text === "";
        return;
      }
      last = text;
      if (text === "") {
        this.found.hidden = true;
        this.hooks.search("");
        return;
      }
      try {
        const { total, places } = await this.hooks.search(text);
        if (text !== this.input.value) return;
        this.fill(total, places);
      } catch (error) {
        this.found.replaceChildren(element("p", "att-note", error.message));
        this.found.hidden = false;
      }
    };
    const soon = later(250, ask);
    this.input.addEventListener("input", () => soon());
    this.input.addEventListener("focus", () => {
      if (this.input.value && this.found.childElementCount) this.found.hidden = false;
    });
    this.input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.found.querySelector("button")?.click();
      if (event.key === "ArrowDown") this.found.querySelector("button")?.focus();
      if (event.key === "Escape") {
        this.found.hidden = true;
        this.input.blur();
      }
    });
    box.addEventListener("focusout", (event) => {
      if (!box.contains(event.relatedTarget)) this.found.hidden = true;
    });
    return box;
  }

  fill(total, places) {
    const note = total === 0 ? "not in this text" : `${count(total)} ${total === 1 ? "place" : "places"}; choose one to see who reads it`;
    this.found.replaceChildren(
      element("p", "att-note", note),
      ...places.map(([first, end, before, own, after]) => {
        const button = element("button", "att-item", null, { type: "button" });
        const words = element("span");
        words.append(
          element("span", "att-dim", `${oneLine(before, 40)} `), element("b", "", oneLine(own, 30)), element("span", "att-dim", ` ${oneLine(after, 40)}`),
        );
        button.append(words, element("span", "att-at", count(first)));
        button.addEventListener("click", () => {
          this.found.hidden = true;
          this.hooks.place(end - 1); // the last token of a word is that which knows all of it
        });
        return button;
      }),
    );
    this.found.dataset.places = String(total);
    this.found.hidden = false;
  }

  findText(text) {
    if (this.input.value !== text) this.input.value = text;
  }

  makeView() {
    const { state } = this;
    const menu = new Menu("View", { align: "right" });
    const number = (value) => [String(value), value < 1e-3 ? value.toExponential(0).replace("e-", "e−") : String(value)];
    this.colours = segment("colours", [["viridis", "viridis"], ["cividis", "cividis"], ["grey", "grey"]], (value) => state.set({ colours: value }));
    this.scale = segment("scale", [["log", "log"], ["linear", "linear"]], (value) => state.set({ scale: value }));
    this.low = select("least weight with a colour of its own", (value) => state.set({ low: Number(value) }));
    this.low.fill(LOWS.map(number), state.get("low"));
    this.high = select("weight of the last colour", (value) => state.set({ high: Number(value) }));
    this.high.fill(HIGHS.map(number), state.get("high"));
    this.pool = segment("pooled cells", [["max", "largest", "the largest weight of a block of cells"], ["mass", "mass", "sum over a block's keys, mean over its queries"]], (value) => state.set({ pool: value }));
    this.strips = checkbox("entropy and received along the axes", (on) => state.set({ strips: on }));
    this.theme = segment("theme", [["auto", "auto"], ["light", "light"], ["dark", "dark"]], (value) => state.set({ theme: value }));
    const limits = element("span", "att-limits");
    limits.append(this.low, element("span", "", "to"), this.high);
    menu.panel.append(row("Colours", this.colours), row("Scale", this.scale), row("Limits", limits), row("Zoomed out", this.pool), row("Theme", this.theme), this.strips);
    return menu.element;
  }

  makeCompare() {
    const { state } = this;
    const menu = new Menu("Compare", { align: "right" });
    this.compare = segment("compare", [["", "one map"], ["beside", "beside"], ["difference", "difference"]], (value) => {
      const patch = { compare: value };
      if (value && state.get("other_head") === null && state.get("other_document") === "" && state.get("other_atlas") === "") {
        const { heads } = this.page.facts;
        const at = heads.indexOf(state.get("head"));
        patch.other_layer = state.get("layer");
        patch.other_head = heads[(at + 1) % heads.length];
      }
      state.set(patch);
    });
    this.otherAtlas = select("second atlas", (value) => state.set({ other_atlas: value, other_document: "" }));
    this.otherDocument = select("second document", (value) => state.set({ other_document: value }));
    this.otherLayer = select("second layer", (value) => state.set({ other_layer: Number(value) }));
    this.otherHead = select("second head", (value) => state.set({ other_head: value === "mean" ? value : Number(value) }));
    const swap = element("button", "att-plain", "swap", { type: "button" });
    swap.addEventListener("click", () => this.hooks.swap());
    const heads = element("span", "att-limits");
    heads.append(this.otherLayer, this.otherHead, swap);
    this.atlasField = field("Second atlas", this.otherAtlas);
    this.documentField = field("Second document", this.otherDocument);
    menu.panel.append(
      row("Show", this.compare), this.atlasField, this.documentField, row("Second head", heads),
      element("p", "att-note", "Shift-click a head to put it beside. Both maps move together; the difference is the first minus the second."),
    );
    menu.opened = async () => {
      this.mark();
      try {
        const { data } = await this.hooks.documents("");
        const own = state.get("document");
        this.otherDocument.fill([["", "the same"], ...data.documents.filter((one) => one.id !== own).map((one) => [one.id, one.id])], state.get("other_document"));
        this.documentField.hidden = data.documents.length < 2;
      } catch {
        this.documentField.hidden = true;
      }
    };
    return menu.element;
  }

  makeSave() {
    const menu = new Menu("Save", { align: "right" });
    const options = [
      ["png", "Picture", "PNG, twice the size of the screen"],
      ["svg", "Picture to edit", "SVG, its labels as text"],
      ["csv", "Numbers", "CSV, the weights that are seen"],
      ["npy", "Numbers for numpy", "npy, float32"],
    ];
    for (const [kind, words, why] of options) {
      const button = element("button", "att-item", null, { type: "button", "data-kind": kind });
      button.append(element("span", "", words), element("span", "att-at", why));
      button.addEventListener("click", () => {
        menu.toggle(false);
        this.hooks.save(kind);
      });
      menu.panel.append(button);
    }
    menu.panel.append(element("p", "att-note", "Of the part of the map that is seen."));
    menu.panel.classList.add("att-save");
    return menu.element;
  }

  makeHelp() {
    this.help = new Menu("", { align: "right", label: "keys (?)" });
    this.help.button.className = "att-icon";
    this.help.button.title = "keys (?)";
    this.help.button.append(icon("help"));
    const list = element("dl", "att-keys");
    for (const [key, words] of KEYS) list.append(element("dt", "", key), element("dd", "", words));
    this.help.panel.append(list);
    this.help.panel.dataset.part = "help";
    return this.help.element;
  }

  turnTheme() {
    const dark = this.element.parentElement.dataset.theme === "dark";
    this.state.set({ theme: dark ? "light" : "dark" });
  }

  focusSearch() {
    this.input.focus();
    this.input.select();
  }

  open(info, page) {
    this.page = page;
    this.info = info;
    const { state } = this;
    this.atlases.hidden = info.atlases.length < 2;
    this.atlases.fill(info.atlases.map(({ name }) => [name, name]), page.where.atlas);
    this.documents.button.textContent = page.where.document;
    this.kinds.hidden = page.kinds.length < 2;
    this.kinds.fill(page.kinds.map((kind) => [kind, `${kind} attention`]), page.where.kind);
    this.size.textContent = page.title();
    this.otherAtlas.fill([["", "the same"], ...info.atlases.filter(({ name }) => name !== page.where.atlas).map(({ name }) => [name, name])], state.get("other_atlas"));
    this.atlasField.hidden = info.atlases.length < 2;
    this.otherLayer.fill(page.facts.layers.map((layer) => [String(layer), `layer ${layer}`]), state.get("other_layer") ?? state.get("layer"));
    this.otherHead.fill([...page.facts.heads.map((head) => [String(head), `head ${head}`]), ["mean", "mean"]], state.get("other_head") ?? state.get("head"));
    this.findText(state.get("find"));
    this.mark();
  }

  mark() {
    const { state } = this;
    this.shape.mark(state.get("show"));
    for (const name of ["colours", "scale", "pool", "theme", "strips", "compare"]) this[name].mark(state.get(name));
    this.low.value = String(state.get("low"));
    this.low.disabled = state.get("scale") === "linear";
    this.high.value = String(state.get("high"));
    if (!this.page) return;
    this.otherLayer.value = String(state.get("other_layer") ?? state.get("layer"));
    this.otherHead.value = String(state.get("other_head") ?? state.get("head"));
    this.otherDocument.value = state.get("other_document");
    this.otherAtlas.value = state.get("other_atlas");
  }
}

export class PaneHeader {
  constructor(holder, state, second) {
    Object.assign(this, { state, second });
    const names = second ? ["other_layer", "other_head"] : ["layer", "head"];
    this.layer = select("layer", (value) => state.set({ [names[0]]: Number(value) }));
    this.head = select("head", (value) => state.set({ [names[1]]: value === "mean" ? value : Number(value) }));
    this.role = element("span", "att-role-name");
    this.legendBox = element("span", "att-legend");
    this.low = element("span");
    this.bar = element("i", "att-bar");
    this.high = element("span");
    this.masked = element("i", "att-masked-box");
    this.legendBox.append(this.low, this.bar, this.high, this.masked, element("span", "", "masked"));
    holder.append(this.layer, this.head, this.role, this.legendBox);
  }

  show(pane, roles, info) {
    const [first, minus] = pane.heads;
    const { layers, heads } = first.page.facts;
    this.layer.fill(layers.map((layer) => [String(layer), `Layer ${layer}`]), first.layer);
    this.head.fill([...heads.map((head) => [String(head), `Head ${head}`]), ["mean", "Mean"]], first.head);
    const role = roles?.get(`${first.layer}/${first.head}`) ?? "";
    let words = role;
    if (minus) words = `minus layer ${minus.layer}, ${minus.head === "mean" ? "mean" : `head ${minus.head}`}`;
    if (minus && !minus.page.same(first.page)) words += ` of ${minus.page.where.document}`;
    if (this.second) {
      const { atlas, document } = first.page.where;
      words = [info.atlases.length > 1 ? atlas : "", document === this.state.get("document") ? "" : document, role].filter(Boolean).join(" · ");
    }
    this.role.textContent = words;
  }

  legend(settings, dark, difference) {
    const number = (value) => (value < 1e-3 ? value.toExponential(0).replace("e-", "e−") : String(value));
    this.bar.style.backgroundImage = gradient(settings, dark, difference);
    this.low.textContent = difference ? `−${number(settings.high)}` : settings.scale === "log" ? `≤ ${number(settings.low)}` : "0";
    this.high.textContent = difference ? `+${number(settings.high)}` : number(settings.high);
  }
}
