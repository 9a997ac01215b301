"""Attention received: how much each key is attended to, by the queries that may see it; at any length.

Suffixes: L layers, H heads, K keys, U tokens, words or sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document, choose_labels, token_coordinates
from attlas.analysis.words import runs, sentences_of
from attlas.errors import InputError
from attlas.jobs.results import find_result, keep_result
from attlas.parse import parse_choice, parse_flag
from attlas.storage import Atlas

__all__ = ["received"]

UNITS = ("token", "word", "sentence")
DEFINITION = "sum over queries of the weight on the key, over the number of queries that may see it"


def received(
    atlas: Atlas,
    document: str | None = None,
    *,
    layers: Any = None,
    by: str = "token",
    kind: str | None = None,
    save: bool = True,
) -> xr.Dataset:
    """The attention that each key receives in every layer and head: A.T @ 1, over the queries that may see the key.

    >>> found = attlas.analysis.received(atlas, layers=[1])
    >>> found.received.dims, found.received.sel(layer=1, head=1).argmax().item()
    (('layer', 'head', 'key'), 0)

    document: may be left out where the atlas holds one. kind: of its kinds, the first by default. layers: of the model,
    all by default. by: "token"; "word" or "sentence", which receive what their tokens receive together (a word as the
    tokenizer counts them; a sentence ends at . ! ? or their like before a space, or at a line's end). save: keep the
    answer in the atlas, where it is found the next time.

    received(layer, head, key), float32, is the mean weight of the queries that may see the key, so that an early token
    of a causal model is not ahead for being seen by more; NaN where none may. seen(layer, key) is the number of these.
    By word or sentence the last dimension is that, with its `text`, its first token and their number, and no `seen`.
    Memory: as `AttentionOperator`, and the answer, 4 bytes a layer, head and key.
    A key may receive much because the head has nowhere else to look: see Xiao et al. 2023 (arXiv 2309.17453) on sinks.
    Raises InputError, DocumentMissingError, TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    by, save = parse_choice(by, "by", UNITS), parse_flag(save, "save")
    attention = atlas.attention(document, kind)
    chosen = choose_labels(layers, "layers", attention["layer"].values.tolist(), "the atlas")
    parameters = {"document": document, "kind": kind, "layers": chosen, "by": by}
    kept = find_result(atlas, "received", parameters)
    if kept is not None:
        return kept
    heads, keys = attention.sizes["head"], attention.sizes["key"]
    received_LHK = np.empty((len(chosen), heads, keys), dtype=np.float32)
    seen_LK = np.empty((len(chosen), keys), dtype=np.int64)
    for place, layer in enumerate(chosen):
        seen_LK[place] = _seen(atlas.key_intervals(document, layer, kind), keys)
        operator = atlas.operator(document, layer, kind)
        sums_HK = operator.apply_transposed(np.ones(operator.shape[0]))
        with np.errstate(invalid="ignore", divide="ignore"):
            received_LHK[place] = np.where(seen_LK[place] > 0, sums_HK / seen_LK[place], np.nan)
    attributes = {"long_name": "attention received", "units": "1", "definition": DEFINITION}
    answer = xr.Dataset(
        {
            "received": (("layer", "head", "key"), received_LHK, attributes),
            "seen": (("layer", "key"), seen_LK, {"long_name": "queries that may see the key", "units": "1"}),
        },
        {
            "layer": ("layer", chosen, attention["layer"].attrs), "head": attention["head"].variable,
            **token_coordinates(attention, "key"),
        },
        {
            "question": "received", "document_id": document, "kind": kind, "by": by,
            "model": str(atlas.model.get("name")), "queries": attention.sizes["query"],
        },
    )  # fmt: skip
    if by != "token":
        answer = _together(answer, _unit_of_key(attention, by), by)
    return keep_result(atlas, "received", parameters, answer) if save else answer


def _seen(intervals: xr.Dataset, keys: int) -> NDArray[np.int64]:
    """By how many queries each key may be seen."""
    edges_K = np.bincount(intervals.key_start.values, minlength=keys + 1)
    edges_K -= np.bincount(intervals.key_stop.values, minlength=keys + 1)
    return np.cumsum(edges_K)[:keys]


def _unit_of_key(attention: xr.DataArray, by: str) -> NDArray[np.int64]:
    """The number of each key's word or sentence; -1 of one that stands alone."""
    if "key_word" not in attention.coords:
        raise InputError(
            f"{attention.attrs['document_id']!r} was given as token ids, without words: capture its text, or take "
            'by="token"'
        )
    word_K = attention["key_word"].values.astype(np.int64)
    if by == "word":
        return word_K
    names = ("key_char_start", "key_char_end")
    start_K, end_K = (attention[name].values if name in attention.coords else None for name in names)
    return sentences_of(attention["key_token"].values.tolist(), word_K, start_K, end_K)


def _together(answer: xr.Dataset, unit_K: NDArray[np.int64], by: str) -> xr.Dataset:
    """Sums over the tokens of each word or sentence; a token that nobody sees adds nothing."""
    starts_U, counts_U = runs(unit_K)
    values_LHK = answer.received.values
    sums_LHU = np.add.reduceat(np.nan_to_num(values_LHK), starts_U, axis=2)
    unseen_LHU = np.logical_and.reduceat(np.isnan(values_LHK), starts_U, axis=2)
    tokens = answer["key_token"].values.tolist()
    texts = ["".join(tokens[start : start + count]).strip() for start, count in zip(starts_U, counts_U, strict=True)]
    return xr.Dataset(
        {
            "received": (
                ("layer", "head", by), np.where(unseen_LHU, np.float32(np.nan), sums_LHU),
                answer.received.attrs | {"definition": f"{DEFINITION}, summed over the tokens of the {by}"},
            )
        },
        {
            "layer": answer["layer"], "head": answer["head"], by: np.arange(len(starts_U)), "text": (by, texts),
            "first_token": (by, starts_U, {"long_name": "place in the document", "units": "token"}),
            "tokens": (by, counts_U, {"long_name": "tokens", "units": "1"}),
        },
        answer.attrs,
    )  # fmt: skip
