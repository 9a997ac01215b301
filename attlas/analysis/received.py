"""Attention received: how much each key is attended to, by the queries that may see it; at any length.

Suffixes: L layers, H heads, K keys, Q queries, U tokens, words or sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document, choose_labels, token_coordinates
from attlas.analysis.words import runs, sentences_of
from attlas.errors import InputError
from attlas.jobs.results import answer_once
from attlas.parse import parse_choice, parse_flag
from attlas.storage import Atlas
from attlas.storage.stores import Where

__all__ = ["received"]

Indices = NDArray[np.int64]

UNITS = ("token", "word", "sentence")


def received(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    layers: Any = None,
    by: str = "token",
    kind: str | None = None,
    save: bool = True,
) -> xr.Dataset:
    """The attention that each key receives in every layer and head: A.T @ 1, over the queries that may see the key.

    >>> found = attlas.analysis.received(atlas, layers=[1])
    >>> found.received.dims, found.received.sel(layer=1, head=3, key=0).item(), found.seen.sel(layer=1, key=0).item()
    (('layer', 'head', 'key'), 0.309, 146)

    document: may be left out where the atlas holds one. kind: of its kinds, the first by default. layers: of the model,
    all by default. by: "token"; "word" or "sentence", which receive what their tokens receive together (words as the
    tokenizer counts them; a sentence ends at . ! ? or their like before a space, or at a line's end). save: keep the
    answer in the atlas, where it is found the next time.

    received(layer, head, key), float32, is the mean weight of the queries that may see the key, so that an early token
    of a causal model is not ahead for being seen by more; NaN where none may. seen(layer, key) is the number of these.
    By word or sentence the last dimension is that, and the queries those that may see any of it; `text`, `first_token`
    and `tokens` say which it is. A causal model's last keys are seen by few: look at `seen` before their mean.
    Memory: as `AttentionOperator`, and the answer, 4 bytes a layer, head and key. A key may receive much because the
    head has nowhere else to look: see Xiao et al. 2023 (arXiv 2309.17453) on sinks.
    Raises InputError, DocumentMissingError, TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    by, save = parse_choice(by, "by", UNITS), parse_flag(save, "save")
    attention = atlas.attention(document, kind)
    chosen = choose_labels(layers, "layers", attention["layer"].values.tolist(), "the atlas")
    parameters = {"document": document, "kind": kind, "layers": chosen, "by": by}
    return answer_once(
        atlas, "received", parameters, lambda: _received(atlas, document, kind, attention, chosen, by), save=save
    )


def _received(
    atlas: Atlas, document: str, kind: str, attention: xr.DataArray, chosen: list[int], by: str
) -> xr.Dataset:
    starts_U, counts_U = runs(_unit_of_key(attention, by))
    stops_U = starts_U + counts_U
    received_LHU = np.empty((len(chosen), attention.sizes["head"], len(starts_U)), dtype=np.float32)
    seen_LU = np.empty((len(chosen), len(starts_U)), dtype=np.int64)
    for place, layer in enumerate(chosen):
        intervals = atlas.key_intervals(document, layer, kind)
        seen_U = seen_LU[place] = _seen(intervals.key_start.values, intervals.key_stop.values, starts_U, stops_U)
        operator = atlas.operator(document, layer, kind)
        sums_HU = np.add.reduceat(operator.apply_transposed(np.ones(operator.shape[0])), starts_U, axis=1)
        received_LHU[place] = np.where(seen_U > 0, sums_HU / np.maximum(seen_U, 1), np.nan)
    dim = "key" if by == "token" else by
    definition = f"sum over queries of the weight on the {dim}, over the number of queries that may see any of it"
    attributes = {"long_name": "attention received", "units": "1", "definition": definition}
    return xr.Dataset(
        {
            "received": (("layer", "head", dim), received_LHU, attributes),
            "seen": (("layer", dim), seen_LU, {"long_name": f"queries that may see any of the {dim}", "units": "1"}),
        },
        {
            "layer": ("layer", chosen, attention["layer"].attrs), "head": attention["head"].variable,
            **(token_coordinates(attention, "key") if by == "token" else _units(attention, by, starts_U, counts_U)),
        },
        {
            "question": "received", "document_id": document, "kind": kind, "by": by,
            "model": str(atlas.model.get("name")), "queries": attention.sizes["query"],
        },
    )  # fmt: skip


def _seen(start_Q: Indices, stop_Q: Indices, first_U: Indices, after_U: Indices) -> Indices:
    """How many queries' key intervals overlap each range of keys; no interval is empty."""
    begun_U = np.searchsorted(np.sort(start_Q), after_U, side="left")
    over_U = np.searchsorted(np.sort(stop_Q), first_U, side="right")
    return np.asarray(begun_U - over_U)


def _unit_of_key(attention: xr.DataArray, by: str) -> Indices:
    """The number of each key's token, word or sentence; -1 of one that stands alone."""
    if by == "token":
        return np.arange(attention.sizes["key"])
    if "key_word" not in attention.coords:
        raise InputError(
            f"{attention.attrs['document_id']!r} was captured without a tokenizer, and so without words: capture its "
            'text, or take by="token"'
        )
    word_K = attention["key_word"].values.astype(np.int64)
    if by == "word":
        return word_K
    names = ("key_char_start", "key_char_end")
    start_K, end_K = (attention[name].values if name in attention.coords else None for name in names)
    return sentences_of(attention["key_token"].values.tolist(), word_K, start_K, end_K)


def _units(attention: xr.DataArray, by: str, starts_U: Indices, counts_U: Indices) -> dict[str, Any]:
    """The words or sentences: their text, and which tokens they have."""
    tokens = attention["key_token"].values.tolist()
    spans = zip(starts_U.tolist(), counts_U.tolist(), strict=True)
    return {
        by: np.arange(len(starts_U)),
        "text": (by, ["".join(tokens[start : start + count]).strip() for start, count in spans]),
        "first_token": (by, starts_U, {"long_name": "place in the document", "units": "token"}),
        "tokens": (by, counts_U, {"long_name": "tokens", "units": "1"}),
    }
