// Tiles of one head, or of the difference of two: asked for while they are on screen, kept while there is room.

import { isAborted } from "./ask.js";
import { differenceCode, floatsOfHalves } from "./colour.js";

export const TILE = 256;
const TILES_AT_ONCE = 6;
const MOST_KEPT = 320; // tiles, a third of a megabyte each

export class Tile {
  constructor(codes, rows, columns) {
    Object.assign(this, { codes, rows, columns, canvas: null, table: null });
  }

  // a canvas of the tile's blocks, a pixel each, painted again where the colours have changed
  painted(table) {
    if (this.table !== table) {
      this.canvas ??= Object.assign(document.createElement("canvas"), { width: this.columns, height: this.rows });
      const context = this.canvas.getContext("2d");
      const image = context.createImageData(this.columns, this.rows);
      const pixels = new Uint32Array(image.data.buffer);
      const { codes } = this;
      for (let i = 0; i < pixels.length; i += 1) pixels[i] = table[codes[i]];
      context.putImageData(image, 0, 0);
      this.table = table;
    }
    return this.canvas;
  }

  code(row, column) {
    return row < this.rows && column < this.columns ? this.codes[row * this.columns + column] : 0;
  }
}

// heads: one `where` {atlas, document, kind, layer, head}, or two, of which the difference is shown
export class TileSource {
  constructor(asker, heads, pool, changed, failed) {
    Object.assign(this, { asker, heads, pool, changed, failed });
    this.kept = new Map(); // in the order of use
    this.pending = new Map(); // key -> AbortController
    this.refused = new Set();
    this.difference = heads.length === 2;
  }

  static key(level, row, column) {
    return `${level}/${row}/${column}`;
  }

  get(level, row, column) {
    const key = TileSource.key(level, row, column);
    const tile = this.kept.get(key);
    if (tile) {
      this.kept.delete(key);
      this.kept.set(key, tile);
    }
    return tile;
  }

  // [[level, row, column]] on screen, the most wanted first: asks for them, and drops what is asked and gone
  want(list) {
    const keys = new Set(list.map((place) => TileSource.key(...place)));
    for (const [key, control] of this.pending) {
      if (!keys.has(key)) {
        this.pending.delete(key);
        control.abort();
      }
    }
    for (const place of list) {
      const key = TileSource.key(...place);
      if (this.pending.size >= TILES_AT_ONCE) break;
      if (!this.kept.has(key) && !this.pending.has(key) && !this.refused.has(key)) this.fetch(key, place);
    }
  }

  async fetch(key, [level, row, column]) {
    const control = new AbortController();
    this.pending.set(key, control);
    try {
      this.keep(key, await this.load(level, row, column, control.signal));
    } catch (error) {
      if (isAborted(error)) return;
      this.refused.add(key);
      this.failed(error, () => this.again());
    }
    if (this.pending.get(key) === control) this.pending.delete(key);
    this.changed();
  }

  async load(level, row, column, signal) {
    const args = { level, row, column, pool: this.pool };
    if (!this.difference) {
      const { data, buffers } = await this.asker.ask("tile", { ...this.heads[0], ...args, format: "u8" }, signal);
      return new Tile(buffers[0], ...data.shape);
    }
    const both = await Promise.all(
      this.heads.map((head) => this.asker.ask("tile", { ...head, ...args, format: "f16" }, signal)),
    );
    const [a, b] = both.map(({ data, buffers }) => ({ shape: data.shape, values: floatsOfHalves(buffers[0]) }));
    const [rows, columns] = [0, 1].map((axis) => Math.min(a.shape[axis], b.shape[axis]));
    const codes = new Uint8Array(rows * columns);
    for (let i = 0; i < rows; i += 1) {
      for (let j = 0; j < columns; j += 1) {
        codes[i * columns + j] = differenceCode(a.values[i * a.shape[1] + j] - b.values[i * b.shape[1] + j]);
      }
    }
    return new Tile(codes, rows, columns);
  }

  keep(key, tile) {
    this.kept.set(key, tile);
    for (const oldest of this.kept.keys()) {
      if (this.kept.size <= MOST_KEPT) break;
      this.kept.delete(oldest);
    }
  }

  again() {
    this.refused.clear();
    this.changed();
  }

  close() {
    for (const control of this.pending.values()) control.abort();
    this.pending.clear();
  }
}
