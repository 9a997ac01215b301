// The map of one head: tiles, tokens on both axes, statistics along them, what is locked and what is pointed at.

import { isAborted } from "./ask.js";
import { makeTable, valueOf, differenceOf } from "./colour.js";
import { count, element, label, oneLine, roundStep } from "./format.js";
import { drawLines } from "./lines.js";
import { CanvasPen } from "./pen.js";
import { Tile, TILE, TileSource } from "./tiles.js";

const LEFT = 118;
const SHORT = 62; // beside a map of the same text, where its positions are enough
const BOTTOM = 78;
const TOP = 36;
const RIGHT = 46;
const STRIP = 24;
const SKETCHED = 4; // levels of a map that is sketched before it is computed
const READABLE = 9.5; // pixels a token from which each has its own label

export class MapPane {
  // hooks: changed(), failed(error, again), thumbnail(head): of a head, to be seen until its tiles are there
  constructor(camera, state, hooks) {
    Object.assign(this, { camera, state, hooks });
    this.element = element("section", "att-pane");
    this.header = element("header", "att-pane-head");
    this.canvas = element("canvas", "att-map", null, {
      tabindex: "0",
      role: "img",
      "aria-label": "attention map; arrows move it, plus and minus zoom, question mark lists all keys",
    });
    this.element.append(this.header, this.canvas);
    this.source = null;
    this.page = null;
    this.pointed = null; // {query, key} under the pointer, rows and columns of the map
    this.statistics = {};
    this.table = null;
  }

  // heads: [{page, layer, head}], the second being subtracted where there are two
  show(asker, heads, pool) {
    const name = JSON.stringify([heads.map(({ page, layer, head }) => [page.where, layer, head]), pool]);
    if (name === this.name) return;
    this.name = name;
    this.source?.close();
    this.heads = heads;
    this.page = heads[0].page;
    const where = heads.map(({ page, layer, head }) => ({ ...page.where, layer, head }));
    this.source = new TileSource(asker, where, pool, this.hooks.changed, this.hooks.failed);
    this.statistics = {};
    this.table = null;
    this.element.dataset.layer = heads[0].layer;
    this.element.dataset.head = heads[0].head;
    this.element.dataset.document = this.page.where.document;
    this.element.dataset.kind = this.page.where.kind;
    this.element.dataset.missing = "all";
    this.sketch = null;
    this.control?.abort();
    this.control = null;
    const long = this.page.facts.top_level >= SKETCHED && pool === "max";
    if (long && heads.length === 1 && heads[0].head !== "mean") this.takeSketch(asker, where[0]);
  }

  // a map of long text takes seconds: some of its rows are seen before, and are said to be some
  async takeSketch(asker, where) {
    const control = new AbortController();
    this.control = control;
    try {
      const { data, buffers } = await asker.ask("thumbnails", { ...where, cells: TILE }, control.signal);
      if (this.control !== control) return;
      const [, , rows, columns] = data.shape;
      this.sketch = { tile: new Tile(buffers[0], rows, columns), rows: data.sampled_rows };
    } catch (error) {
      if (isAborted(error)) return; // else the map itself fails as well, and says why
    }
    if (this.control !== control) return;
    this.control = null;
    this.hooks.changed();
  }

  recolour() {
    this.table = null;
  }

  // the map's own rectangle, in pixels of the pane
  inner(width = this.width, height = this.height) {
    const strips = this.state.get("strips");
    const top = strips ? TOP : 10;
    const right = strips ? RIGHT : 12;
    const left = this.brief ? SHORT : LEFT;
    return { x: left, y: top, w: Math.max(width - left - right, 40), h: Math.max(height - top - BOTTOM, 40) };
  }

