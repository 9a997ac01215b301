// What is pointed at, in words; a row or a column as coloured text of the document, and its largest weights in order.

import { floatsOf, isAborted } from "./ask.js";
import { count, element, headTitle, label, quoted, weight } from "./format.js";

const WHOLE = 640; // tokens up to which all of a text is shown
const AROUND = 28; // tokens on both sides of a place, beyond
const PASSAGES = 12;
const LARGEST_FEW = 24;

export class Reader {
  // hooks: lock({row, column}), go(query, key), failed(error, again), say(words)
  constructor(hooks) {
    this.hooks = hooks;
    this.element = element("aside", "att-reader", null, { "aria-label": "what is pointed at, and what it reads" });
    this.readout = element("div", "att-readout");
    this.number = element("div", "att-number", "–");
    this.how = element("div", "att-how", "point at the map");
    this.places = element("div", "att-places");
    this.readout.append(this.number, this.how, this.places);
    this.head = element("div", "att-reader-head");
    this.title = element("h2", "", "");
    this.by = element("div", "att-segment", null, { role: "group", "aria-label": "row or column" });
    this.buttons = {};
    for (const [name, words, why] of [
      ["row", "reads", "a row: what this token reads"],
      ["column", "is read by", "a column: which tokens read this one"],
    ]) {
      const button = element("button", "", words, { type: "button", title: why });
      button.addEventListener("click", () => this.hooks.turn(name));
      this.buttons[name] = button;
      this.by.append(button);
    }
    this.release = element("button", "att-release", "locked · release", { type: "button", title: "Escape releases it too" });
    this.release.addEventListener("click", () => this.hooks.lock({ row: null, column: null }));
    this.head.append(this.title, this.by, this.release);
    this.ranked = element("ol", "att-ranked", null, { "aria-label": "largest weights" });
    this.text = element("div", "att-text", null, { "aria-label": "the text, coloured by weight" });
    this.hint = element("p", "att-note", "Point at the map to see a weight. Click to lock the row under the pointer; click again, or press Escape, to release it.");
    this.element.append(this.readout, this.head, this.hint, this.ranked, this.text);
    this.text.addEventListener("click", (event) => {
      const place = event.target.closest?.("[data-place]")?.dataset.place;
      if (place !== undefined) this.hooks.lock(this.by.dataset.by === "column" ? { row: null, column: Number(place) } : { row: Number(place), column: null });
    });
    this.ranked.addEventListener("click", (event) => {
      const one = event.target.closest?.("[data-query]");
      if (one) this.hooks.go(Number(one.dataset.query), Number(one.dataset.key));
    });
    this.clear();
  }

  turn(by) {
    this.by.dataset.by = by;
    for (const [name, button] of Object.entries(this.buttons)) button.setAttribute("aria-pressed", String(name === by));
  }

  // the readout. told: {value, how, exact, query, key, queryToken, keyToken}
  tell(told) {
    const { dataset } = this.readout;
    if (!told) {
      this.number.textContent = "–";
      this.how.textContent = "point at the map";
      this.places.replaceChildren();
      for (const name of ["query", "key", "weight", "exact"]) delete dataset[name];
      return;
    }
    this.number.textContent = told.number ?? weight(told.value);
    this.how.textContent = told.how;
    this.places.replaceChildren(
      place("query", told.query, told.queryToken, told.queryRange),
      place("key", told.key, told.keyToken, told.keyRange),
    );
    Object.assign(dataset, { query: told.query, key: told.key, weight: String(told.value), exact: String(Boolean(told.exact)) });
  }

  clear() {
    this.control?.abort();
    this.shown = null;
    this.title.textContent = "";
    this.head.hidden = true;
    this.hint.hidden = false;
    this.ranked.replaceChildren();
    this.text.replaceChildren();
    delete this.element.dataset.by;
    delete this.element.dataset.place;
  }

  // a row ("row", a query, by its place in the document) or a column ("column", a key) of one head
  async show(asker, page, layer, head, by, at, locked) {
    const name = JSON.stringify([page.where, layer, head, by, at]);
    this.release.hidden = !locked;
    this.element.toggleAttribute("data-locked", locked);
    if (name === this.shown) return;
    this.control?.abort();
    this.control = new AbortController();
    const { signal } = this.control;
    this.shown = name;
    delete this.element.dataset.by; // until what is shown is this one
    const args = { ...page.where, layer, head, top: LARGEST_FEW, ...(by === "row" ? { query: page.row(at) } : { key: at }) };
    try {
      const { data, buffers } = await asker.ask(by, args, signal);
      const weights = floatsOf(buffers[0]);
      await this.fill(page, layer, head, by, at, data, weights, signal);
    } catch (error) {
      if (isAborted(error) || signal.aborted) return;
      this.shown = null;
      this.hooks.failed(error, () => this.show(asker, page, layer, head, by, at, locked));
    }
  }

