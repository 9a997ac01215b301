// The viewer: attention of one head as a map, of all heads as thumbnails, of one token as coloured text.
//
// An ES module under anywidget's contract: a host gives `model`, with get, set, on, off, send and save_changes, and an
// element. docs/server.md says what is asked. Its parts lie beside it; where one file is needed, they are joined.

import { Asker, AskError, floatsOf, isAborted } from "./ask.js";
import { Camera } from "./camera.js";
import { makeTable } from "./colour.js";
import { count, element, headTitle, later, quoted, weight } from "./format.js";
import { HeadGrid, HeadList } from "./grid.js";
import { Header, PaneHeader } from "./header.js";
import { handle, scroll } from "./interact.js";
import { MapPane, settingsOf } from "./map.js";
import { Page } from "./page.js";
import { Reader } from "./reader.js";
import { download, fileName, npy, numbers, picture, table } from "./save.js";
import { same, State } from "./state.js";
import { TILE } from "./tiles.js";

const PALETTE = ["ground", "ink", "soft", "faint", "rule", "accent", "second", "strip", "cross", "missing", "masked"];
const DEEPEST = 8; // a block of level 8 still lies in one tile of level 0

class Viewer {
  constructor(model, el) {
    this.el = el;
    this.root = element("div", "attlas", null, { tabindex: "-1" });
    el.replaceChildren(this.root);
    this.state = new State(model);
    Object.assign(this.root.dataset, { state: "opening", show: this.state.get("show"), compare: "" });
    this.asker = new Asker(model, Number(el.dataset.patience) || undefined);
    this.camera = new Camera();
    this.pending = new Set();
    this.blocks = new Map(); // tiles of level 0 in float32, for the exact cell of a block
    this.build();
    this.state.listen((names) => {
      if (!this.pending.size) queueMicrotask(() => this.apply());
      for (const name of names) this.pending.add(name);
    });
    this.tellRegion = later(220, () => this.keepRegion());
    this.settle = later(60, () => this.lookClosely());
    this.preview = later(110, () => this.showRow());
    this.quiet = later(400, () => this.loadBeside());
    this.open();
  }

  build() {
    const { state } = this;
    this.header = new Header(state, {
      search: (text) => this.search(text),
      place: (key) => this.find(key),
      documents: (text) => this.asker.ask("documents", { ...this.atlasArgument(), text, start: 0, stop: 60 }),
      save: (kind) => this.save(kind),
      full: () => this.fullScreen(),
      help: () => this.help(),
      swap: () => this.swap(),
    });
    const hooks = {
      changed: () => this.redraw(),
      failed: (error, again) => this.failed(error, again),
    };
    const thumbnail = ({ page, layer, head }) => (page === this.gridPage ? this.grid.tiles.get(`${layer}/${head}`) : null);
    this.panes = [0, 1].map(() => new MapPane(this.camera, state, { ...hooks, thumbnail }));
    this.heads = this.panes.map((pane, i) => new PaneHeader(pane.header, state, i === 1));
    this.grid = new HeadGrid({ ...hooks, choose: (layer, head, beside) => this.choose(layer, head, beside) });
    this.list = new HeadList((layer, head, beside) => this.choose(layer, head, beside));
    this.reader = new Reader({
      failed: hooks.failed,
      lock: (places) => state.set(places),
      turn: (by) => this.turn(by),
      go: (query, key) => this.go(query, key),
      say: (words) => this.say(words),
      pointed: () => this.cell !== null && this.cell !== undefined,
    });
    this.live = element("div", "att-live", null, { "aria-live": "polite", role: "status" });
    this.notice = element("div", "att-notice", null, { role: "alert" });
    this.notice.hidden = true;
    const side = element("div", "att-side");
    side.append(this.grid.element, this.list.element);
    this.maps = element("div", "att-maps");
    this.maps.append(...this.panes.map((pane) => pane.element));
    this.panes[1].element.hidden = true;
    const body = element("div", "att-main");
    body.append(side, this.maps, this.reader.element);
    this.root.append(this.header.element, this.notice, body, this.live);
    for (const pane of this.panes) {
      handle(pane, this.camera, state, () => this.el.dataset.host === "page", {
        changed: () => this.redraw(),
        settled: () => this.tellRegion(),
        hover: (one, cell) => this.hover(one, cell),
        pick: (one, cell, event) => this.pick(one, cell, event),
      });
    }
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("keydown", () => (this.root.dataset.by = "keys"), true);
    this.root.addEventListener("pointerdown", () => (this.root.dataset.by = "mouse"), true);
    this.onKey = (event) => {
      if (this.el.dataset.host === "page" && event.target === document.body) this.key(event);
    };
    document.addEventListener("keydown", this.onKey);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.onDark = () => this.recolour();
    this.dark.addEventListener("change", this.onDark);
    this.size = new ResizeObserver(() => {
      this.arrange();
      this.redraw();
    });
    this.size.observe(this.root);
    this.size.observe(this.maps);
    this.arrange();
    this.recolour();
  }

