// One document's attention of one kind: its facts and its tokens.

import { count } from "./format.js";
import { Tokens } from "./text.js";

export class Page {
  constructor(asker, where, facts, model, places, changed) {
    Object.assign(this, { where, facts, model, places });
    this.allRows = !places;
    this.keyTokens = new Tokens(asker, where, "key", facts.keys, changed);
    this.queryTokens =
      facts.same_axis && this.allRows ? this.keyTokens : new Tokens(asker, where, "query", facts.queries, changed);
    this.placeOf = new Map((places ?? []).map((place, row) => [place, row]));
  }

  static async open(asker, atlas, document, kind, changed) {
    const where = Object.fromEntries(Object.entries({ atlas, document }).filter(([, value]) => value));
    const { data } = await asker.ask("document", where);
    const kinds = Object.keys(data.kinds);
    const chosen = kinds.includes(kind) ? kind : kinds[0];
    const facts = data.kinds[chosen];
    const places = facts.query_places ?? data.query_places ?? null;
    const chosenRows = places && places.length === facts.queries && places.some((place, row) => place !== row);
    const page = new Page(
      asker, { atlas, document: data.document, kind: chosen }, facts, data.model, chosenRows ? places : null, changed,
    );
    page.kinds = kinds;
    return page;
  }

  // where in the document a row of the map lies: the same, but where rows were chosen
  query(row) {
    return this.places ? this.places[row] : row;
  }

  // the row of the map at a place of the document, or null
  row(query) {
    if (!this.places) return query >= 0 && query < this.facts.queries ? query : null;
    return this.placeOf.get(query) ?? null;
  }

  // a tile in which no query of a causal kind may see any key: it is not asked for
  unseen(firstKey, endQuery) {
    return this.facts.causal && this.facts.same_axis && this.allRows && firstKey >= endQuery;
  }

  same(other) {
    return JSON.stringify(this.where) === JSON.stringify(other?.where);
  }

  title() {
    const { queries, keys, same_axis } = this.facts;
    return same_axis ? `${count(keys)} tokens` : `${count(queries)} queries × ${count(keys)} keys`;
  }
}