  async fill(page, layer, head, by, at, data, weights, signal) {
    const tokens = by === "row" ? page.keyTokens : page.queryTokens;
    const places = by === "column" ? page.places : null;
    const parts = passages(weights, by === "row" && page.facts.same_axis ? at : null);
    await Promise.all(parts.map(([first, end]) => tokens.wait(first, end)));
    if (signal.aborted) return;
    this.head.hidden = false;
    this.hint.hidden = true;
    this.turn(by);
    const words = by === "row" ? "query" : "key";
    this.title.textContent = `${words} ${count(at)} ${quoted(data.token)}`;
    this.title.title = headTitle(layer, head);
    const [seenFrom, seenEnd] = by === "row" && data.seen ? data.seen : [0, weights.length];
    this.ranked.replaceChildren(
      ...data.top.map((one) => {
        const [query, key] = by === "row" ? [at, one.key] : [page.query(one.query), at];
        const item = element("li", "", null, { "data-query": query, "data-key": key, title: "show it on the map" });
        const bar = element("i");
        bar.style.width = `${Math.max(one.weight * 100, 0.5)}%`;
        item.append(element("b", "", weight(one.weight)), tokenSpan(one.token), element("span", "att-at", count(by === "row" ? key : query)), bar);
        return item;
      }),
    );
    const text = document.createDocumentFragment();
    parts.forEach(([first, end], i) => {
      const whole = parts.length === 1 && first === 0 && end === weights.length;
      const part = element("p", whole ? "" : "att-passage");
      if (!whole) part.append(element("span", "att-where", count(places ? places[first] : first)));
      tokens.range(first, end).forEach((token, j) => {
        const place = first + j;
        const value = weights[place];
        const span = element("span", "att-token", shownText(token), { "data-place": places ? places[place] : place });
        if (by === "row" && (place < seenFrom || place >= seenEnd)) span.classList.add("att-unseen");
        else if (value > 0) {
          const strength = Math.sqrt(Math.min(value, 1));
          span.style.setProperty("--w", `${(strength * 100).toFixed(1)}%`);
          if (strength > 0.6) span.classList.add("att-strong");
          span.title = `${weight(value)} · ${by === "row" ? "key" : "query"} ${count(place)}`;
        }
        if ((places ? places[place] : place) === at && page.facts.same_axis) span.classList.add("att-own");
        part.append(span);
      });
      text.append(part);
      if (i < parts.length - 1) text.append(element("p", "att-gap", "⋯"));
    });
    this.text.replaceChildren(text);
    const some = tokens.range(...parts[0]); // without a tokenizer, tokens are numbers
    this.text.classList.toggle("att-apart", some.every((token) => /^\d+$/.test(token ?? "")));
    this.element.dataset.by = by;
    this.element.dataset.place = at;
    const first = data.top[0];
    if (first && !this.hooks.pointed()) {
      const [query, key] = by === "row" ? [at, first.key] : [page.query(first.query), at];
      const [queryToken, keyToken] = by === "row" ? [data.token, first.token] : [first.token, data.token];
      this.tell({ value: first.weight, how: `largest of this ${by}, exact`, exact: true, query, key, queryToken, keyToken });
    }
    if (first) this.hooks.say(`${words} ${at} ${quoted(data.token)}: largest weight ${weight(first.weight)}, ${by === "row" ? `key ${first.key}` : `query ${first.query}`} ${quoted(first.token)}`);
  }
}

function shownText(token) {
  return token ?? "";
}

function tokenSpan(token) {
  const { dot, text } = label(token, 22);
  const span = element("span", "att-word");
  if (dot) span.append(element("span", "att-dot", "·"));
  span.append(document.createTextNode(text));
  return span;
}

function place(name, at, token, range) {
  const line = element("div", "att-place");
  line.append(element("span", "att-axis", name), element("span", "att-pos", range ?? (at === null ? "" : count(at))));
  if (token !== null && token !== undefined) line.append(tokenSpan(token));
  return line;
}

// stretches of the text that are worth reading: all of a short one, else around the largest weights
function passages(weights, own) {
  if (weights.length <= WHOLE) return [[0, weights.length]];
  const order = Array.from(weights.keys()).filter((i) => weights[i] > 1e-4).sort((a, b) => weights[b] - weights[a]);
  const centres = [...order.slice(0, PASSAGES), ...(own === null ? [] : [own])].sort((a, b) => a - b);
  const out = [];
  for (const centre of centres.length ? centres : [0]) {
    const [first, end] = [Math.max(centre - AROUND, 0), Math.min(centre + AROUND, weights.length)];
    const last = out[out.length - 1];
    if (last && first <= last[1] + 4) last[1] = Math.max(last[1], end);
    else out.push([first, end]);
  }
  return out;
}
