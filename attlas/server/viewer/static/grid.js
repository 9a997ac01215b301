// Every head at a glance: layer by head, a thumbnail each; and the heads that have a name.

import { isAborted } from "./ask.js";
import { element, headTitle } from "./format.js";
import { Tile } from "./tiles.js";

const CELLS = 32;
const FEWER = 16; // of a map of so many levels, each of whose rows costs more
const LONG = 7;
const AGAIN = 300; // ms between drawings of all thumbnails while they come
const LABELS = 24; // pixels beside and above
const LAYERS_AT_ONCE = 2;
const UNDER = 310; // pixels below the thumbnails, for the heads with a name
const FEW = 3; // heads of a role, before all
const ORDER = ["induction", "duplicate", "previous", "offset", "positional", "self", "local", "separator", "sink"];

export class HeadGrid {
  // hooks: choose(layer, head, beside), changed(), failed(error, again)
  constructor(hooks) {
    this.hooks = hooks;
    this.element = element("div", "att-grid");
    this.title = element("h2", "", "Heads");
    this.note = element("p", "att-note");
    this.canvas = element("canvas", "att-thumbs", null, { role: "img", "aria-label": "thumbnails of all heads, layer by head" });
    this.tip = element("div", "att-tip");
    this.tip.hidden = true;
    const holder = element("div", "att-thumbs-box");
    holder.append(this.canvas, this.tip);
    this.element.append(this.title, holder, this.note);
    this.tiles = new Map();
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", (event) => {
      const found = this.at(event);
      if (found) this.hooks.choose(found.layer, found.head, event.shiftKey);
    });
  }

  // asks for thumbnails layer by layer, so that the map's own questions are answered between them
  async load(asker, page, first) {
    this.control?.abort();
    this.control = new AbortController();
    const { signal } = this.control;
    Object.assign(this, { page, tiles: new Map() });
    this.element.dataset.thumbnails = "0";
    const { layers, heads } = page.facts;
    this.title.textContent = `${layers.length} layers × ${heads.length} heads`;
    this.note.textContent = "";
    const cells = page.facts.top_level >= LONG ? FEWER : CELLS;
    const waiting = [...layers].sort((a, b) => Number(b === first) - Number(a === first));
    let drawn = 0;
    const work = async () => {
      for (let layer = waiting.shift(); layer !== undefined; layer = waiting.shift()) {
        const { data, buffers } = await asker.ask("thumbnails", { ...page.where, layer, cells }, signal);
        const [, count, rows, columns] = data.shape;
        for (let i = 0; i < count; i += 1) {
          const codes = buffers[0].subarray(i * rows * columns, (i + 1) * rows * columns);
          this.tiles.set(`${layer}/${data.heads[i]}`, new Tile(codes, rows, columns));
        }
        this.element.dataset.thumbnails = String(this.tiles.size);
        const sampled = data.sampled_rows?.length ?? data.sampled_rows ?? page.facts.queries;
        const few = sampled < page.facts.queries;
        this.note.textContent = few ? `${sampled} sampled rows of each` : "";
        if (waiting.length && performance.now() - drawn < AGAIN) continue;
        drawn = performance.now();
        this.hooks.changed();
      }
    };
    try {
      await Promise.all(Array.from({ length: LAYERS_AT_ONCE }, work));
    } catch (error) {
      if (!isAborted(error)) this.hooks.failed(error, () => this.load(asker, page, first));
    }
  }

  measure() {
    const { layers, heads } = this.page.facts;
    const width = this.canvas.parentElement.clientWidth || 220;
    const height = (this.element.parentElement?.clientHeight ?? 0) - UNDER;
    this.wide = Math.min(Math.max(Math.floor((width - LABELS) / heads.length), 13), 46);
    this.tall = Math.floor(Math.min(Math.max(height / layers.length, this.wide / 1.4, 13), this.wide));
    this.size = [LABELS + this.wide * heads.length, LABELS - 6 + this.tall * layers.length];
  }

  draw(palette, table, chosen, other) {
    if (!this.page) return;
    this.measure();
    const density = window.devicePixelRatio || 1;
    const [width, height] = this.size;
    if (this.canvas.width !== Math.round(width * density) || this.canvas.height !== Math.round(height * density)) {
      Object.assign(this.canvas, { width: Math.round(width * density), height: Math.round(height * density) });
      Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const { layers, heads } = this.page.facts;
    const { wide, tall } = this;
    const top = LABELS - 6;
    context.font = '9.5px ui-sans-serif, system-ui, "Segoe UI", sans-serif';
    context.textBaseline = "middle";
    const every = (room, size) => Math.max(1, Math.ceil(room / size));
    heads.forEach((head, j) => {
      if (j % every(14, wide)) return;
      context.textAlign = "center";
      context.fillStyle = head === chosen.head ? palette.accent : palette.faint;
      context.fillText(String(head), LABELS + (j + 0.5) * wide, 8);
    });
    layers.forEach((layer, i) => {
      if (i % every(13, tall) === 0) {
        context.textAlign = "right";
        context.fillStyle = layer === chosen.layer ? palette.accent : palette.faint;
        context.fillText(String(layer), LABELS - 7, top + (i + 0.5) * tall);
      }
      heads.forEach((head, j) => {
        const [x, y] = [LABELS + j * wide, top + i * tall];
        const tile = this.tiles.get(`${layer}/${head}`);
        context.fillStyle = palette.missing;
        context.fillRect(x, y, wide - 2, tall - 2);
        context.imageSmoothingEnabled = true;
        if (tile) context.drawImage(tile.painted(table), x, y, wide - 2, tall - 2);
      });
    });
    const ring = (layer, head, colour, thick) => {
      const [i, j] = [layers.indexOf(layer), heads.indexOf(head)];
      if (i < 0) return;
      const [from, many] = head === "mean" ? [0, heads.length] : [j, 1];
      if (from < 0) return;
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.strokeRect(LABELS + from * wide - 2, top + i * tall - 2, many * wide + 2, tall + 2);
    };
    if (this.pointed) ring(this.pointed.layer, this.pointed.head, palette.soft, 1);
    if (other) ring(other.layer, other.head, palette.second, 2);
    ring(chosen.layer, chosen.head, palette.accent, 2);
  }

  at(event) {
    if (!this.page) return null;
    const box = this.canvas.getBoundingClientRect();
    const j = Math.floor((event.clientX - box.left - LABELS) / this.wide);
    const i = Math.floor((event.clientY - box.top - LABELS + 6) / this.tall);
    const { layers, heads } = this.page.facts;
    return layers[i] === undefined || heads[j] === undefined || j < 0 ? null : { layer: layers[i], head: heads[j], i, j };
  }

  point(event) {
    const found = event && this.at(event);
    const changed = found?.layer !== this.pointed?.layer || found?.head !== this.pointed?.head;
    this.pointed = found;
    this.tip.hidden = !found;
    if (found) {
      const role = this.roles?.get(`${found.layer}/${found.head}`);
      this.tip.textContent = headTitle(found.layer, found.head) + (role ? ` · ${role}` : "");
      const under = LABELS + (found.i + 1) * this.tall;
      Object.assign(this.tip.style, { top: `${under}px`, left: `${Math.min(LABELS + found.j * this.wide, this.size[0] - 150)}px` });
    }
    if (changed) this.hooks.changed();
  }

  close() {
    this.control?.abort();
  }
}