  // ------------------------------------------------------------------ opening

  async open() {
    try {
      const { data } = await this.asker.ask("info");
      this.info = data;
      await this.openPage();
    } catch (error) {
      this.root.dataset.state = "failed";
      this.failed(error, () => this.open());
    }
  }

  atlasArgument(name = this.state.get("atlas")) {
    return name ? { atlas: name } : {};
  }

  async openPage(given = new Set()) {
    const turn = (this.turnOfPage = (this.turnOfPage ?? 0) + 1);
    const { state, info } = this;
    this.root.dataset.state = "opening";
    const atlas = state.get("atlas") || info.atlases[0]?.name;
    const document = state.get("document") || (await this.firstDocument(atlas));
    const page = await Page.open(this.asker, atlas, document, state.get("kind"), () => this.redraw());
    if (turn !== this.turnOfPage) return;
    let [layer, head] = [state.get("layer"), state.get("head")];
    const { layers, heads } = page.facts;
    let why = "";
    if (!layers.includes(layer) || !(heads.includes(head) || head === "mean")) {
      const brief = await this.asker.ask("heads", { ...page.where, brief: true }).then(({ data }) => data, () => null);
      if (turn !== this.turnOfPage) return;
      const first = brief?.first;
      page.roles = brief?.layers?.length === layers.length ? brief : null;
      layer = layers.includes(layer) ? layer : first?.layer ?? layers[Math.floor(layers.length / 2)];
      head = heads.includes(head) || head === "mean" ? head : first?.head ?? heads[0];
      why = first?.why ?? "";
    }
    const before = this.page;
    this.page = page;
    this.camera.of(page.facts.queries, page.facts.keys);
    this.shownRegion = null;
    const patch = { atlas, document: page.where.document, kind: page.where.kind, layer, head };
    if (before) for (const name of ["row", "column", "query_span", "key_span"]) if (!given.has(name)) patch[name] = null;
    for (const name of Object.keys(patch)) this.pending.delete(name);
    state.set(patch);
    this.pending.clear();
    this.header.open(info, page);
    this.say(`${page.where.document}, ${page.title()}; ${headTitle(layer, head)}${why ? `: ${why}` : ""}`);
    await this.showHeads();
    if (turn !== this.turnOfPage) return;
    this.root.dataset.state = "open";
    this.arrange();
    this.placeCamera();
    this.redraw();
    this.gridPage = null;
    if (page.roles) this.showRoles(page.roles);
  }

  showRoles(data) {
    this.grid.roles = new Map(data.heads.map((one) => [`${one.layer}/${one.head}`, `${one.role.replace(/_/g, " ")} ${Number(one.score).toFixed(2)}`]));
    this.list.show(data);
    this.markHeads();
  }

