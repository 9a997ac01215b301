// A model within the file: answers the viewer's questions from what the file carries, and asks nobody.
//
// The exact weights of some heads, thumbnails of all; what a file does not carry it refuses, and says how to get it.

import { fromHash, same, toHash } from "./state.js";

const SIDE = 256;

class Refused extends Error {}

function bytesOfText(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function inflated(text) {
  const stream = new Blob([bytesOfText(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// float32 numbers that were kept as four planes: all first bytes, all second bytes, ...
function floatsOfPlanes(planes) {
  const count = planes.length / 4;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < 4; plane += 1) {
    for (let i = 0; i < count; i += 1) bytes[4 * i + plane] = planes[plane * count + i];
  }
  return new Float32Array(bytes.buffer);
}

function codeOf(weight) {
  if (Number.isNaN(weight)) return 0;
  return weight <= 1e-5 ? 1 : Math.min(1 + Math.round((254 * (Math.log10(weight) + 5)) / 5), 255);
}

function halfOf(value) {
  if (Number.isNaN(value)) return 0x7e00;
  if (value < 2 ** -14) return Math.round(value / 2 ** -24); // weights are never below 0
  let power = Math.floor(Math.log2(value));
  let rest = Math.round((value / 2 ** power - 1) * 1024);
  if (rest === 1024) [power, rest] = [power + 1, 0];
  return ((power + 15) << 10) | rest;
}

function encoded(values, format) {
  if (format === "u8") return Uint8Array.from(values, codeOf);
  return format === "f16" ? Uint16Array.from(values, halfOf) : Float32Array.from(values);
}

// One head's weights, row after row within the key intervals.
class ExactHead {
  constructor(values, start, stop) {
    Object.assign(this, { values, start, stop });
    this.offset = new Float64Array(start.length);
    for (let i = 1; i < start.length; i += 1) this.offset[i] = this.offset[i - 1] + stop[i - 1] - start[i - 1];
  }

  // NaN where masked
  cell(query, key) {
    const seen = this.start[query] <= key && key < this.stop[query];
    return seen ? this.values[this.offset[query] + key - this.start[query]] : NaN;
  }

  // {shape, values}: blocks by their largest weight, or their mass; NaN where masked
  tile(level, row, column, pool, queries, keys) {
    const block = 2 ** level;
    const size = SIDE * block;
    const [q0, q1] = [row * size, Math.min(queries, (row + 1) * size)];
    const [k0, k1] = [column * size, Math.min(keys, (column + 1) * size)];
    const [rows, columns] = [Math.ceil((q1 - q0) / block), Math.ceil((k1 - k0) / block)];
    const values = new Float64Array(rows * columns).fill(NaN);
    for (let query = q0; query < q1; query += 1) {
      const first = Math.max(this.start[query], k0);
      const end = Math.min(this.stop[query], k1);
      const at = Math.floor((query - q0) / block) * columns;
      for (let key = first; key < end; key += 1) {
        const place = at + Math.floor((key - k0) / block);
        const weight = this.values[this.offset[query] + key - this.start[query]];
        if (Number.isNaN(values[place])) values[place] = 0;
        if (pool === "mass") values[place] += weight;
        else if (weight > values[place]) values[place] = weight;
      }
    }
    if (pool === "mass") {
      for (let i = 0; i < values.length; i += 1) {
        values[i] /= Math.min(block, q1 - q0 - Math.floor(i / columns) * block);
      }
    }
    return { shape: [rows, columns], values, queries: [q0, q1], keys: [k0, k1], block };
  }
}

class FileModel {
  constructor(carried) {
    this.carried = carried;
    this.listeners = new Map();
    this.values = fromHash(location.hash);
    this.heads = new Map(); // "layer.head" -> promise of an ExactHead
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    if (same(this.values[name], value)) return;
    this.values[name] = value;
    this.fire(`change:${name}`);
  }

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  off(event, listener) {
    this.listeners.set(event, (this.listeners.get(event) ?? []).filter((one) => one !== listener));
  }

  fire(event, ...given) {
    for (const listener of this.listeners.get(event) ?? []) listener(...given);
  }

  save_changes() {
    try {
      history.replaceState(null, "", `#${toHash(this.values)}`);
    } catch {
      // a browser that keeps files from their own address
    }
  }

  async send(message) {
    if (message.op === "cancel") return;
    const { id, op, ...args } = message;
    try {
      const answer = this[`answer_${op}`];
      if (!answer) throw new Refused(`this file does not answer "${op}": ask the server of the atlas, attlas view`);
      const [data, buffers = []] = await answer.call(this, args);
      this.fire("msg:custom", { id, ok: true, data }, buffers);
    } catch (error) {
      const told = { type: error instanceof Refused ? "InputError" : "FileError", message: error.message, status: 422 };
      this.fire("msg:custom", { id, ok: false, error: told }, []);
    }
  }

  get facts() {
    return this.carried.document.kinds[this.carried.kind];
  }

  // the weights of a head, unpacked when first asked for
  head({ layer, head }) {
    const name = `${layer}.${head}`;
    const found = this.carried.exact[name];
    if (!found) {
      throw new Refused(`layer ${layer}, head ${head} is a thumbnail alone in this file: export it again with --head ${name}`);
    }
    if (!this.heads.has(name)) {
      const unpack = async () => {
        const bounds = new Int32Array((await inflated(this.carried.intervals[found.intervals])).buffer);
        const half = bounds.length / 2;
        return new ExactHead(floatsOfPlanes(await inflated(found.weights)), bounds.subarray(0, half), bounds.subarray(half));
      };
      this.heads.set(name, unpack());
    }
    return this.heads.get(name);
  }

  place(given, axis, size) {
    if (!Number.isInteger(given) || given < 0 || given >= size) {
      throw new Refused(`${axis} is ${given}: the document has ${size}, counted from 0`);
    }
    return given;
  }

  largest(values, axis, top) {
    const places = [...values.keys()].filter((place) => !Number.isNaN(values[place]));
    places.sort((a, b) => values[b] - values[a] || a - b);
    const tokens = this.carried.tokens[axis].tokens;
    return places.slice(0, top).map((place) => ({ [axis]: place, token: tokens[place], weight: values[place] }));
  }

  answer_info() {
    return [this.carried.info];
  }

  answer_documents({ text = "" }) {
    const documents = this.carried.documents.filter((one) => one.id.toLowerCase().includes((text ?? "").toLowerCase()));
    return [{ total: documents.length, documents }];
  }

  answer_document() {
    return [this.carried.document];
  }

  answer_heads() {
    return [this.carried.heads];
  }

  answer_tokens({ axis = "key", start = 0, stop = null }) {
    const all = this.carried.tokens[axis];
    const end = Math.min(stop ?? all.total, all.total);
    const special = all.special.filter((place) => place >= start && place < end);
    const word = all.word?.slice(start, end) ?? null;
    return [{ start, total: all.total, tokens: all.tokens.slice(start, end), special, word }];
  }

  answer_find({ text, axis = "key", limit = 1000 }) {
    const { tokens } = this.carried.tokens[axis];
    const fold = text === text.toLowerCase() ? (token) => token.toLowerCase() : (token) => token;
    const ends = [];
    let whole = "";
    for (const token of tokens) {
      whole += fold(token);
      ends.push(whole.length);
    }
    const tokenAt = (letter) => ends.findIndex((end) => end > letter);
    const places = [];
    let total = 0;
    for (let at = whole.indexOf(text); at >= 0; at = whole.indexOf(text, at + text.length)) {
      total += 1;
      if (places.length < limit) places.push([tokenAt(at), tokenAt(at + text.length - 1) + 1]);
    }
    return [{ total, places, tokens: places.map(([first, end]) => tokens.slice(first, end)) }];
  }

  async answer_thumbnails({ layer = null, head = null }) {
    const { codes, ...data } = this.carried.thumbnails;
    this.codes ??= inflated(codes);
    const bytes = await this.codes;
    if (layer === null) return [data, [bytes]];
    const size = bytes.length / data.layers.length;
    const place = data.layers.indexOf(layer);
    const of = { ...data, layers: [layer], shape: [1, ...data.shape.slice(1)] };
    if (head === null) return [of, [bytes.subarray(place * size, (place + 1) * size)]];
    const begin = place * size + (data.heads.indexOf(head) * size) / data.heads.length;
    const shape = [1, 1, ...data.shape.slice(2)];
    return [{ ...of, heads: [head], shape }, [bytes.subarray(begin, begin + size / data.heads.length)]];
  }

  async answer_tile({ level = 0, row = 0, column = 0, pool = "max", format = "u8", ...where }) {
    const head = await this.head(where);
    const { values, ...data } = head.tile(level, row, column, pool, this.facts.queries, this.facts.keys);
    const made = encoded(values, format);
    const dtype = { u8: "uint8", f16: "float16", f32: "float32" }[format];
    const scale = format === "u8" ? { kind: "log", low: 1e-5, high: 1 } : null;
    return [{ ...data, dtype, scale, source: "weights" }, [made]];
  }

  async answer_row({ query, top = 20, ...where }) {
    const head = await this.head(where);
    const { queries, keys } = this.facts;
    this.place(query, "query", queries);
    const values = Float32Array.from({ length: keys }, (_, key) => head.cell(query, key));
    const seen = [head.start[query], head.stop[query]];
    const token = this.carried.tokens.query.tokens[query];
    return [{ query, token, seen, top: this.largest(values, "key", top) }, [values]];
  }

  async answer_column({ key, top = 20, ...where }) {
    const head = await this.head(where);
    const { queries, keys } = this.facts;
    this.place(key, "key", keys);
    const values = Float32Array.from({ length: queries }, (_, query) => head.cell(query, key));
    const token = this.carried.tokens.key.tokens[key];
    return [{ key, token, top: this.largest(values, "query", top) }, [values]];
  }

  async answer_cell({ query, key, ...where }) {
    const head = await this.head(where);
    const { queries, keys } = this.facts;
    const weight = head.cell(this.place(query, "query", queries), this.place(key, "key", keys));
    const [query_token, key_token] = [this.carried.tokens.query.tokens[query], this.carried.tokens.key.tokens[key]];
    return [{ query, key, weight: weight || 0, seen: !Number.isNaN(weight), query_token, key_token }];
  }

  async answer_statistics({ names = ["entropy"], ...where }) {
    const known = this.carried.statistics[`${where.layer}.${where.head}`];
    if (!known) await this.head(where); // says so
    const found = names.map((name) => known[name]);
    if (found.some((one) => !one)) throw new Refused(`this file has entropy and received of its heads: see attlas stats for the rest`);
    const buffers = await Promise.all(found.map((one) => inflated(one.values).then(floatsOfPlanes)));
    return [{ names, units: found.map((one) => one.unit), definitions: found.map((one) => one.definition) }, buffers];
  }
}

const main = document.getElementById("viewer");
main.dataset.host = "page";
main.model = new FileModel(JSON.parse(document.getElementById("carried").textContent));
viewer.render({ model: main.model, el: main });