export class HeadList {
  constructor(choose) {
    this.choose = choose;
    this.element = element("nav", "att-heads", null, { "aria-label": "named heads" });
  }

  show(answer) {
    this.element.replaceChildren(element("h2", "", "Named heads"));
    const groups = new Map();
    for (const one of answer.heads) groups.set(one.role, [...(groups.get(one.role) ?? []), one]);
    if (!groups.size) this.element.append(element("p", "att-note", "no head has a role that attlas knows"));
    const place = (role) => (ORDER.includes(role) ? ORDER.indexOf(role) : -1);
    for (const role of [...groups.keys()].sort((a, b) => place(a) - place(b))) {
      const heads = groups.get(role);
      const block = element("div", "att-role");
      const name = element("h3", "", role.replace(/_/g, " "), { title: answer.roles?.[role] ?? "" });
      const links = element("div", "att-links");
      links.append(...heads.slice(0, FEW).map((one) => this.link(one)));
      if (heads.length > FEW) {
        const more = element("button", "att-more", `+${heads.length - FEW}`, { type: "button", title: `all ${heads.length}` });
        more.addEventListener("click", () => {
          more.replaceWith(...heads.slice(FEW).map((one) => this.link(one)));
          this.mark(this.marked);
        });
        links.append(more);
      }
      block.append(name, links);
      this.element.append(block);
    }
  }

  link({ layer, head, role, score }) {
    const words = `${headTitle(layer, head)}: ${role} ${score === null ? "" : Number(score).toFixed(2)}`;
    const button = element("button", "att-link", `${layer}.${head}`, { type: "button", title: words, "aria-label": words });
    button.dataset.name = `${layer}/${head}`;
    button.addEventListener("click", (event) => this.choose(layer, head, event.shiftKey));
    return button;
  }

  mark(name) {
    this.marked = name;
    for (const button of this.element.querySelectorAll(".att-link")) {
      button.toggleAttribute("data-chosen", button.dataset.name === name);
    }
  }
}