  async loadRoles(page) {
    if (page.roles || page.naming || page !== this.page) return;
    page.naming = true;
    try {
      const { data } = await this.asker.ask("heads", page.where);
      page.roles = data;
      if (page === this.page) this.showRoles(data);
    } catch (error) {
      if (!isAborted(error)) this.list.element.replaceChildren(element("p", "att-note", `no named heads: ${error.message}`));
    }
  }

  async firstDocument(atlas) {
    const { data } = await this.asker.ask("documents", { ...this.atlasArgument(atlas), start: 0, stop: 1 });
    if (!data.documents.length) throw new AskError("this atlas holds no finished document yet: finish its capture with --resume");
    return data.documents[0].id;
  }

  // what comes after the first map: thumbnails, then strips, then names, each of which takes seconds of a long text
  async loadBeside() {
    const { page } = this;
    if (!page) return;
    if (this.gridPage !== page) {
      this.gridPage = page;
      this.gridLoaded = this.grid.load(this.asker, page, this.state.get("layer"));
    }
    await this.gridLoaded;
    if (page !== this.page) return;
    await Promise.all(this.shownPanes().map((pane) => this.loadStrips(pane)));
    this.loadRoles(page);
  }

  async loadStrips(pane) {
    if (pane.statisticsOf === pane.name || pane.source?.difference || !this.state.get("strips")) return;
    const { name, page, heads } = pane;
    pane.statisticsOf = name;
    const names = ["entropy", "received"].filter((one) => page.facts.statistics?.includes(one));
    for (const one of names) {
      try {
        const { layer, head } = heads[0];
        const { data, buffers } = await this.asker.ask("statistics", { ...page.where, layer, head, names: [one] });
        if (pane.name !== name) return;
        const values = floatsOf(buffers[0]);
        const most = one === "received" ? sinkless(values) : values.reduce((a, b) => (b > a ? b : a), 0);
        pane.statistics[one] = { values, most: most || 1, unit: data.units?.[0] };
        this.redraw();
      } catch {
        // a mean over heads, or a tier without it, has no strip
      }
    }
  }

  // ------------------------------------------------------------------ what is shown

  shownPanes() {
    return this.panes.filter((pane) => !pane.element.hidden && pane.page);
  }

  async showHeads() {
    const { state, page } = this;
    if (!page) return;
    const pool = state.get("pool");
    const own = { page, layer: state.get("layer"), head: state.get("head") };
    const compare = state.get("compare");
    let other = null;
    if (compare) {
      const layer = state.get("other_layer") ?? own.layer;
      const head = state.get("other_head") ?? own.head;
      try {
        other = { page: await this.otherPage(), layer, head };
      } catch (error) {
        this.failed(error, () => this.showHeads());
      }
    }
    const [a, b] = this.panes;
    a.show(this.asker, compare === "difference" && other ? [own, other] : [own], pool);
    const beside = compare === "beside" && other;
    b.element.hidden = !beside;
    if (beside) b.show(this.asker, [other], pool);
    b.brief = Boolean(beside && other.page.same(page));
    this.root.dataset.compare = other ? compare : "";
    const sizes = [own, ...(other && compare ? [other] : [])].map((one) => one.page.facts);
    this.camera.of(Math.max(...sizes.map((one) => one.queries)), Math.max(...sizes.map((one) => one.keys)));
    this.markHeads(other);
    this.arrange();
    if (!this.camera.moved) this.camera.fit();
    this.recolour();
    this.showRow();
    this.quiet();
  }

  async otherPage() {
    const { state, page } = this;
    const atlas = state.get("other_atlas") || page.where.atlas;
    const same_atlas = atlas === page.where.atlas;
    const document = state.get("other_document") || (same_atlas ? page.where.document : await this.firstDocument(atlas));
    if (same_atlas && document === page.where.document) return page;
    if (this.second && this.second.where.atlas === atlas && this.second.where.document === document && this.second.where.kind === page.where.kind) return this.second;
    this.second = await Page.open(this.asker, atlas, document, page.where.kind, () => this.redraw());
    return this.second;
  }

