"""One document's attention as labelled arrays: of one kind with plain dims, and of all kinds as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from attlas.engine.kernels.row_statistics import STATISTICS, statistic_names
from attlas.errors import TierError
from attlas.storage.factors import FACTORS
from attlas.storage.gradients import GRADIENTS, LazyGradient
from attlas.storage.lazy import DocumentRows, LazyArray, LazyAttention, LazyRows, LazyStatistic, StatisticRows
from attlas.storage.tiers import DEFAULT_TIER, TIERS
from attlas.storage.token_columns import AT_ONCE, WHEN_ASKED, LateColumns, fixed_width

if TYPE_CHECKING:
    from attlas.storage.atlas import Atlas

__all__ = ["Page", "check_gradients", "check_weights", "make_attention", "make_page", "target_of"]

PREFERRED_QUERIES, PREFERRED_KEYS = 512, 2048

Columns = dict[str, Any]
"""token, token_id and special of the places on one axis; what is read when asked for, as lazy arrays."""


class Page(xr.Dataset):
    """One document's attention. A Dataset whose missing variables say which tier would have them."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        self._explain(name)
        return super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            self._explain(key)
        return super().__getitem__(key)

    def _explain(self, name: str) -> None:
        """Raise TierError where `name` is attention, or a gradient of it, that this atlas's tier does not keep."""
        if name.startswith("_") or not name.endswith(("attention", *GRADIENTS)):
            return
        attributes = object.__getattribute__(self, "attrs")
        if name.endswith(tuple(GRADIENTS)):
            check_gradients(attributes["keep"], name, attributes["document_id"])
        if name in attributes.get("attention_names", "").split():
            check_weights(attributes["keep"], name, attributes["document_id"])


def make_attention(atlas: Atlas, document: str, index: int, kind: str) -> xr.DataArray:
    """The weights of one document and kind, see `Atlas.attention`."""
    check_weights(atlas.keep, "attention", document)
    rows, (query_tokens, key_tokens) = atlas.rows(kind, index), _tokens(atlas, kind, index)
    variable = _attention(rows, "")
    variable.attrs |= _subject(atlas, document, kind)
    coordinates = _coordinates(atlas, rows, query_tokens, key_tokens, "")
    return xr.Dataset({"attention": variable}, coordinates)["attention"]


def make_page(atlas: Atlas, document: str, index: int) -> Page:
    """All kinds of attention of one document, each kind but `self` with its name before its dims and variables."""
    variables: dict[str, xr.Variable] = {}
    coordinates: dict[str, xr.Variable] = {}
    names, of_axis = [], _columns(atlas, index, atlas.row_axes)
    for kind in atlas.kinds:
        prefix = "" if kind == "self" else f"{kind}_"
        rows, axes = atlas.rows(kind, index), atlas.attrs["kinds"][kind]
        query_tokens, key_tokens = of_axis[axes["query_axis"]], of_axis[axes["key_axis"]]
        coordinates |= _coordinates(atlas, rows, query_tokens, key_tokens, prefix)
        names.append(f"{prefix}attention")
        if atlas.tier.weights:
            variables[f"{prefix}attention"] = _attention(rows, prefix)
            variables[f"{prefix}attention"].attrs |= _subject(atlas, document, kind)
        for name, long_name in GRADIENTS.items() if atlas.tier.gradients else ():
            variables[f"{prefix}{name}"] = _gradient(rows, name, long_name, prefix)
            variables[f"{prefix}{name}"].attrs |= _subject(atlas, document, kind) | {"target": target_of(atlas)}
        lse = FACTORS["log_sum_exp"]
        variables[f"{prefix}log_sum_exp"] = _rows(LazyRows(rows, lse.name), lse.long_name, lse.units, prefix)
        for name, array in _statistics(atlas, rows, query_tokens, key_tokens):
            known = STATISTICS[name]
            variables[f"{prefix}{name}"] = _rows(array, known.definition, known.units, prefix)
    return Page(
        variables,
        coordinates,
        {
            "document_id": document,
            "model": atlas.model.get("name"),
            "keep": atlas.keep,
            "attention_names": " ".join(names),  # netCDF has no attributes of several strings
        },
    )


def _subject(atlas: Atlas, document: str, kind: str) -> dict[str, str]:
    return {"document_id": document, "kind": kind, "model": str(atlas.model.get("name"))}


def check_weights(keep: str, name: str, document: str) -> None:
    """Raise TierError where a tier keeps no weights, of which `name` is made."""
    if not TIERS[keep].weights:
        raise TierError(
            f"{name} of {document!r} is not kept: this atlas holds {keep} alone; "
            f'capture it again with keep="{DEFAULT_TIER}"'
        )


