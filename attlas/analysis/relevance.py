"""How much each token counts for what a model said, by its weights, their gradients and the values they carry.

Suffixes: L layers, H heads, G kv heads, N queries, M keys, C columns: queries asked about, V value features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document, choose_labels, token_coordinates
from attlas.engine.model.layout import KINDS
from attlas.errors import InputError
from attlas.jobs.results import answer_once
from attlas.parse import parse_choice, parse_flag
from attlas.storage import Atlas
from attlas.storage.gradients import LazyGradient
from attlas.storage.page import check_gradients, target_of
from attlas.storage.stores import Where

__all__ = ["METHODS", "relevance"]

Floats = NDArray[np.float64]

METHODS = {
    "attention_x_gradient": "sum over queries of weight times the gradient of the target with respect to it",
    "value_norm": "sum over queries of the length of weight times value",
    "chefer": "rows of the product over layers of I + mean over heads of the positive part of weight times gradient",
}
SOURCES = {
    "attention_x_gradient": "https://arxiv.org/abs/1906.03731 (Serrano and Smith 2019, section 3), summed over queries",
    "value_norm": "https://arxiv.org/abs/2004.10102 (Kobayashi et al. 2020), before the output projection",
    "chefer": "https://arxiv.org/abs/2103.15679 (Chefer et al. 2021, equations 5 and 6)",
}
SHOWS = {
    "attention_x_gradient": "to first order what the target would lose with the weight, nothing else changing",
    "value_norm": "how much is carried, not whether the target needs it; of layer 0 alone a value is of one token",
    "chefer": "positive contributions along all layers; negative ones are left out by definition",
}
"""What an answer may be read as."""
MOST_CELLS = 2**24
STEP = 1024


def relevance(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    method: str = "attention_x_gradient",
    queries: Any = None,
    layers: Any = None,
    kind: str | None = None,
    save: bool = True,
) -> xr.Dataset:
    """How much each token counts for the target of an atlas that was captured with gradients.

    >>> graded = attlas.capture("demo", "one two, one two", "memory://graded", gradients="next_token")
    >>> found = attlas.analysis.relevance(graded, method="chefer")
    >>> found.relevance.dims, found.relevance.shape, found.attrs["target"]
    (('query', 'key'), (1, 17), '{"name": "next_token"}')

    method:

    - "attention_x_gradient": relevance (layer, head, key), the sum over queries of A dL/dA, signed, and
      head_importance (layer, head), the sum of all: to first order what the target would lose without the head.
    - "value_norm" (Kobayashi et al. 2020): relevance (layer, head, key), the sum over queries of A |v|; of an atlas
      with gradients, whose target it does not look at.
    - "chefer" (Chefer et al. 2021): relevance (query, key), rows of the product over layers of I + mean over heads of
      the positive part of A dL/dA, of the `queries` that the prediction is read from, the last by default. For models
      of one stack: "self" attention.

    document, layers, kind, save: as of `rollout`. The last dimension is the key, with its tokens. attrs say what it is
    (definition, source), of which target, and what it may be read as (shows). Memory: the factors of a layer, and
    blocks of rows; at any length. Raises InputError, TierError where no gradients were captured, DocumentMissingError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    method, save = parse_choice(method, "method", tuple(METHODS)), parse_flag(save, "save")
    check_gradients(atlas.keep, "relevance", document)
    if queries is not None and method != "chefer":
        raise InputError(f"queries are of chefer, whose rows they choose, and method is {method!r}: leave them out")
    if kind != "self" and method == "chefer":
        raise InputError(f"chefer goes through one stack of layers, and kind is {kind!r}: choose another method")
    attention = atlas.attention(document, kind)
    chosen = choose_labels(layers, "layers", attention["layer"].values.tolist(), "the atlas")
    rows = attention.sizes["query"]
    if atlas.attrs["kinds"][kind]["query_axis"] not in KINDS[kind]:
        raise InputError(
            f"relevance is of all query rows, and {document!r} has {rows} chosen ones: capture it without queries"
        )
    query_C = choose_labels(-1 if queries is None else queries, "queries", range(rows), "the document")
    if method == "chefer" and len(query_C) * rows > MOST_CELLS:
        raise InputError(f"{len(query_C):,} queries of {rows:,} keys are more than {MOST_CELLS:,} cells: choose fewer")
    parameters = {"document": document, "kind": kind, "layers": chosen, "method": method}
    if method == "chefer":
        parameters["queries"] = query_C

    def answer() -> xr.Dataset:
        told = {"long_name": "relevance", "units": "target", "definition": METHODS[method]}
        coordinates: dict[str, Any] = dict(token_coordinates(attention, "key"))
        if method == "chefer":
            values = _chefer(atlas, document, kind, chosen, query_C)
            variables: dict[str, Any] = {"relevance": (("query", "key"), values, told | {"units": "1"})}
            coordinates |= token_coordinates(attention, "query", at=query_C)
        else:
            of = _gradient_sums if method == "attention_x_gradient" else _value_sums
            made_LHM = np.stack([of(atlas, document, kind, layer) for layer in chosen])
            variables = {"relevance": (("layer", "head", "key"), made_LHM, told)}
            coordinates |= {
                "layer": ("layer", chosen, attention["layer"].attrs), "head": attention["head"].variable
            }  # fmt: skip
            if method == "attention_x_gradient":
                about = {"long_name": "sum of weight times gradient over all weights", "units": "target"}
                variables["head_importance"] = (("layer", "head"), made_LHM.sum(axis=2), about)
        return xr.Dataset(
            variables,
            coordinates,
            {
                "question": "relevance", "document_id": document, "kind": kind, "method": method, "layers": chosen,
                "target": target_of(atlas), "model": str(atlas.model.get("name")), "source": SOURCES[method],
                "shows": SHOWS[method],
            },
        )  # fmt: skip

    return answer_once(atlas, "relevance", parameters, answer, save=save)