  markHeads(other = this.other) {
    this.other = this.state.get("compare") ? other : null;
    this.list.mark(`${this.state.get("layer")}/${this.state.get("head")}`);
    const [a, b] = this.heads;
    a.show(this.panes[0], this.grid.roles, this.info);
    if (!this.panes[1].element.hidden) b.show(this.panes[1], this.grid.roles, this.info);
    this.header.mark();
  }

  // all that follows from changed values, at once
  async apply() {
    const names = this.pending;
    this.pending = new Set();
    const any = (...some) => some.some((name) => names.has(name));
    try {
      if (any("atlas")) {
        if (!any("document")) this.state.set({ document: "" });
        this.pending.clear();
      }
      if (any("atlas", "document", "kind")) {
        await this.openPage(names);
        return;
      }
      if (!this.page) return;
      if (any("layer", "head") && (this.state.get("layer") === null || this.state.get("head") === null)) {
        await this.openPage();
        return;
      }
      if (any("layer", "head", "pool", "compare", "other_atlas", "other_document", "other_layer", "other_head")) await this.showHeads();
      if (any("colours", "scale", "low", "high", "theme")) this.recolour();
      if (any("row", "column")) this.showRow();
      if (any("query_span", "key_span")) this.placeCamera();
      if (any("show")) this.root.dataset.show = this.state.get("show");
      if (any("strips")) {
        this.arrange();
        this.quiet();
      }
      if (any("find")) this.header.findText(this.state.get("find"));
      this.header.mark();
      this.redraw();
    } catch (error) {
      this.failed(error, () => this.openPage());
    }
  }

  placeCamera() {
    const given = { query_span: this.state.get("query_span"), key_span: this.state.get("key_span") };
    if (same(given, this.shownRegion)) return;
    this.shownRegion = given;
    if (!given.query_span && !given.key_span) this.camera.fit();
    else this.camera.show(given.query_span ?? [0, this.camera.queries], given.key_span ?? [0, this.camera.keys]);
    this.redraw();
  }

  keepRegion() {
    const round = ([a, b]) => [Math.round(a * 100) / 100, Math.round(b * 100) / 100];
    const seen = this.camera.region();
    const region = this.camera.moved ? { query_span: round(seen.queries), key_span: round(seen.keys) } : { query_span: null, key_span: null };
    this.shownRegion = region;
    this.state.set(region);
  }

  choose(layer, head, beside) {
    if (beside) {
      const compare = this.state.get("compare") || "beside";
      this.state.set({ compare, other_layer: layer, other_head: head });
    } else {
      this.state.set({ layer, head });
    }
  }

  swap() {
    const { state } = this;
    const [layer, head] = [state.get("other_layer") ?? state.get("layer"), state.get("other_head") ?? state.get("head")];
    state.set({
      layer,
      head,
      other_layer: state.get("layer"),
      other_head: state.get("head"),
    });
  }

  // ------------------------------------------------------------------ drawing

  palette() {
    const style = getComputedStyle(this.root);
    const read = Object.fromEntries(PALETTE.map((name) => [name, style.getPropertyValue(`--att-${name}`).trim() || "#888888"]));
    return { ...read, dark: this.isDark() };
  }

  isDark() {
    const theme = this.state.get("theme");
    return theme === "auto" ? this.dark.matches : theme === "dark";
  }

  recolour() {
    Object.assign(this.root.dataset, { theme: this.isDark() ? "dark" : "light", colours: this.state.get("colours") });
    this.colours = null;
    for (const pane of this.panes) pane.recolour();
    for (const head of this.heads) head.legend(settingsOf(this.state), this.isDark(), this.panes[0].source?.difference);
    this.redraw();
  }

