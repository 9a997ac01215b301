// What is seen, as a file: a picture with its axes, or the numbers.

import { floatsOf } from "./ask.js";
import { anchors, css, colourOf } from "./colour.js";
import { count, headTitle, label } from "./format.js";
import { settingsOf } from "./map.js";
import { CanvasPen, SvgPen } from "./pen.js";
import { TILE } from "./tiles.js";

const MOST_CELLS = 4_000_000; // numbers in one file, 16 MB
const TITLE = 40;

export function fileName(pane, ending) {
  const { queries, keys } = regionOf(pane);
  const heads = pane.heads.map(({ layer, head }) => `L${layer}H${head}`).join("-minus-");
  const name = `${pane.page.where.document}-${heads}-q${queries.join("-")}-k${keys.join("-")}`;
  return `${name.replace(/[^\w.-]+/g, "_").slice(0, 120)}.${ending}`;
}

export function regionOf(pane) {
  const { queries, keys } = pane.camera.region();
  const { facts } = pane.page;
  const whole = ([a, b], total) => [Math.max(Math.floor(a), 0), Math.min(Math.ceil(b), total)];
  return { queries: whole(queries, facts.queries), keys: whole(keys, facts.keys) };
}

export function picture(pane, palette, kind) {
  const [width, height] = [pane.width, pane.height + TITLE];
  if (kind === "svg") {
    const pen = new SvgPen(width, height);
    compose(pane, pen, width, height, palette);
    return Promise.resolve(new Blob([pen.finish()], { type: "image/svg+xml" }));
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: width * 2, height: height * 2 });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  compose(pane, new CanvasPen(context), width, height, palette);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// the pane below a line that says what it is, with the colours' legend
function compose(pane, pen, width, height, palette) {
  pen.rect(0, 0, width, height, palette.ground);
  const { page, heads } = pane;
  const words = heads.map(({ layer, head }) => headTitle(layer, head)).join(" minus ");
  pen.text(12, 20, words, palette.ink, { size: 14, weight: 600 });
  const from = 12 + pen.measure(words, 14, 600) + 10;
  pen.text(from, 20, `${page.model?.name ?? page.model ?? ""}  ${page.where.document}`, palette.faint, { size: 11 });
  const settings = settingsOf(pane.state);
  if (!pane.source.difference && width > 560) {
    const left = width - 190;
    for (let i = 0; i < 60; i += 1) {
      const t = i / 59;
      const value = settings.scale === "log" ? settings.low * (settings.high / settings.low) ** t : settings.high * t;
      pen.rect(left + 2 * i, 14, 2.4, 11, css(colourOf(value, settings, palette.dark)));
    }
    pen.text(left - 6, 20, settings.scale === "log" ? String(settings.low) : "0", palette.faint, { align: "right", size: 10 });
    pen.text(left + 127, 20, String(settings.high), palette.faint, { size: 10 });
  }
  const shifted = new Shifted(pen, TITLE);
  pane.paint(shifted, width, height - TITLE, palette);
}

// a pen whose paper begins lower
class Shifted {
  constructor(pen, down) {
    Object.assign(this, { pen, down });
  }
  rect(x, y, w, h, fill) { this.pen.rect(x, y + this.down, w, h, fill); }
  frame(x, y, w, h, ...rest) { this.pen.frame(x, y + this.down, w, h, ...rest); }
  line(x1, y1, x2, y2, ...rest) { this.pen.line(x1, y1 + this.down, x2, y2 + this.down, ...rest); }
  curve(x1, y1, x2, y2, ...rest) { this.pen.curve(x1, y1 + this.down, x2, y2 + this.down, ...rest); }
  area(points, fill) { this.pen.area(points.map(([x, y]) => [x, y + this.down]), fill); }
  text(x, y, ...rest) { this.pen.text(x, y + this.down, ...rest); }
  measure(...words) { return this.pen.measure(...words); }
  clipped(x, y, w, h, draw) { this.pen.clipped(x, y + this.down, w, h, draw); }
  picture(x, y, w, h, draw) {
    this.pen.picture(x, y + this.down, w, h, (context) => {
      context.save();
      context.translate(0, this.down);
      draw(context);
      context.restore();
    });
  }
}