def _gradient_sums(atlas: Atlas, document: str, kind: str, layer: int) -> Floats:
    """(H, M): the sum over queries of A dO . v, which is v . (A.T @ dO)."""
    operator = atlas.operator(document, layer, kind)
    rows = operator.rows
    place, heads = rows.layers.index(layer), np.arange(rows.heads)
    grad_HNV = rows.output_gradient(place, heads, np.arange(rows.queries))
    carried_HMV = operator.apply_transposed(grad_HNV.double().numpy())
    made: Floats = np.einsum("hmv,hmv->hm", carried_HMV, _values(atlas, document, kind, layer))
    return made


def _value_sums(atlas: Atlas, document: str, kind: str, layer: int) -> Floats:
    """(H, M): the sum over queries of A |v|."""
    operator = atlas.operator(document, layer, kind)
    received_HM = operator.apply_transposed(np.ones(operator.shape[0]))
    made: Floats = received_HM * np.linalg.norm(_values(atlas, document, kind, layer), axis=2)
    return made


def _values(atlas: Atlas, document: str, kind: str, layer: int) -> Floats:
    """(H, M, V): the values that each head reads."""
    rows = atlas.operator(document, layer, kind).rows
    made: Floats = (
        rows.values_of(rows.layers.index(layer), np.arange(rows.heads), np.arange(rows.keys)).double().numpy()
    )
    return made


def _chefer(atlas: Atlas, document: str, kind: str, layers: list[int], query_C: list[int]) -> Floats:
    """(C, M): from the last layer down, x + (mean over heads of (A dA)+).T x."""
    rows = atlas.operator(document, layers[0], kind).rows
    product, heads = LazyGradient(rows, "attention_x_gradient"), np.arange(rows.heads)
    x_MC = np.zeros((rows.queries, len(query_C)))
    x_MC[query_C, np.arange(len(query_C))] = 1
    for layer in reversed(layers):
        place = np.array([rows.layers.index(layer)])
        carried_MC = np.zeros_like(x_MC)
        for begin in range(0, rows.queries, STEP):
            at = np.arange(begin, min(begin + STEP, rows.queries))
            if not x_MC[at].any():
                continue
            start_Q, stop_Q = rows.intervals(int(place[0]), at)
            keys = np.arange(int(start_Q.min()), int(stop_Q.max()))
            for head in heads:
                part_QK = product.compute([place, np.array([head]), at, keys])[0, 0]
                carried_MC[keys] += np.maximum(part_QK, 0).T @ x_MC[at]
        x_MC = x_MC + carried_MC / len(heads)
    return x_MC.T