  arrange() {
    const width = this.root.clientWidth;
    const wide = this.root.dataset.compare === "beside" ? 1900 : 1180; // from which the reader stands beside the maps
    this.root.dataset.size = width >= wide ? "wide" : width >= 760 ? "middle" : "narrow";
    const sizes = this.shownPanes().map((pane) => pane.measure());
    if (sizes.length) this.camera.resize(Math.min(...sizes.map(([w]) => w)), Math.min(...sizes.map(([, h]) => h)));
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    if (this.closed || !this.page || !this.shownPanes().length) return;
    if (!this.colours || this.colours.ink === "#888888") {
      this.colours = this.palette();
      this.gridTable = makeTable(settingsOf(this.state), this.isDark(), false);
    }
    let missing = 0;
    for (const pane of this.shownPanes()) {
      pane.draw(this.colours);
      pane.request();
      missing += pane.missing ?? 0;
    }
    const { state } = this;
    this.grid.draw(this.colours, this.gridTable, { layer: state.get("layer"), head: state.get("head") }, this.other);
    this.root.dataset.missing = String(missing);
    this.root.dataset.level = String(this.panes[0].element.dataset.level);
    this.root.dataset.layer = String(state.get("layer"));
    this.root.dataset.head = String(state.get("head"));
    if (this.panes[0].sketch && !this.sketched) {
      this.sketched = true;
      this.root.dataset.sketched = String(Math.round(performance.now()));
      this.loadBeside();
    }
    if (missing === 0) {
      if (!this.drawn) {
        this.drawn = true;
        this.root.dataset.first = String(Math.round(performance.now()));
        this.loadBeside();
        this.openRow();
      }
    }
    this.frames = (this.frames ?? 0) + 1;
  }

  // ------------------------------------------------------------------ pointing

  hover(pane, cell) {
    for (const one of this.panes) one.pointed = cell && { query: cell.query, key: cell.key };
    this.pointedPane = cell ? pane : null;
    this.cell = cell;
    this.control?.abort();
    if (!cell) {
      this.settle.drop();
      this.preview.drop();
    } else if (cell.level !== undefined) {
      this.tellCell(pane, cell);
      this.settle();
      if (!this.isLocked() && cell.level === 0) this.preview();
    }
    this.redraw();
  }

  isLocked() {
    return this.state.get("row") !== null || this.state.get("column") !== null;
  }

  tellCell(pane, cell, exact = null) {
    const { page } = pane;
    const size = 1 << cell.level;
    const pool = this.state.get("pool");
    const range = ([a, b]) => (b - a === 1 ? count(a) : `${count(a)} to ${count(b - 1)}`);
    if (exact) {
      const sign = pane.source.difference ? "difference" : "exact weight";
      const how = cell.level === 0 ? sign : `largest of ${size} × ${size}, exact`;
      this.reader.tell({
        ...exact,
        query: page.query(exact.query),
        number: pane.source.difference ? signed(exact.value) : undefined,
        how: exact.how ?? how,
        exact: true,
      });
      return;
    }
    const value = cell.value;
    const words = value === undefined ? "…" : value === null ? "masked" : pane.source.difference ? signed(value) : `≈ ${weight(value)}`;
    let how = "";
    if (value === null) how = "this query may not see this key";
    else if (cell.level === 0) how = pane.source.difference ? "difference, first minus second" : "reading the exact weight";
    else if (pool === "mass") how = `sum over ${size} keys, mean of ${size} queries`;
    else how = `largest of ${size} × ${size}`;
    this.reader.tell({
      value,
      number: words,
      how,
      query: page.query(cell.query),
      key: cell.key,
      queryToken: cell.level === 0 ? page.queryTokens.range(cell.query, cell.query + 1)[0] : null,
      keyToken: cell.level === 0 ? page.keyTokens.range(cell.key, cell.key + 1)[0] : null,
      queryRange: range(cell.queries.map((at, i) => (page.places ? page.query(at - i) + i : at))),
      keyRange: range(cell.keys),
    });
  }

