// What is shown, as named values: in the URL, in a notebook's traits, both ways.

const text = {
  read: (given) => String(given),
  write: (value) => value,
};
const whole = {
  read: (given) => (/^-?\d+$/.test(String(given)) ? Number(given) : null),
  write: (value) => String(value),
};
const headName = {
  read: (given) => (given === "mean" ? "mean" : whole.read(given)),
  write: (value) => String(value),
};
const number = {
  read: (given) => (Number.isFinite(Number(given)) ? Number(given) : null),
  write: (value) => String(value),
};
const yes = {
  read: (given) => given === true || given === "true" || given === "1",
  write: (value) => (value ? "1" : "0"),
};
const range = {
  read(given) {
    const pair = Array.isArray(given) ? given.map(Number) : String(given).split("..").map(Number);
    return pair.length === 2 && pair.every(Number.isFinite) && pair[0] < pair[1] ? pair : null;
  },
  write: (value) => value.map((place) => Math.round(place * 100) / 100).join(".."),
};

function choice(...options) {
  return { read: (given) => (options.includes(given) ? given : null), write: (value) => value };
}

// name -> [its type, its value where nothing is said]
export const FIELDS = {
  atlas: [text, ""],
  document: [text, ""],
  kind: [text, ""],
  layer: [whole, null],
  head: [headName, null],
  query_span: [range, null], // [from, to) of what is seen; null: all
  key_span: [range, null],
  row: [whole, null], // the query whose row is locked
  column: [whole, null], // the key whose column is locked
  show: [choice("map", "lines"), "map"],
  pool: [choice("max", "mass"), "max"],
  scale: [choice("log", "linear"), "log"],
  low: [number, 1e-4],
  high: [number, 1],
  colours: [choice("viridis", "cividis", "grey"), "viridis"],
  strips: [yes, true],
  theme: [choice("auto", "light", "dark"), "auto"],
  find: [text, ""],
  compare: [choice("", "beside", "difference"), ""],
  other_atlas: [text, ""],
  other_document: [text, ""],
  other_layer: [whole, null],
  other_head: [headName, null],
};
const NEW_PAGE = new Set(["atlas", "document", "kind", "layer", "head", "compare", "show"]);

export function same(a, b) {
  return JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
}

export function readField(name, given) {
  const [type, usual] = FIELDS[name];
  return given === null || given === undefined ? usual : type.read(given) ?? usual;
}

export function toHash(values) {
  const out = new URLSearchParams();
  for (const [name, [type, usual]] of Object.entries(FIELDS)) {
    const value = values[name];
    if (value !== undefined && value !== null && !same(value, usual)) out.set(name, type.write(value));
  }
  return out.toString();
}

export function fromHash(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  return Object.fromEntries(Object.keys(FIELDS).map((name) => [name, readField(name, given.get(name))]));
}

// whether going from one to the other is a step that "back" should undo
export function isStep(before, after) {
  return [...NEW_PAGE].some((name) => before[name] !== null && before[name] !== "" && !same(before[name], after[name]));
}

export class State {
  constructor(model) {
    this.model = model;
    this.values = {};
    this.listeners = new Set();
    this.heard = [];
    for (const name of Object.keys(FIELDS)) {
      this.values[name] = readField(name, model.get(name));
      const hear = () => this.take({ [name]: readField(name, model.get(name)) });
      this.heard.push([`change:${name}`, hear]);
      model.on(`change:${name}`, hear);
    }
  }

  get(name) {
    return this.values[name];
  }

  // from the page: kept, told to the model, and listeners called once
  set(patch) {
    const changed = this.take(patch, false);
    if (!changed.length) return;
    for (const name of changed) this.model.set(name, this.values[name]);
    this.model.save_changes();
    this.tell(changed);
  }

  take(patch, tell = true) {
    const changed = Object.keys(patch).filter((name) => name in FIELDS && !same(this.values[name], patch[name]));
    for (const name of changed) this.values[name] = patch[name];
    if (tell && changed.length) this.tell(changed);
    return changed;
  }

  tell(changed) {
    const names = new Set(changed);
    for (const listener of this.listeners) listener(names);
  }

  listen(listener) {
    this.listeners.add(listener);
  }

  close() {
    for (const [event, hear] of this.heard) this.model.off?.(event, hear);
    this.listeners.clear();
  }
}