  measure() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    const top = this.header.offsetHeight;
    const [width, height] = [Math.max(Math.floor(box.width), 200), Math.max(Math.floor(box.height - top), 160)];
    const density = window.devicePixelRatio || 1;
    if (width !== this.width || height !== this.height || density !== this.density) {
      Object.assign(this, { width, height, density });
      this.canvas.width = Math.round(width * density);
      this.canvas.height = Math.round(height * density);
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
    }
    const { w, h } = this.inner();
    return [w, h];
  }

  level() {
    return this.camera.level(this.page.facts.top_level, this.density || 1);
  }

  // what lies under a place of the pane: rows and columns of the map, and the block that is drawn there
  cellAt(px, py) {
    const { x, y, w, h } = this.inner();
    if (!this.page || px < x || py < y || px >= x + w || py >= y + h) return null;
    const key = Math.floor(this.camera.x + (px - x) / this.camera.sx);
    const query = Math.floor(this.camera.y + (py - y) / this.camera.sy);
    const { queries, keys } = this.page.facts;
    if (key < 0 || query < 0 || key >= keys || query >= queries) return null;
    return this.block(query, key);
  }

  block(query, key) {
    const { queries, keys } = this.page.facts;
    const level = this.level();
    const size = 1 << level;
    const [row, column] = [query >> level, key >> level];
    const tile = this.source.get(level, Math.floor(row / TILE), Math.floor(column / TILE));
    const read = this.source.difference ? differenceOf : valueOf;
    const unseen = this.page.unseen(column * size, Math.min((row + 1) * size, queries));
    return {
      query,
      key,
      level,
      queries: [row * size, Math.min((row + 1) * size, queries)],
      keys: [column * size, Math.min((column + 1) * size, keys)],
      value: tile ? read(tile.code(row % TILE, column % TILE)) : unseen ? null : undefined,
    };
  }

  // of the tiles on screen, the block of the largest weight that is neither on the first keys nor near the diagonal
  strongest() {
    const level = this.level();
    const { queries, keys } = this.page.facts;
    let best = null;
    for (let row = 0; row << level < queries / TILE; row += 1) {
      for (let column = 0; column << level < keys / TILE; column += 1) {
        const tile = this.source.kept.get(TileSource.key(level, row, column));
        if (!tile) continue;
        for (let i = 0; i < tile.rows; i += 1) {
          for (let j = 0; j < tile.columns; j += 1) {
            const [r, c] = [row * TILE + i, column * TILE + j];
            if (c === 0 || Math.abs(r - c) < 3 || tile.code(i, j) <= (best?.code ?? 1)) continue;
            best = { code: tile.code(i, j), r, c };
          }
        }
      }
    }
    return best && this.block(Math.min(best.r << level, queries - 1), Math.min(best.c << level, keys - 1));
  }

  draw(palette) {
    if (!this.page) return;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.density, 0, 0, this.density, 0, 0);
    this.paint(new CanvasPen(context), this.width, this.height, palette);
    Object.assign(this.element.dataset, { level: this.level(), missing: this.missing, shown: this.shown });
  }

  // all of a pane with a pen; asks for the tiles that it lacks
  paint(pen, width, height, palette) {
    this.table ??= makeTable(settingsOf(this.state), palette.dark, this.source.difference);
    pen.rect(0, 0, width, height, palette.ground);
    const inner = this.inner(width, height);
    if (this.state.get("show") === "lines") {
      this.missing = drawLines(this, pen, { x: 0, y: 0, w: width, h: height }, palette);
      return;
    }
    const { camera } = this;
    const { queries, keys } = this.page.facts;
    const box = {
      x: inner.x + Math.max(0, -camera.x * camera.sx),
      y: inner.y + Math.max(0, -camera.y * camera.sy),
      right: Math.min(inner.x + (keys - camera.x) * camera.sx, inner.x + inner.w),
      bottom: Math.min(inner.y + (queries - camera.y) * camera.sy, inner.y + inner.h),
    };
    box.w = Math.max(box.right - box.x, 0);
    box.h = Math.max(box.bottom - box.y, 0);
    pen.picture(box.x, box.y, box.w, box.h, (context) => this.paintTiles(context, inner, box, palette));
    pen.frame(box.x - 0.5, box.y - 0.5, box.w + 1, box.h + 1, palette.rule);
    this.paintStrips(pen, inner, box, palette);
    this.paintQueries(pen, inner, box, palette);
    this.paintKeys(pen, inner, box, palette);
    if (this.sketch?.rows && this.missing > 0) {
      const words = `${count(this.sketch.rows)} sampled rows; all ${count(queries)} follow`;
      pen.text(box.right - 10, box.y + 16, words, palette.soft, { align: "right", size: 11.5 });
    }
    this.paintMarks(pen, inner, box, palette);
  }

  paintTiles(context, inner, box, palette) {
    const { camera, source, table, page } = this;
    const { queries, keys } = page.facts;
    const level = this.level();
    const size = TILE << level;
    const toX = (key) => Math.round((inner.x + (key - camera.x) * camera.sx) * this.density) / this.density;
    const toY = (query) => Math.round((inner.y + (query - camera.y) * camera.sy) * this.density) / this.density;
    context.imageSmoothingEnabled = false;
    context.fillStyle = palette.missing;
    context.fillRect(box.x, box.y, box.w, box.h);
    const small = this.missing === 0 || source.difference ? null : this.sketch?.tile ?? this.hooks.thumbnail(this.heads[0]);
    if (small) context.drawImage(small.painted(table), toX(0), toY(0), toX(keys) - toX(0), toY(queries) - toY(0));
    const first = (at) => Math.max(Math.floor(at / size), 0);
    const [c0, r0] = [first(camera.x), first(camera.y)];
    const c1 = Math.min(Math.ceil((camera.x + inner.w / camera.sx) / size), Math.ceil(keys / size));
    const r1 = Math.min(Math.ceil((camera.y + inner.h / camera.sy) / size), Math.ceil(queries / size));
    const wanted = [];
    let missing = 0;
    let shown = 0;
    for (let row = r0; row < r1; row += 1) {
      for (let column = c0; column < c1; column += 1) {
        const [x0, y0] = [toX(column * size), toY(row * size)];
        const [k1, q1] = [Math.min((column + 1) * size, keys), Math.min((row + 1) * size, queries)];
        shown += 1;
        if (page.unseen(column * size, q1)) {
          context.fillStyle = palette.masked;
          context.fillRect(x0, y0, toX(k1) - x0, toY(q1) - y0);
          continue;
        }
        const tile = source.get(level, row, column);
        if (tile) {
          const [x1, y1] = [toX((column * TILE + tile.columns) * (1 << level)), toY((row * TILE + tile.rows) * (1 << level))];
          context.drawImage(tile.painted(table), x0, y0, x1 - x0, y1 - y0);
          continue;
        }
        if (!source.refused.has(TileSource.key(level, row, column))) missing += 1;
        wanted.push([level, row, column]);
        this.paintOther(context, level, row, column, toX, toY);
      }
    }
    const [middleRow, middleColumn] = [(r0 + r1 - 1) / 2, (c0 + c1 - 1) / 2];
    const far = ([, row, column]) => (row - middleRow) ** 2 + (column - middleColumn) ** 2;
    wanted.sort((a, b) => far(a) - far(b));
    this.wanted = wanted;
    this.missing = missing;
    this.shown = shown;
  }

  // while a tile is missing: a coarser one that covers it, or the finer ones within it
  paintOther(context, level, row, column, toX, toY) {
    const { source, table, page } = this;
    for (let up = 1; level + up <= page.facts.top_level && up <= 8; up += 1) {
      const tile = source.get(level + up, row >> up, column >> up);
      if (!tile) continue;
      const part = TILE >> up;
      const [sx, sy] = [(column & ((1 << up) - 1)) * part, (row & ((1 << up) - 1)) * part];
      const [w, h] = [Math.min(part, tile.columns - sx), Math.min(part, tile.rows - sy)];
      if (w <= 0 || h <= 0) return;
      const size = TILE << level;
      const unit = 1 << (level + up);
      const [x0, y0] = [toX(column * size), toY(row * size)];
      context.drawImage(
        tile.painted(table), sx, sy, w, h, x0, y0, toX(column * size + w * unit) - x0, toY(row * size + h * unit) - y0,
      );
      return;
    }
    if (level === 0) return;
    const unit = 1 << (level - 1);
    for (const [dr, dc] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const [r, c] = [2 * row + dr, 2 * column + dc];
      const tile = source.get(level - 1, r, c);
      if (!tile) continue;
      const [x0, y0] = [toX(c * TILE * unit), toY(r * TILE * unit)];
      const [x1, y1] = [toX((c * TILE + tile.columns) * unit), toY((r * TILE + tile.rows) * unit)];
      context.drawImage(tile.painted(table), x0, y0, x1 - x0, y1 - y0);
    }
  }

  // asks for what the last painting lacked
  request() {
    if (!this.control) this.source?.want(this.wanted ?? []);
  }

  paintQueries(pen, inner, box, palette) {
    const { camera, page } = this;
    const [from, to] = [Math.max(Math.floor(camera.y), 0), Math.min(Math.ceil(camera.y + inner.h / camera.sy), page.facts.queries)];
    const y = (row) => inner.y + (row + 0.5 - camera.y) * camera.sy;
    const edge = box.x - 7;
    if (camera.sy >= READABLE) {
      const size = Math.min(12.5, Math.max(9.5, camera.sy * 0.8));
      const tokens = page.queryTokens.range(from, to);
      const step = roundStep(44 / camera.sy);
      for (let row = from; row < to; row += 1) {
        const at = y(row);
        if (at < inner.y - 1 || at > inner.y + inner.h + 1) continue;
        const own = row === this.pointed?.query || page.query(row) === this.state.get("row");
        if (page.query(row) % step === 0) pen.text(8, at, count(page.query(row)), palette.faint, { size: 9.5 });
        if (this.brief) continue;
        paintToken(pen, edge, at, tokens[row - from], palette, own, { align: "right", size, most: 13 });
      }
      return;
    }
    const step = roundStep(46 / camera.sy);
    for (let row = Math.ceil(from / step) * step; row < to; row += step) {
      const at = y(row);
      if (at < inner.y || at > inner.y + inner.h - 4) continue;
      pen.line(box.x - 5, at, box.x - 1, at, palette.rule);
      pen.text(edge - 1, at, count(page.query(row)), palette.soft, { align: "right", size: 11 });
      if (this.brief) continue;
      const words = oneLine(page.queryTokens.range(row, row + 7), 22);
      pen.text(edge - 1, at + 13, fitted(pen, words, LEFT - 20, 9.5), palette.faint, { align: "right", size: 9.5 });
    }
  }

  paintKeys(pen, inner, box, palette) {
    const { camera, page } = this;
    const [from, to] = [Math.max(Math.floor(camera.x), 0), Math.min(Math.ceil(camera.x + inner.w / camera.sx), page.facts.keys)];
    const x = (key) => inner.x + (key + 0.5 - camera.x) * camera.sx;
    const edge = box.bottom + 7;
    if (camera.sx >= READABLE) {
      const size = Math.min(12.5, Math.max(9.5, camera.sx * 0.8));
      const tokens = page.keyTokens.range(from, to);
      const step = roundStep(44 / camera.sx);
      for (let key = from; key < to; key += 1) {
        const at = x(key);
        if (at < inner.x - 1 || at > inner.x + inner.w + 1) continue;
        const own = key === this.pointed?.key || key === this.state.get("column");
        paintToken(pen, at + 2, edge, tokens[key - from], palette, own, { align: "right", size, most: 9, angle: -Math.PI / 3 });
        if (key % step === 0) pen.text(at, box.bottom + BOTTOM - 8, count(key), palette.faint, { align: "center", size: 9.5 });
      }
      return;
    }
    const step = roundStep(116 / camera.sx);
    const room = step * camera.sx - 14;
    for (let key = Math.ceil(from / step) * step; key < to; key += step) {
      const at = x(key);
      if (at < inner.x || at > inner.x + inner.w - 12) continue;
      pen.line(at, box.bottom + 1, at, box.bottom + 5, palette.rule);
      pen.text(at, edge + 7, count(key), palette.soft, { size: 11 });
      const words = oneLine(page.keyTokens.range(key, key + 24), 110);
      linesOf(pen, words, Math.min(room, inner.x + inner.w + 30 - at), 9.5, 3).forEach((line, i) =>
        pen.text(at, edge + 21 + 12 * i, line, palette.faint, { size: 9.5 }),
      );
    }
  }

  // entropy by query at the right, received attention by key above
  paintStrips(pen, inner, box, palette) {
    const { camera, statistics, page } = this;
    if (!this.brief) {
      pen.text(8, inner.y - (this.state.get("strips") ? 8 : 3), "query ↓", palette.faint, { size: 10 });
      pen.text(8, Math.min(box.bottom + 14, inner.y + inner.h + 14), "key →", palette.faint, { size: 10 });
    }
    if (!this.state.get("strips")) return;
    const { entropy, received } = statistics;
    if (received) {
      const base = box.y - 5;
      const bins = binned(received.values, camera.x, camera.sx, inner.x, box.x, box.right, page.facts.keys);
      pen.text(box.x - 7, base - 8, "received", palette.faint, { size: 10, align: "right" });
      const points = [[box.x, base], ...bins.map(([at, value]) => [at, base - STRIP * Math.min(value / received.most, 1)]), [box.right, base]];
      pen.area(points, palette.strip);
    }
    if (entropy) {
      const base = box.right + 6;
      const bins = binned(entropy.values, camera.y, camera.sy, inner.y, box.y, box.bottom, page.facts.queries);
      pen.text(base, box.y - 9, "entropy", palette.faint, { size: 10 });
      const points = [[base, box.y], ...bins.map(([at, value]) => [base + STRIP * (value / entropy.most), at]), [base, box.bottom]];
      pen.area(points, palette.strip);
    }
  }

  paintMarks(pen, inner, box, palette) {
    const { camera, page, state } = this;
    const y = (row) => inner.y + (row - camera.y) * camera.sy;
    const x = (key) => inner.x + (key - camera.x) * camera.sx;
    pen.clipped(box.x - 1, box.y - 1, box.w + 2, box.h + 2, () => {
      if (this.pointed) {
        const { query, key } = this.pointed;
        const [dx, dy] = [Math.max(camera.sx, 1), Math.max(camera.sy, 1)];
        pen.rect(box.x, y(query), box.w, dy, palette.cross);
        pen.rect(x(key), box.y, dx, box.h, palette.cross);
        if (camera.sx > 5) pen.frame(x(key) + 0.5, y(query) + 0.5, dx - 1, dy - 1, palette.ink, 1.5);
      }
      const row = state.get("row") === null ? null : page.row(state.get("row"));
      if (row !== null) {
        const tall = Math.max(camera.sy, 2);
        pen.frame(box.x + 0.75, y(row) - 0.75, box.w - 1.5, tall + 1.5, palette.accent, 1.5);
      }
      const column = state.get("column");
      if (column !== null && column < page.facts.keys) {
        const wide = Math.max(camera.sx, 2);
        pen.frame(x(column) - 0.75, box.y + 0.75, wide + 1.5, box.h - 1.5, palette.accent, 1.5);
      }
    });
  }

  close() {
    this.source?.close();
  }
}