// the weights that are seen: of level 0 where they are few enough, else as they are pooled on screen
export async function numbers(asker, pane) {
  const { queries, keys } = regionOf(pane);
  const cells = (queries[1] - queries[0]) * (keys[1] - keys[0]);
  let level = 0;
  while (cells / 4 ** level > MOST_CELLS) level += 1;
  const block = 1 << level;
  const [r0, r1] = [Math.floor(queries[0] / block), Math.ceil(queries[1] / block)];
  const [c0, c1] = [Math.floor(keys[0] / block), Math.ceil(keys[1] / block)];
  const [rows, columns] = [r1 - r0, c1 - c0];
  const out = new Float32Array(rows * columns).fill(NaN);
  const tiles = [];
  for (let row = Math.floor(r0 / TILE); row * TILE < r1; row += 1) {
    for (let column = Math.floor(c0 / TILE); column * TILE < c1; column += 1) tiles.push([row, column]);
  }
  const fill = async ([row, column]) => {
    const parts = await Promise.all(
      pane.source.heads.map((head) =>
        asker.ask("tile", { ...head, level, row, column, pool: pane.source.pool, format: "f32" }),
      ),
    );
    const [wide] = [parts[0].data.shape[1]];
    const values = parts.map(({ buffers }) => floatsOf(buffers[0]));
    for (let i = 0; i < parts[0].data.shape[0]; i += 1) {
      const r = row * TILE + i - r0;
      if (r < 0 || r >= rows) continue;
      for (let j = 0; j < wide; j += 1) {
        const c = column * TILE + j - c0;
        if (c < 0 || c >= columns) continue;
        out[r * columns + c] = values.length === 1 ? values[0][i * wide + j] : values[0][i * wide + j] - values[1][i * wide + j];
      }
    }
  };
  const waiting = [...tiles];
  const work = async () => {
    for (let one = waiting.shift(); one; one = waiting.shift()) await fill(one);
  };
  await Promise.all(Array.from({ length: 4 }, work));
  return { values: out, rows, columns, level, query: r0 * block, key: c0 * block, block };
}

export async function table(pane, { values, rows, columns, query, key, block }) {
  const { queries, keys } = pane.page.facts;
  const [left, top] = await Promise.all([
    pane.page.queryTokens.wait(query, Math.min(query + rows * block, queries)),
    pane.page.keyTokens.wait(key, Math.min(key + columns * block, keys)),
  ]);
  const name = (at, token) => quotedField(`${at} ${label(token, 60).text}`);
  const lines = [["query \\ key", ...Array.from({ length: columns }, (_, j) => name(key + j * block, top[j * block]))].join(",")];
  for (let i = 0; i < rows; i += 1) {
    const row = Array.from(values.subarray(i * columns, (i + 1) * columns), (value) => (Number.isNaN(value) ? "" : String(value)));
    lines.push([name(pane.page.query(query + i * block), left[i * block]), ...row].join(","));
  }
  return new Blob([`${lines.join("\n")}\n`], { type: "text/csv" });
}

function quotedField(words) {
  return `"${words.replace(/"/g, '""')}"`;
}

// numpy's own format, version 1
export function npy({ values, rows, columns }) {
  let header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows}, ${columns}), }`;
  header += " ".repeat(63 - ((10 + header.length) % 64)) + "\n";
  const start = new Uint8Array([0x93, ...[..."NUMPY"].map((letter) => letter.charCodeAt(0)), 1, 0, header.length & 255, header.length >> 8]);
  return new Blob([start, header, values], { type: "application/octet-stream" });
}

export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// the colours from low to high, as a background
export function gradient(settings, dark, difference) {
  const stops = difference
    ? anchors(dark ? "differenceDark" : "difference").map(css)
    : Array.from({ length: 12 }, (_, i) => {
        const t = i / 11;
        const value = settings.scale === "log" ? settings.low * (settings.high / settings.low) ** t : settings.high * t;
        return css(colourOf(value, settings, dark));
      });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