  // the exact weight under a pointer that rests
  async lookClosely() {
    const { cell, pointedPane: pane } = this;
    if (!cell || !pane || cell.value === null) return;
    this.control?.abort();
    this.control = new AbortController();
    const { signal } = this.control;
    try {
      const exact = await this.exact(pane, cell, signal);
      if (signal.aborted || !exact) return;
      this.tellCell(pane, cell, exact);
      const words = `${exact.how ?? "weight"} ${weight(exact.value)}: query ${pane.page.query(exact.query)} ${quoted(exact.queryToken)}, key ${exact.key} ${quoted(exact.keyToken)}`;
      this.say(words);
    } catch (error) {
      if (!isAborted(error)) this.failed(error, null);
    }
  }

  async exact(pane, cell, signal) {
    const { page, heads } = pane;
    let [query, key] = [cell.query, cell.key];
    if (cell.level > 0) {
      if (cell.level > DEEPEST || pane.source.difference || this.state.get("pool") !== "max") return null;
      [query, key] = await this.largest(pane, cell, signal);
    }
    const asked = heads.map((one) => this.asker.ask("cell", { ...one.page.where, layer: one.layer, head: one.head, query, key }, signal));
    const [a, b] = (await Promise.all(asked)).map(({ data }) => data);
    const out = { query, key, queryToken: a.query_token, keyToken: a.key_token, value: a.seen ? a.weight : null };
    if (!a.seen) out.how = "this query may not see this key";
    if (b) {
      out.value = a.weight - b.weight;
      out.how = `${weight(a.weight)} minus ${weight(b.weight)}`;
    }
    return out;
  }

  // where the largest weight of a block lies
  async largest(pane, cell, signal) {
    const [row, column] = [Math.floor(cell.queries[0] / TILE), Math.floor(cell.keys[0] / TILE)];
    const { layer, head, page } = pane.heads[0];
    const name = JSON.stringify([page.where, layer, head, row, column]);
    if (!this.blocks.has(name)) {
      const args = { ...page.where, layer, head, level: 0, row, column, format: "f32" };
      const { data, buffers } = await this.asker.ask("tile", args, signal);
      if (this.blocks.size > 16) this.blocks.delete(this.blocks.keys().next().value);
      this.blocks.set(name, { values: floatsOf(buffers[0]), wide: data.shape[1] });
    }
    const { values, wide } = this.blocks.get(name);
    let best = [cell.query, cell.key];
    let most = -1;
    for (let query = cell.queries[0]; query < cell.queries[1]; query += 1) {
      for (let key = cell.keys[0]; key < cell.keys[1]; key += 1) {
        const value = values[(query - row * TILE) * wide + key - column * TILE];
        if (value > most) [most, best] = [value, [query, key]];
      }
    }
    return best;
  }

  async pick(pane, cell) {
    if (!cell) return;
    const { state } = this;
    const by = this.by();
    let { query, key } = cell;
    if (cell.level === undefined) {
      // a token of the lines view
      if (query !== undefined) this.lock("row", pane.page.query(query));
      else this.lock("column", key);
      return;
    }
    const seen = pane.page.row(state.get("row") ?? -1);
    const within = (at, [a, b]) => at !== null && at >= a && at < b;
    if (within(seen, cell.queries) || within(state.get("column"), cell.keys)) {
      state.set({ row: null, column: null });
      this.say("released");
      return;
    }
    try {
      if (cell.level > 0 && cell.level <= DEEPEST && cell.value !== null && !pane.source.difference) [query, key] = await this.largest(pane, cell, null);
    } catch (error) {
      if (!isAborted(error)) this.failed(error, null);
    }
    this.lock(by, by === "row" ? pane.page.query(query) : key);
  }

  // the row of the strongest weight away from the first token and the diagonal, until somebody points at another
  async openRow() {
    const pane = this.panes[0];
    const found = pane.strongest();
    if (!found || this.isLocked() || this.cell) return;
    try {
      const [query, key] = found.level > 0 && found.level <= DEEPEST ? await this.largest(pane, found, null) : [found.query, found.key];
      if (this.isLocked() || this.cell || this.panes[0].name !== pane.name) return;
      this.opening = { pane: pane.name, row: pane.page.query(query), column: key };
      this.showRow();
    } catch (error) {
      if (!isAborted(error)) this.failed(error, null);
    }
  }

