"""What is held of a document between questions: where its rows lie, which keys they see, its tokens."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.model.layout import KINDS
from attlas.engine.passage.selection import describe_indices
from attlas.errors import InputError
from attlas.parse import is_integer, parse_count, refuse
from attlas.server.tiles import HeadMap, top_level
from attlas.storage import Atlas
from attlas.storage.lazy import DocumentRows, LazyAttention
from attlas.storage.overview import Overview, find_overview
from attlas.storage.page import check_weights

__all__ = ["Handle", "Handles", "statistic_variables"]

Indices = NDArray[np.int64]

LOOK_AGAIN = 2.0
"""Seconds."""
MOST_DOCUMENTS = 16
"""Handles that are kept; one of a document of 131,072 tokens has some megabytes."""


class Handle:
    """One document and kind of an atlas; opening one reads its tokens, and the rest when it is asked for."""

    def __init__(self, atlas: Atlas, document: str, kind: str) -> None:
        self.atlas, self.document, self.kind = atlas, document, kind
        self.rows: DocumentRows = atlas.rows(kind, atlas.committed_index(document))
        self.heads = tuple(int(head) for head in atlas.column(f"{kind}/head"))
        self.attention = LazyAttention(self.rows)
        self._intervals: dict[int, tuple[Indices, Indices]] = {}
        self._overview: Overview | None = None
        self._looked = -LOOK_AGAIN
        self._lock = threading.Lock()

    @property
    def queries(self) -> int:
        return self.rows.queries

    @property
    def keys(self) -> int:
        return self.rows.keys

    @property
    def layers(self) -> tuple[int, ...]:
        """The model's indices, in the order of the store."""
        return self.rows.layers

    @property
    def top_level(self) -> int:
        return top_level(self.queries, self.keys)

    @property
    def chosen(self) -> bool:
        """Whether the capture kept some query rows alone."""
        return self.atlas.attrs["kinds"][self.kind]["query_axis"] not in KINDS[self.kind]

    @property
    def overview(self) -> Overview | None:
        """What the atlas keeps of the document's coarse levels; looked for again where there was none a while ago."""
        if self._overview is None and time.monotonic() - self._looked >= LOOK_AGAIN:
            self._looked = time.monotonic()
            self._overview = find_overview(self.atlas, self.document, self.kind)
        return self._overview

    @property
    def page(self) -> xr.Dataset:
        """The document's page, opened anew: it keeps the statistics that are read of it."""
        return self.atlas[self.document]

    @cached_property
    def texts(self) -> dict[str, dict[str, NDArray[Any]]]:
        """axis, query or key -> token, token_id and special of its places."""
        axes = self.atlas.attrs["kinds"][self.kind]
        found = self.atlas.tokens(self.atlas.committed_index(self.document), (axes["query_axis"], axes["key_axis"]))
        return {"query": found[axes["query_axis"]], "key": found[axes["key_axis"]]}

    @cached_property
    def words(self) -> dict[str, NDArray[np.int32] | None]:
        """axis, query or key -> the word of each of its tokens; None where the atlas has none."""
        prefix = "" if self.kind == "self" else f"{self.kind}_"
        names = {axis: f"{prefix}{axis}_word" for axis in ("query", "key")}
        page = self.page
        return {axis: page[name].values if name in page.coords else None for axis, name in names.items()}

    def token(self, axis: str, place: int) -> str:
        return str(self.texts[axis]["token"][place])

    def layer_place(self, layer: Any) -> int:
        """Where a layer lies in the store; raises InputError."""
        return self._place(layer, "layer", self.layers)

    def head_places(self, head: Any) -> tuple[int, ...]:
        """Where a head lies in the store, or every head for "mean"; raises InputError."""
        if isinstance(head, str) and head == "mean":
            return tuple(range(len(self.heads)))
        return (self._place(head, "head", self.heads),)

    def head_map(self, layer: Any, head: Any) -> HeadMap:
        """The map of a head, or of the mean over heads; raises InputError, TierError."""
        check_weights(self.atlas.keep, "attention", self.document)
        place = self.layer_place(layer)
        return HeadMap(self.attention, place, self.head_places(head), *self.intervals(place))

    def intervals(self, place: int) -> tuple[Indices, Indices]:
        """The key intervals of all rows of the layer at a place, held once for the layers that share them."""
        with self._lock:
            if place not in self._intervals:
                found = self.rows.intervals(place, np.arange(self.queries))
                for other in self._intervals.values():
                    if all(np.array_equal(one, known) for one, known in zip(found, other, strict=True)):
                        found = other
                        break
                self._intervals[place] = found
            return self._intervals[place]

    @staticmethod
    def _place(given: Any, name: str, have: tuple[int, ...]) -> int:
        remedy = f"the atlas has {describe_indices(have)}" + (', and "mean"' if name == "head" else "")
        try:
            label = int(given) if is_integer(given) else parse_count(given, name, least=0)
        except InputError as error:
            raise refuse(given, name, remedy) from error
        if label not in have:
            raise InputError(f"there is no {name} {label}: {remedy}")
        return have.index(label)


class Handles:
    """Handles by atlas, document and kind, those used last. Safe to use from several threads."""

    def __init__(self, most: int = MOST_DOCUMENTS) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Handle] = OrderedDict()

    def get(self, name: str, atlas: Atlas, document: str, kind: str) -> Handle:
        """Raises DocumentMissingError."""
        key = name, document, kind
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Handle(atlas, document, kind)
            self._kept.move_to_end(key)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
            return self._kept[key]


def statistic_variables(page: xr.Dataset, kind: str) -> dict[str, str]:
    """What a page tells of each row of a kind: the statistic's name -> the page's variable."""
    prefix = "" if kind == "self" else f"{kind}_"
    rows = (f"{prefix}layer", f"{prefix}head", f"{prefix}query")
    return {name.removeprefix(prefix): name for name in map(str, page) if page.variables[name].dims == rows}
