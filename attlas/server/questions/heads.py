"""What heads do: small maps of all, statistics of one, and the heads that have a role."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.head_roles import head_roles, leading_role, plan_head_roles
from attlas.analysis.statistics import plan_statistics as plan_statistics  # the survey kept is of both
from attlas.engine.kernels.row_statistics import STATISTICS
from attlas.errors import InputError
from attlas.jobs.results import find_result
from attlas.parse import parse_count, parse_flag, parse_names
from attlas.server.handles import Handle, statistic_variables
from attlas.server.questions.question import Answer, Asked, op
from attlas.server.questions.weights import MOST_CELLS
from attlas.server.thumbnails import pooled_thumbnails, sampled_rows, thumbnails_of
from attlas.server.tiles import Box
from attlas.storage.blocks import quantised

__all__ = ["SAMPLED_CELLS", "sampled_roles"]

Floats = NDArray[np.float32]

SAMPLED_CELLS = 2**28
"""Weights that `heads` looks at, of all layers and heads: what is more is sampled."""
LEAST_ROWS = 16
BRIEF_CELLS = 2**24
"""Weights that `heads` looks at when it is to be brief and still looks at all layers."""
BRIEF_PLACES = (0.4, 0.55, 0.7)
"""Of the stack, from 0 to 1."""
FIRST_KEYS, NEAR_KEYS = 4, 16
RECEIVED = "received"
RECEIVED_IS = "mean weight of the queries that may see the key"
FIRST = ("induction", "previous", "duplicate", "next", "offset", "positional", "local", "self", "separator", "sink")
"""The roles in the order in which a head of theirs is shown first."""


@op
def thumbnails(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    layer: Any = None,
    head: Any = None,
    cells: Any = 64,
) -> Answer:
    """A small map of every head of a layer, or of all; of one head of a layer where that is named."""
    handle = asked.session.handle(atlas, document, kind)
    cells = parse_count(cells, "cells", least=8, most=256)
    heads = tuple(range(len(handle.heads)))
    if head is not None:
        if layer is None or head == "mean":
            raise InputError("a small map is of one head of a layer, or of each: give layer and a head by its number")
        heads = handle.head_places(head)
    layers = handle.layers if layer is None else (handle.layers[handle.layer_place(layer)],)
    handle.head_map(layers[0], "mean")  # says so where no weights are kept
    places, overview = [handle.layers.index(one) for one in layers], handle.overview
    pooled = None if overview is None else pooled_thumbnails(overview, places, heads, cells)
    if pooled is None:
        made = np.stack([_thumbnails(asked, handle, place, heads, cells) for place in places])
        blocks = [-(-size // cells) for size in (handle.queries, handle.keys)]
    else:
        made, blocks = pooled
    return Answer(
        {
            "shape": list(made.shape),
            "layers": list(layers),
            "heads": [handle.heads[one] for one in heads],
            "sampled_rows": len(sampled_rows(handle.queries, cells)) if pooled is None else None,
            "block_queries": blocks[0],
            "block_keys": blocks[1],
            "queries": handle.queries,
            "keys": handle.keys,
        },
        (made,),
    )


def _thumbnails(
    asked: Asked, handle: Handle, place: int, heads: tuple[int, ...], cells: int
) -> NDArray[np.uint8]:  # fmt: skip
    key = asked.session.key(handle), "thumbnails", place, heads, cells
    return asked.session.cache.get(
        key, lambda: quantised(thumbnails_of(handle, place, heads, cells)), heavy=len(heads) > 1, wanted=asked.wanted
    )


@op
def statistics(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    layer: Any = None,
    head: Any = None,
    names: Any = ("entropy",),
) -> Answer:
    """Row statistics of a head, by query, and the attention that its keys receive; of "mean", the mean over heads."""
    handle = asked.session.handle(atlas, document, kind)
    place, heads = handle.layer_place(layer), handle.head_places(head)
    names, page = parse_names(names, "names"), handle.page
    variables = statistic_variables(page, handle.kind)
    have = [*variables, *([RECEIVED] if handle.atlas.tier.weights else [])]
    for name in names:
        if name not in have:
            raise InputError(f"there is no statistic {name!r} of {handle.kind} rows: choose of {', '.join(have)}")
    of_name: dict[str, Floats] = {}
    for name in names:
        if name == RECEIVED:
            of_name[name] = _kept(asked, handle, place, heads, name, lambda: _received(handle, place, heads))
        elif name not in of_name:
            together = _together(name, variables)
            found = _kept(
                asked, handle, place, heads, together, partial(_rows, page, variables, together, place, heads)
            )
            of_name |= dict(zip(together, found, strict=True))
    known = [(RECEIVED_IS, "1") if name == RECEIVED else _told(page, variables[name]) for name in names]
    definitions, units = zip(*known, strict=True)
    data = {"names": list(names), "units": list(units), "definitions": list(definitions)}
    return Answer(data, tuple(of_name[name] for name in names))


def _together(name: str, variables: dict[str, str]) -> tuple[str, ...]:
    """The statistics that cost nothing more once this one is computed."""
    if name not in STATISTICS or STATISTICS[name].slot is None:
        return (name,)
    return tuple(other for other in variables if other in STATISTICS and STATISTICS[other].slot is not None)


def _kept(
    asked: Asked, handle: Handle, place: int, heads: tuple[int, ...], names: Any, make: Callable[[], Floats]
) -> Floats:
    whole = Box(level=0, row=0, column=0, queries=slice(0, handle.queries), keys=slice(0, handle.keys))
    stored = handle.atlas.tier.statistics and names != RECEIVED

    def checked() -> Floats:
        if not stored and names != ("log_sum_exp",):
            cost = handle.head_map(handle.layers[place], handle.heads[heads[0]]).cost(whole) * len(heads)
            if cost > MOST_CELLS:
                raise InputError(
                    f"these statistics are of {cost:,} weights, and {MOST_CELLS:,} are computed at a time: "
                    "ask attlas stats, which samples"
                )
        return make()

    key = asked.session.key(handle), "statistics", place, heads, names
    return asked.session.cache.get(key, checked, heavy=True, wanted=asked.wanted)


def _rows(
    page: xr.Dataset, variables: dict[str, str], names: tuple[str, ...], place: int, heads: tuple[int, ...]
) -> Floats:
    """(names, Q) of one head, or the mean over several."""
    found = [page[variables[name]][place, list(heads)].values.mean(axis=0, dtype=np.float64) for name in names]
    return np.stack(found).astype(np.float32)


def _told(page: xr.Dataset, variable: str) -> tuple[str, str]:
    attributes = page[variable].attrs
    return str(attributes["long_name"]), str(attributes["units"])


def _received(handle: Handle, place: int, heads: tuple[int, ...]) -> Floats:
    """(K,): the mean weight of the queries that may see each key; NaN where none may."""
    operator = handle.atlas.operator(handle.document, handle.layers[place], handle.kind)
    head = handle.heads[heads[0]] if len(heads) == 1 else "mean"
    sums_K = operator.apply_transposed(np.ones(handle.queries), head=head)
    start_Q, stop_Q = handle.intervals(place)
    begun_K = np.bincount(start_Q, minlength=handle.keys + 1).cumsum()[:-1]
    over_K = np.bincount(stop_Q, minlength=handle.keys + 1).cumsum()[:-1]
    seen_K = begun_K - over_K
    return np.where(seen_K > 0, sums_K / np.maximum(seen_K, 1), np.nan).astype(np.float32)


@op
def heads(asked: Asked, *, atlas: Any = None, document: Any = None, kind: Any = None, brief: Any = False) -> Answer:
    """The heads that have a role, best first, and the one to show first; brief: of a long document that alone, soon."""
    handle = asked.session.handle(atlas, document, kind)
    few = _few_layers(handle) if parse_flag(brief, "brief") else None
    data = asked.session.cache.get(
        (asked.session.key(handle), "heads", few),
        lambda: _heads(_roles(handle)) if few is None else _far_looking(handle, few),
        heavy=few is None,
        wanted=asked.wanted,
        size=lambda made: len(json.dumps(made)),
    )
    return Answer(data | {"layers": list(handle.layers if few is None else few)})


def _few_layers(handle: Handle) -> tuple[int, ...] | None:
    """From the middle of the stack; None where all are known, or looked at as quickly."""
    layers = handle.layers
    of_all = handle.keys * len(handle.heads) * len(layers) * LEAST_ROWS
    if handle.atlas.tier.statistics or of_all <= BRIEF_CELLS or _kept_roles(handle) is not None:
        return None
    return tuple(layers[place] for place in sorted({round(share * (len(layers) - 1)) for share in BRIEF_PLACES}))


def _far_looking(handle: Handle, layers: Sequence[int]) -> dict[str, Any]:
    """As `_heads`, without roles: the first is the head with the largest weights that are neither on the first keys nor
    next to the last that a query may see, of a few rows."""
    rows, heads, keys = sampled_rows(handle.queries, LEAST_ROWS), np.arange(len(handle.heads)), np.arange(handle.keys)
    strength_LH: list[NDArray[Any]] = []
    for layer in layers:
        place = handle.layer_place(layer)
        a_HRK = handle.attention.compute([np.array([place]), heads, rows, keys])[0]
        start_R, stop_R = (edge_Q[rows, None] for edge_Q in handle.intervals(place))
        far_RK = (keys >= start_R + FIRST_KEYS) & (keys < stop_R - NEAR_KEYS)
        strength_LH.append(np.where(far_RK, a_HRK, 0).max(axis=2).mean(axis=1))
    at, head = divmod(int(np.argmax(strength_LH)), len(heads))
    why = f"of layers {', '.join(map(str, layers))} the one with the largest weights far from the query"
    return {
        "heads": [], "first": {"layer": layers[at], "head": handle.heads[head], "why": why}, "roles": {},
        "rows_used": len(rows), "rows": handle.queries, "exact": False,
    }  # fmt: skip


def _roles(handle: Handle) -> xr.Dataset:
    """Roles in this document: of all rows where the atlas keeps such an answer, else of a sample."""
    kept = _kept_roles(handle)
    return sampled_roles(handle) if kept is None else kept


def _kept_roles(handle: Handle) -> xr.Dataset | None:
    atlas, own = handle.atlas, {"documents": [handle.document], "kind": handle.kind}
    alone: list[dict[str, Any]] = [{"kind": handle.kind}, {}] if len(atlas) == 1 else []
    for choices in [own, *alone] if not atlas.tier.statistics else []:
        job = plan_head_roles(atlas, **choices)
        kept = find_result(atlas, job.question, job.parameters) if job.plan.corpus.kind == handle.kind else None
        if kept is not None:
            return kept
    return None


def sampled_roles(handle: Handle, *, save: bool = False) -> xr.Dataset:
    """Roles in a document, of SAMPLED_CELLS weights, or from stored statistics, exactly. save: keep them in the atlas,
    where `heads` finds them."""
    of_all = handle.keys * len(handle.heads) * len(handle.layers)
    rows = None if handle.atlas.tier.statistics else max(LEAST_ROWS, SAMPLED_CELLS // of_all)
    return head_roles(handle.atlas, save=save, sample=rows, documents=[handle.document], kind=handle.kind)


def _heads(roles: xr.Dataset) -> dict[str, Any]:
    names = leading_role(roles)
    scores = roles.role_score
    found: list[dict[str, Any]] = [
        {"layer": int(layer), "head": int(head), "role": role, "score": float(scores.sel(role=role)[i, j])}
        for i, layer in enumerate(roles["layer"].values)
        for j, head in enumerate(roles["head"].values)
        if (role := str(names[i, j]))
    ]
    found.sort(key=lambda one: -one["score"])
    definitions = zip(roles["role"].values, roles["role_definition"].values, strict=True)
    return {
        "heads": found,
        "first": _first(roles, found),
        "roles": {str(name): str(definition) for name, definition in definitions},
        "rows_used": int(roles.attrs["rows_used"]),
        "rows": int(roles.attrs["rows"]),
        "exact": roles.attrs["exact"] == "yes",
    }


def _first(roles: xr.Dataset, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The head to look at first, which tells more than a sink does."""
    for name in FIRST:
        best = next((one for one in found if one["role"] == name), None)
        if best is not None:
            why = f"the strongest {name} head: {best['score']:.2f}"
            return {"layer": best["layer"], "head": best["head"], "why": why}
    return {"layer": int(roles["layer"][0]), "head": int(roles["head"][0]), "why": "no head has a role here"}