  by() {
    return this.state.get("column") !== null ? "column" : this.state.get("row") !== null ? "row" : this.reader.by.dataset.by || "row";
  }

  lock(by, place) {
    const locked = this.state.get(by) === place;
    this.state.set({ row: null, column: null, ...(locked ? {} : { [by]: place }) });
    this.say(locked ? "released" : `${by === "row" ? "row of query" : "column of key"} ${place} is locked; Escape releases it`);
  }

  turn(by) {
    const { state } = this;
    const place = state.get("row") ?? state.get("column");
    this.reader.turn(by);
    if (place === null || !this.page.facts.same_axis) {
      if (place !== null) state.set({ row: null, column: null });
      this.showRow();
      return;
    }
    state.set(by === "row" ? { row: place, column: null } : { row: null, column: place });
  }

  // the locked row or column, or that under the pointer
  showRow() {
    const { state, page } = this;
    if (!page) return;
    const locked = this.isLocked();
    const by = this.by();
    const pane = (!locked && this.pointedPane) || this.panes[0];
    let at = state.get(by);
    if (!locked) at = this.cell && this.cell.level === 0 ? (by === "row" ? pane.page.query(this.cell.query) : this.cell.key) : null;
    if (!locked && at === null && this.opening?.pane === pane.name) at = this.opening[by];
    const known = at !== null && (by === "row" ? pane.page.row(at) !== null : at >= 0 && at < pane.page.facts.keys);
    if (!known) {
      if (at !== null) {
        const words = pane.page.places ? "is not among the rows that were captured" : "is not in this document";
        this.failed(new AskError(`${by === "row" ? "query" : "key"} ${count(at)} ${words}: choose another on the map`), null);
      }
      if (!this.cell || locked) this.reader.clear();
      return;
    }
    const { layer, head } = pane.heads[0];
    this.reader.show(this.asker, pane.page, layer, head, by, at, locked);
  }

  go(query, key) {
    const row = this.page.row(query);
    if (row === null) return;
    this.camera.centre(row + 0.5, key + 0.5, Math.max(this.camera.sx, 14));
    for (const pane of this.panes) pane.pointed = { query: row, key };
    this.redraw();
    this.tellRegion();
  }

  // ------------------------------------------------------------------ search

  async search(text) {
    this.state.set({ find: text });
    if (!text) return { total: 0, places: [] };
    const { data } = await this.asker.ask("find", { ...this.page.where, text, axis: "key", limit: 60 });
    const around = await Promise.all(
      data.places.slice(0, 60).map(async ([first, end]) => {
        const tokens = this.page.keyTokens;
        await tokens.wait(Math.max(first - 6, 0), Math.min(end + 6, this.page.facts.keys));
        return [first, end, tokens.range(first - 6, first), tokens.range(first, end), tokens.range(end, end + 6)];
      }),
    );
    return { total: data.total ?? data.places.length, places: around };
  }

  find(key) {
    this.state.set({ row: null, column: key });
    this.camera.centre(this.camera.y + this.camera.height / this.camera.sy / 2, key + 0.5);
    this.redraw();
    this.tellRegion();
  }

  // ------------------------------------------------------------------ files, keys, words

  async save(kind) {
    const pane = this.panes[0];
    try {
      if (kind === "png" || kind === "svg") {
        download(await picture(pane, this.colours, kind), fileName(pane, kind));
      } else {
        const found = await numbers(this.asker, pane);
        const pooled = found.level > 0 ? `-pooled-${found.block}` : "";
        const blob = kind === "csv" ? await table(pane, found) : npy(found);
        download(blob, fileName(pane, kind).replace(`.${kind}`, `${pooled}.${kind}`));
        if (found.level > 0) this.say(`saved pooled by ${found.block}: zoom in for every weight`);
      }
    } catch (error) {
      this.failed(error, () => this.save(kind));
    }
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.root.requestFullscreen?.().catch((error) => this.failed(new AskError(`no full screen here: ${error.message}`), null));
  }