export function settingsOf(state) {
  return Object.fromEntries(["scale", "low", "high", "colours"].map((name) => [name, state.get(name)]));
}

function paintToken(pen, x, y, token, palette, own, { align, size, most, angle = 0 }) {
  const { dot, text } = label(token, most);
  const weight = own ? 650 : 400;
  pen.text(x, y, text, own ? palette.accent : palette.ink, { align, size, angle, weight });
  if (!dot) return;
  const back = pen.measure(text, size, weight) + 2.5; // the dot of a leading blank stands before the letters
  pen.text(x - back * Math.cos(angle), y - back * Math.sin(angle), "·", palette.faint, { align, size, angle });
}

function fitted(pen, words, room, size) {
  let line = words;
  while (line && pen.measure(line, size) > room) line = `${line.replace(/…$/, "").slice(0, -1)}…`;
  return line === "…" ? "" : line;
}

function linesOf(pen, words, room, size, most) {
  const lines = [];
  let line = "";
  for (const word of words.split(" ")) {
    const longer = line ? `${line} ${word}` : word;
    if (!line || pen.measure(longer, size) <= room) {
      line = longer;
      continue;
    }
    lines.push(line);
    if (lines.length === most) return lines.map((one) => fitted(pen, one, room, size));
    line = word;
  }
  lines.push(line);
  return lines.map((one) => fitted(pen, one, room, size));
}

// [pixel, the largest of what lies there], from one end of the box to the other
function binned(values, at, scale, origin, from, to, total) {
  const out = [];
  const wide = Math.max(1, scale);
  for (let pixel = from; pixel < to; pixel += wide) {
    const first = Math.max(Math.floor(at + (pixel - origin) / scale + 1e-6), 0);
    const end = Math.min(Math.max(Math.floor(at + (pixel + wide - origin) / scale + 1e-6), first + 1), total);
    let most = 0;
    for (let i = first; i < end; i += 1) if (values[i] > most) most = values[i];
    out.push([pixel, most], [Math.min(pixel + wide, to), most]);
  }
  return out;
}
