"""The rows an analysis is about: committed documents of one kind of attention, and where their rows and keys lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.engine.model.layout import KINDS
from attlas.engine.passage.selection import Selection
from attlas.errors import InputError
from attlas.storage import Atlas
from attlas.storage.schema import axis_prefix

__all__ = ["Corpus", "find_corpus"]

Indices = NDArray[np.int64]

SEPARATORS = frozenset(".,;:!?\n\r")
"""Tokens made of these alone, and the tokenizer's special tokens, separate; see Clark et al. 2019."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """Documents of one kind, in the order of the store, and the chosen layers.

    ids: the documents' names. query_start_D, queries_D, key_start_D, keys_D: where the rows and keys of each lie on
    their axes. layers: places on the store's layer dimension. separators: vocabulary indices of separators. chosen:
    only some query rows of a document are kept. whole_packs: every document of every pack here is taken.
    """

    kind: str
    ids: tuple[str, ...]
    query_start_D: Indices
    queries_D: Indices
    key_start_D: Indices
    keys_D: Indices
    packs: tuple[int, ...]
    whole_packs: bool
    layers: tuple[int, ...]
    layer_labels: tuple[int, ...]
    heads: tuple[int, ...]
    kv_place_H: Indices
    query_axis: str
    key_axis: str
    separators: Indices
    sinks: bool

    @property
    def same_axis(self) -> bool:
        return KINDS[self.kind][0] == KINDS[self.kind][1]

    @property
    def chosen(self) -> bool:
        """Whether only chosen query rows are kept, whose places are then to be read."""
        return self.query_axis not in KINDS[self.kind]

    @property
    def rows(self) -> int:
        return int(self.queries_D.sum())

    def slice(self, documents: slice) -> Corpus:
        return replace(
            self,
            ids=self.ids[documents],
            query_start_D=self.query_start_D[documents],
            queries_D=self.queries_D[documents],
            key_start_D=self.key_start_D[documents],
            keys_D=self.keys_D[documents],
        )


def find_corpus(
    atlas: Atlas,
    *,
    kind: str | None = None,
    documents: Sequence[str] | None = None,
    layers: Selection | None = None,
) -> Corpus:
    """The committed documents, or the named ones, and the chosen layers; raises InputError where one is not there."""
    kind = atlas.parse_kind(kind)
    committed = list(atlas)
    if not committed:
        raise InputError(f"{atlas.name} has no committed document: finish the capture with --resume")
    wanted = committed if documents is None else list(dict.fromkeys(documents))
    if not wanted:
        raise InputError("no document is chosen: leave the choice out to take all")
    all_ids = [str(name) for name in atlas.column("documents/document_id")]
    missing = next(iter(set(wanted) - set(all_ids)), None)
    if missing is not None:
        raise InputError(f"{atlas.name} has no document {missing!r}: see attlas info for those it has")
    pending = next(iter(set(wanted) - set(committed)), None)
    if pending is not None:
        raise InputError(f"document {pending!r} is in a pack that is not committed: finish the capture with --resume")
    chosen = set(wanted)
    place = np.array([i for i, name in enumerate(all_ids) if name in chosen], dtype=np.int64)
    axes = atlas.attrs["kinds"][kind]
    columns = {}
    for axis in (axes["query_axis"], axes["key_axis"]):
        prefix = axis_prefix(axis)
        columns[axis] = tuple(
            atlas.column(f"documents/{prefix}{name}")[place].astype(np.int64) for name in ("token_start", "row_size")
        )
    order = np.argsort(columns[axes["query_axis"]][0], kind="stable")
    pack_D = atlas.column("documents/pack")
    packs = tuple(int(pack) for pack in np.unique(pack_D[place]))
    labels = atlas.layers(kind)
    kept = labels
    if layers is not None:
        kept = layers.choose(labels, "layer", atlas.name)
    heads = atlas.column(f"{kind}/head")
    kv_heads = heads // int(axes["heads_per_kv_head"])
    rules: dict[str, Any] = atlas.attrs["score_rules"][kind]
    (query_start, queries), (key_start, keys) = columns[axes["query_axis"]], columns[axes["key_axis"]]
    return Corpus(
        kind=kind,
        ids=tuple(all_ids[int(i)] for i in place[order]),
        query_start_D=query_start[order],
        queries_D=queries[order],
        key_start_D=key_start[order],
        keys_D=keys[order],
        packs=packs,
        whole_packs=int(np.isin(pack_D, packs).sum()) == len(place),
        layers=tuple(labels.index(label) for label in kept),
        layer_labels=tuple(kept),
        heads=tuple(int(head) for head in heads),
        kv_place_H=np.searchsorted(atlas.column(f"{kind}/kv_head"), kv_heads),
        query_axis=axes["query_axis"],
        key_axis=axes["key_axis"],
        separators=_separators(atlas, axes["key_axis"]),
        sinks=any(rule["sink_logit"] for rule in rules.values()),
    )


def _separators(atlas: Atlas, axis: str) -> Indices:
    """Vocabulary indices of the tokens that separate: punctuation and line ends alone, and special tokens."""
    ids = atlas.column(f"tokens/{axis}/token_id")
    special = atlas.column(f"tokens/{axis}/special")
    vocabulary, first = np.unique(ids, return_index=True)
    text = atlas.column(f"tokens/{axis}/token")[first]
    marks = [bool(str(t).strip(" ")) and set(str(t).strip(" ")) <= SEPARATORS for t in text]
    separating = np.array(marks, dtype=np.bool_) | np.isin(vocabulary, ids[special])
    return vocabulary[separating & (vocabulary >= 0)].astype(np.int64)