  help() {
    this.header.help.toggle();
  }

  step(name, by) {
    const { layers, heads } = this.page.facts;
    const list = name === "layer" ? layers : heads;
    const at = list.indexOf(this.state.get(name));
    this.state.set({ [name]: list[(Math.max(at, 0) + by + list.length) % list.length] });
  }

  key(event) {
    const typed = event.composedPath()[0];
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(typed?.tagName ?? "") || event.ctrlKey || event.metaKey || event.altKey || !this.page) return;
    const { camera, state } = this;
    const far = 0.12 * Math.min(camera.width, camera.height);
    const lines = state.get("show") === "lines";
    const locked = state.get("row") !== null ? "row" : state.get("column") !== null ? "column" : null;
    const move = (dx, dy) => {
      if (lines) scroll(this.panes[0], camera, -Math.sign(dy + dx) * 4);
      else camera.pan(dx * far, dy * far);
    };
    const next = (by) => {
      if (!locked) return false;
      const total = locked === "row" ? this.page.facts.queries : this.page.facts.keys;
      const row = locked === "row" ? this.page.row(state.get("row")) ?? 0 : state.get("column");
      const to = Math.min(Math.max(row + by, 0), total - 1);
      state.set({ [locked]: locked === "row" ? this.page.query(to) : to });
      return true;
    };
    const keys = {
      ArrowLeft: () => move(1, 0),
      ArrowRight: () => move(-1, 0),
      ArrowUp: () => move(0, 1),
      ArrowDown: () => move(0, -1),
      "+": () => camera.zoom(1.5),
      "=": () => camera.zoom(1.5),
      "-": () => camera.zoom(1 / 1.5),
      0: () => camera.fit(),
      h: () => this.step("head", 1),
      H: () => this.step("head", -1),
      l: () => this.step("layer", 1),
      L: () => this.step("layer", -1),
      j: () => next(1),
      k: () => next(-1),
      m: () => state.set({ head: state.get("head") === "mean" ? this.page.facts.heads[0] : "mean" }),
      v: () => state.set({ show: lines ? "map" : "lines" }),
      d: () => state.set({ theme: this.isDark() ? "light" : "dark" }),
      f: () => this.fullScreen(),
      "/": () => this.header.focusSearch(),
      "?": () => this.help(),
      Escape: () => {
        state.set({ row: null, column: null });
        this.hideNotice();
      },
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
    this.redraw();
    this.tellRegion();
  }

  say(words) {
    this.live.textContent = words;
  }

  failed(error, again) {
    if (this.closed || isAborted(error)) return;
    this.notice.replaceChildren(element("span", "", error.message));
    if (again) {
      const button = element("button", "", "Try again", { type: "button" });
      button.addEventListener("click", () => {
        this.hideNotice();
        again();
      });
      this.notice.append(button);
    }
    const close = element("button", "", "Close", { type: "button" });
    close.addEventListener("click", () => this.hideNotice());
    this.notice.append(close);
    this.notice.hidden = false;
  }

  hideNotice() {
    this.notice.hidden = true;
  }

  close() {
    this.closed = true;
    cancelAnimationFrame(this.frame);
    this.size.disconnect();
    document.removeEventListener("keydown", this.onKey);
    this.dark.removeEventListener("change", this.onDark);
    for (const pane of this.panes) pane.close();
    this.grid.close();
    this.asker.close();
    this.state.close();
  }
}

// the largest value but for the few that dwarf all others, such as the first token's
function sinkless(values) {
  const inOrder = Float32Array.from(values).filter((value) => !Number.isNaN(value)).sort();
  return inOrder[Math.floor((inOrder.length - 1) * 0.99)] * 1.5;
}

function signed(value) {
  if (value === null || value === undefined) return weight(value);
  return value > 0 ? `+${weight(value)}` : weight(value).replace("-", "−");
}

export default {
  render({ model, el }) {
    const viewer = new Viewer(model, el);
    return () => viewer.close();
  },
};
