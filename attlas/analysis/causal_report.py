"""What a causal model's layers look at: nothing ahead, how far back, how spread out, and how much into the sink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import chosen_rows
from attlas.analysis.statistics import statistics
from attlas.errors import InputError
from attlas.jobs.corpus import Corpus
from attlas.jobs.results import answer_once
from attlas.parse import parse_count, parse_flag, parse_instance
from attlas.storage import Atlas

__all__ = ["causal_report"]

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

LOOKS = ("first_weight", "self_weight", "previous_weight", "special_weight", "duplicate_weight", "induction_weight")
"""Statistics that tell which keys weight is on; a key may be of several."""
NEAREST = 2
"""Distances from which the decay is fitted: a token itself and the one before are roles of their own."""


def causal_report(atlas: Atlas, *, rows: int = 64, save: bool = True, **choices: Any) -> xr.Dataset:
    """Of every layer and head: no weight ahead, weight by distance with its decay, spread by position, the sink.

    >>> found = attlas.analysis.causal_report(atlas, sample=60)
    >>> found.attrs["rows_that_see_ahead"], found.decay.dims, found.layer_weight.sizes["looks_at"] >= 3
    (0, ('layer', 'head'), True)

    rows: query rows of each document, spread evenly, of which the spread by position is told. save: keep the answer in
    the atlas, where it is found the next time. choices: as of `statistics` (documents, layers, sample, seed ...).

    attrs: rows_that_see_ahead, the query rows whose key interval passes themselves, over all layers: 0, or this report
    is refused. weight_at_distance(layer, head, distance): mean weight of a visible cell at these distances. decay and
    decay_fit (layer, head): a and the share of variance explained in weight ~ distance^-a, by least squares of the
    logarithms over distances of 2 and more, each bin once. sink_share(layer): mean over heads of the weight on the
    first token (Xiao et al. 2024, arXiv 2309.17453). layer_weight(layer, looks_at): mean over heads of the weight on
    kinds of keys, which overlap. position_variance(layer, position): mean over heads of the variance of the attended
    position, token^2, in octaves of the query's position. Raises InputError where the attention is not causal;
    TierError where the atlas keeps no factors.
    """
    parse_instance(atlas, "atlas", Atlas, "give what attlas.open_atlas returns")
    rows, save = parse_count(rows, "rows"), parse_flag(save, "save")
    corpus, parameters = chosen_rows(atlas, choices)
    if not corpus.same_axis:
        raise InputError(f"{corpus.kind} attention has no distances: the report is of a decoder's own text")
    ahead = sum(
        int((stop > at + 1).sum()) for document in corpus.ids for _, at, _, stop in _intervals(atlas, document, corpus)
    )
    if ahead:
        raise InputError(
            f"{corpus.kind} attention is not causal: {ahead:,} rows see keys behind themselves; `statistics` tells of "
            "it"
        )
    return answer_once(
        atlas, "causal_report", parameters | {"rows": rows},
        lambda: _report(atlas, corpus, rows, statistics(atlas, save=save, **choices)), save=save,
    )  # fmt: skip


def _intervals(atlas: Atlas, document: str, corpus: Corpus) -> Iterator[tuple[int, Places, Places, Places]]:
    """Of each layer: its place among those chosen, the query's places, and the key intervals' starts and stops."""
    for place, layer in enumerate(corpus.layer_labels):
        seen = atlas.key_intervals(document, layer, corpus.kind)
        yield place, seen["query"].values, seen.key_start.values, seen.key_stop.values


def _report(atlas: Atlas, corpus: Corpus, rows: int, found: xr.Dataset) -> xr.Dataset:
    """found: of `statistics`, of the same rows."""
    layers, documents = list(corpus.layer_labels), list(corpus.ids)
    cells = np.zeros((len(layers), found.sizes["distance"]))
    total = 0
    bins = found["distance"].values, found["distance_stop"].values
    for document in documents:
        for place, at, start, stop in _intervals(atlas, document, corpus):
            total += len(at) if not place else 0
            low, high = np.maximum(at + 1 - stop, 0), at + 1 - start  # distances that a row sees
            for i, (first, last) in enumerate(zip(*bins, strict=True)):
                cells[place, i] += np.maximum(0, np.minimum(high, last) - np.maximum(low, first)).sum()
    mass = found.weight_by_distance.transpose("layer", "head", "distance").values * total
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(cells[:, None] > 0, mass / cells[:, None], np.nan)
    slope, fit = _decay(weight, *bins)
    looks = [name for name in LOOKS if name in found]
    variance, position = _variance_by_position(atlas, documents, corpus.kind, layers, rows)
    return xr.Dataset(
        {
            "weight_at_distance": (
                ("layer", "head", "distance"), weight, _facts("mean weight of a visible cell at these distances", "1")
            ),
            "decay": (("layer", "head"), slope, _facts("a of weight ~ distance^-a, distances of 2 and more", "1")),
            "decay_fit": (("layer", "head"), fit, _facts("share of variance that the fit explains", "1")),
            "sink_share": ("layer", found.first_weight.mean("head").values, _facts("weight on the first token", "1")),
            "layer_weight": (
                ("layer", "looks_at"), np.stack([found[name].mean("head").values for name in looks], axis=1),
                _facts("mean over heads of the weight on such keys", "1"),
            ),
            "position_variance": (
                ("layer", "position"), variance,
                _facts("mean over heads and rows of the variance of the attended position", "token^2"),
            ),
        },
        {
            "layer": layers, "head": found["head"].values, "distance": bins[0],
            "distance_stop": ("distance", bins[1]), "looks_at": [name.removesuffix("_weight") for name in looks],
            "position": position,
        },
        found.attrs | {"question": "causal_report", "rows_that_see_ahead": 0},
    )  # fmt: skip


def _facts(definition: str, units: str) -> dict[str, str]:
    return {"long_name": definition, "units": units}


def _decay(weight_LHB: Floats, first_B: Any, stop_B: Any) -> tuple[Floats, Floats]:
    """Exponent and R squared of a power law through the bins, at the geometric middle of each."""
    middle_B = np.log(np.sqrt(np.maximum(first_B, 1) * np.maximum(stop_B - 1, 1)))
    slope, fit = (np.full(weight_LHB.shape[:2], np.nan) for _ in range(2))
    for i, j in np.ndindex(*slope.shape):
        some = (first_B >= NEAREST) & np.isfinite(weight_LHB[i, j]) & (weight_LHB[i, j] > 0)
        if some.sum() < 3:
            continue
        x, y = middle_B[some], np.log(weight_LHB[i, j, some])
        a, b = np.polyfit(x, y, 1)
        spread = ((y - y.mean()) ** 2).sum()
        slope[i, j] = -a
        fit[i, j] = 1 - ((y - a * x - b) ** 2).sum() / spread if spread > 0 else np.nan
    return slope, fit


def _variance_by_position(
    atlas: Atlas, documents: list[str], kind: str, layers: list[int], rows: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Mean over heads and rows of the variance of the attended position, in octaves of the query's position."""
    sums, counts = np.zeros((len(layers), 64)), np.zeros(64)
    for document in documents:
        attention = atlas.attention(document, kind).sel(layer=layers)
        queries = attention.sizes["query"]
        chosen = np.unique(np.linspace(0, queries - 1, min(rows, queries)).astype(np.int64))
        octave = np.floor(np.log2(np.maximum(attention["query"].values[chosen], 1))).astype(np.int64)
        counts += np.bincount(octave, minlength=64)
        key_K = attention["key"].values.astype(np.float64)
        for place in range(len(layers)):
            a_HQK = attention.isel(layer=place, query=chosen).values.astype(np.float64)
            mass = a_HQK.sum(axis=2)
            mean = (a_HQK @ key_K) / mass
            variance = np.maximum(0, (a_HQK @ key_K**2) / mass - mean**2).mean(axis=0)
            sums[place] += np.bincount(octave, variance, minlength=64)
    used = np.flatnonzero(counts)
    return sums[:, used] / counts[used], 2**used