def check_gradients(keep: str, name: str, document: str) -> None:
    """Raise TierError where a tier keeps nothing that gradients are made of."""
    if not TIERS[keep].gradients:
        raise TierError(
            f"{name} of {document!r} is not kept: this atlas was captured without gradients; capture it again with "
            'gradients="next_token", or another target'
        )


def target_of(atlas: Atlas) -> str:
    """What the gradients of an atlas are of, as JSON."""
    return json.dumps(atlas.attrs["options"]["gradients"])


def _tokens(atlas: Atlas, kind: str, index: int) -> tuple[Columns, Columns]:
    """Of one kind's query places and of its keys."""
    axes = atlas.attrs["kinds"][kind]
    of_axis = _columns(atlas, index, tuple(dict.fromkeys((axes["query_axis"], axes["key_axis"]))))
    return of_axis[axes["query_axis"]], of_axis[axes["key_axis"]]


def _columns(atlas: Atlas, index: int, axes: Sequence[str]) -> dict[str, Columns]:
    """axis -> what is known of the tokens on it."""
    late = LateColumns(atlas.root, {axis: atlas.places(axis, index) for axis in axes})
    return {axis: columns | late.of(axis) for axis, columns in atlas.tokens(index, axes).items()}


def _coordinates(
    atlas: Atlas, rows: DocumentRows, query_tokens: Columns, key_tokens: Columns, prefix: str
) -> dict[str, xr.Variable]:
    layer, head = f"{prefix}layer", f"{prefix}head"
    coordinates = {
        layer: xr.Variable(layer, list(rows.layers), {"long_name": "the model's layer index"}),
        head: xr.Variable(head, atlas.column(f"{rows.kind}/head"), {"long_name": "head index"}),
    }
    for dim, columns, places in (
        (f"{prefix}query", query_tokens, rows.position_Q),
        (f"{prefix}key", key_tokens, np.arange(rows.keys)),
    ):
        coordinates[dim] = xr.Variable(dim, places, {"long_name": "place in the document", "units": "token"})
        for name, long_name in (AT_ONCE | WHEN_ASKED).items():
            if name in columns:
                values = fixed_width(columns[name]) if name == "token" else columns[name]
                coordinates[f"{dim}_{name}"] = xr.Variable(dim, values, {"long_name": long_name})
    return coordinates


def _attention(rows: DocumentRows, prefix: str) -> xr.Variable:
    dims = tuple(f"{prefix}{dim}" for dim in ("layer", "head", "query", "key"))
    chunks = (1, 1, PREFERRED_QUERIES, PREFERRED_KEYS)
    return _variable(dims, LazyAttention(rows), "attention weight", "1", chunks)


def _gradient(rows: DocumentRows, name: str, long_name: str, prefix: str) -> xr.Variable:
    dims = tuple(f"{prefix}{dim}" for dim in ("layer", "head", "query", "key"))
    chunks = (1, 1, PREFERRED_QUERIES, PREFERRED_KEYS)
    return _variable(dims, LazyGradient(rows, name), long_name, "target", chunks)


def _rows(array: LazyArray, long_name: str, units: str, prefix: str) -> xr.Variable:
    dims = tuple(f"{prefix}{dim}" for dim in ("layer", "head", "query"))
    return _variable(dims, array, long_name, units, (1, *array.shape[1:]))


def _variable(
    dims: tuple[str, ...], array: LazyArray, long_name: str, units: str, chunks: tuple[int, ...]
) -> xr.Variable:
    return xr.Variable(
        dims,
        indexing.LazilyIndexedArray(array),
        {"long_name": long_name, "units": units},
        encoding={"preferred_chunks": dict(zip(dims, chunks, strict=True))},
    )


def _statistics(
    atlas: Atlas, rows: DocumentRows, query_tokens: Columns, key_tokens: Columns
) -> Iterator[tuple[str, LazyArray]]:
    """Each row statistic as a lazy array: stored where the tier stores it, computed from the factors elsewhere."""
    if atlas.tier.statistics:
        for name in atlas.attrs["kinds"][rows.kind]["statistics"]:
            if name in STATISTICS:
                yield name, LazyRows(rows, f"statistics/{name}")
        return
    rules = atlas.attrs["score_rules"][rows.kind]
    names = statistic_names(same_axis=rows.same_axis, sinks=any(rule["sink_logit"] for rule in rules.values()))
    source = StatisticRows(
        rows,
        names,
        query_tokens["token_id"].astype(np.int64),
        key_tokens["token_id"].astype(np.int64),
        key_tokens["special"],
    )
    for name in names:
        yield name, LazyStatistic(source, name)
