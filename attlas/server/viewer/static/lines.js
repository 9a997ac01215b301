// Short spans as lines: queries at the left, keys at the right, a line where one reads the other.

import { position, valueOf, differenceOf } from "./colour.js";
import { count, label } from "./format.js";
import { TILE } from "./tiles.js";

const TALLEST = 19;
const LOWEST = 14;
const LINES_TOP = 40;

// pixels of a token: fewer where that shows all of a text
function tall(pane, height) {
  const most = Math.max(pane.page.facts.queries, pane.page.facts.keys);
  return Math.min(Math.max((height - LINES_TOP - 16) / most, LOWEST), TALLEST);
}

// the rows and columns that are shown: as many as have room, from where the map stands
export function spanOf(pane, height) {
  const { camera, page } = pane;
  const room = Math.max(Math.floor((height - LINES_TOP - 15.9) / tall(pane, height)), 4);
  const { queries, keys, same_axis } = page.facts;
  const from = (at, total) => Math.min(Math.max(Math.floor(at), 0), Math.max(total - room, 0));
  const q0 = from(camera.y, queries);
  const k0 = same_axis && page.allRows ? q0 : from(camera.x, keys);
  return { q0, q1: Math.min(q0 + room, queries), k0, k1: Math.min(k0 + room, keys) };
}

// what lies at a place: {query} at the left, {key} at the right
export function lineAt(pane, px, py) {
  const { q0, q1, k0, k1 } = spanOf(pane, pane.height);
  const place = Math.floor((py - LINES_TOP) / tall(pane, pane.height));
  if (place < 0) return null;
  if (px < pane.width / 2) return q0 + place < q1 ? { query: q0 + place } : null;
  return k0 + place < k1 ? { key: k0 + place } : null;
}

// -> how many tiles are missing
export function drawLines(pane, pen, box, palette) {
  const { page, source, state } = pane;
  const { q0, q1, k0, k1 } = spanOf(pane, box.h);
  const left = Math.min(230, box.w * 0.32);
  const right = box.w - left;
  const row = tall(pane, box.h);
  const y = (place) => LINES_TOP + (place + 0.5) * row;
  const settings = { scale: state.get("scale"), low: state.get("low"), high: state.get("high") };
  const read = source.difference ? differenceOf : valueOf;
  const wanted = new Map();
  const chosenRow = pane.pointed?.query ?? (state.get("row") === null ? null : page.row(state.get("row")));
  const chosenKey = pane.pointed?.key ?? state.get("column");
  const lines = [];
  for (let query = q0; query < q1; query += 1) {
    for (let key = k0; key < k1; key += 1) {
      const place = [0, Math.floor(query / TILE), Math.floor(key / TILE)];
      if (page.unseen(key, query + 1)) continue;
      const tile = source.get(...place);
      if (!tile) {
        wanted.set(place.join("/"), place);
        continue;
      }
      const value = read(tile.code(query % TILE, key % TILE));
      if (value === null || Math.abs(value) < Math.max(settings.low, 0.003)) continue;
      const dim =
        (chosenRow !== null && chosenRow !== undefined && chosenRow !== query) ||
        (chosenKey !== null && chosenKey !== undefined && chosenKey !== key);
      lines.push({ query, key, value, dim });
    }
  }
  pane.wanted = [...wanted.values()];
  pane.shown = 1;
  lines.sort((a, b) => Number(b.dim) - Number(a.dim) || Math.abs(a.value) - Math.abs(b.value));
  for (const { query, key, value, dim } of lines) {
    const strong = Math.min(Math.max(position(Math.abs(value), settings), 0.04), 1);
    const colour = value < 0 ? palette.second : palette.accent;
    const shade = withAlpha(colour, dim ? 0.05 : 0.12 + 0.88 * Math.abs(value) ** 0.6 * strong);
    pen.curve(left + 8, y(query - q0), right - 8, y(key - k0), shade, 0.6 + 4 * Math.abs(value));
  }
  const range = (a, b) => `${count(a)} to ${count(b - 1)}`;
  pen.text(left, 20, `queries ${range(page.query(q0), page.query(q1 - 1) + 1)}`, palette.faint, { align: "right" });
  pen.text(right, 20, `keys ${range(k0, k1)}`, palette.faint);
  const queries = page.queryTokens.range(q0, q1);
  const keys = page.keyTokens.range(k0, k1);
  const touched = (name, place) => lines.some((line) => line[name] === place && !line.dim);
  queries.forEach((token, i) => word(pen, left, y(i), token, "right", palette, q0 + i === chosenRow, chosenKey == null || touched("query", q0 + i)));
  keys.forEach((token, i) => word(pen, right, y(i), token, "left", palette, k0 + i === chosenKey, chosenRow == null || touched("key", k0 + i)));
  return wanted.size;
}

function word(pen, x, y, token, align, palette, own, bright) {
  const { dot, text } = label(token, 24);
  const fill = own ? palette.accent : bright ? palette.ink : palette.faint;
  const weight = own ? 650 : 400;
  if (align === "right") {
    pen.text(x, y, text, fill, { align, size: 12.5, weight });
    if (dot) pen.text(x - pen.measure(text, 12.5, weight) - 2, y, "·", palette.faint, { align, size: 12.5 });
  } else {
    if (dot) pen.text(x, y, "·", palette.faint, { size: 12.5 });
    pen.text(x + (dot ? 6 : 0), y, text, fill, { size: 12.5, weight });
  }
}

function withAlpha(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${Math.round(alpha * 100) / 100})`;
}
