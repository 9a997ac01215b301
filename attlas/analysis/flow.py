"""Attention flow (Abnar and Zuidema 2020): how much can flow from a token of the input to one above, through layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from attlas.analysis.choosing import choose_document, choose_labels, token_coordinates
from attlas.errors import InputError
from attlas.jobs.results import answer_once
from attlas.parse import parse_flag, parse_fraction
from attlas.storage import Atlas
from attlas.storage.stores import Where

__all__ = ["flow"]

Floats = NDArray[np.float64]

UNIT = 2_000_000_000
"""Capacities are whole numbers of 1 / UNIT, as scipy wants them, rounded down."""
MOST_EDGES = 4_000_000
"""Edges of the layer graph: 30 layers of 512 causal tokens."""


def flow(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    queries: Any = -1,
    keys: Any = None,
    layers: Any = None,
    residual: float = 0.5,
    kind: str | None = None,
    save: bool = True,
) -> xr.Dataset:
    """The largest flow from a token of the input to one above the layers (Abnar and Zuidema 2020, arXiv 2005.00928).

    >>> found = attlas.analysis.flow(atlas, queries=[6], keys=[0, 3])
    >>> found.flow.values.round(3), bool((found.flow_bound < 1e-6).all())
    (array([[0.935, 0.456]]), True)

    document: may be left out where the atlas holds one. kind: of its kinds, the first by default.
    Tokens after each layer are nodes; the mean over heads, (1 - residual) A + residual I, are capacities. queries,
    keys: positions, as `parse_selection` reads them; the last query and all keys unless told. layers: a range of them,
    all by default. flow(query, key), float64: from the key's token below the first layer to the query's above the last.
    save: keep the answer in the atlas, where it is found the next time.
    flow_bound(query, key): by how much the true flow may be above, as capacities are rounded down to 1 / UNIT. A flow
    is bound by the narrowest layer alone, and rows do not sum to one: it says what could pass, not what did.
    Raises InputError for cross attention and where the layer graph has more than MOST_EDGES edges; TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    residual, save = parse_fraction(residual, "residual"), parse_flag(save, "save")
    attention = atlas.attention(document, kind)
    have: list[int] = attention["layer"].values.tolist()
    chosen = choose_labels(layers, "layers", have, "the atlas")
    tokens = attention.sizes["key"]
    if kind == "cross" or attention.sizes["query"] != tokens:
        raise InputError(f"flow goes through layers of one text, each token a query: {kind} of {document!r} is not so")
    edges = len(chosen) * tokens * (tokens + 1) // 2
    if edges > MOST_EDGES:
        raise InputError(
            f"the flow of {tokens:,} tokens through {len(chosen)} layers has up to {edges:,} edges, and {MOST_EDGES:,} "
            "are taken: choose fewer layers or a shorter document, or take analysis.rollout"
        )
    places = list(range(tokens))
    query_Q, key_K = (
        choose_labels(one, name, places, "the document") for one, name in ((queries, "queries"), (keys, "keys"))
    )
    parameters = {
        "document": document, "kind": kind, "layers": chosen, "residual": residual, "queries": query_Q, "keys": key_K,
    }  # fmt: skip
    return answer_once(
        atlas, "flow", parameters, lambda: _answer(attention, chosen, residual, query_Q, key_K), save=save
    )


def _answer(
    attention: xr.DataArray, chosen: list[int], residual: float, query_Q: list[int], key_K: list[int]
) -> xr.Dataset:
    tokens = attention.sizes["key"]
    a_LNN = [_capacities(attention.sel(layer=layer), residual) for layer in chosen]
    graph = _layer_graph(a_LNN)
    found_QK, bound_QK = np.zeros((len(query_Q), len(key_K))), np.zeros((len(query_Q), len(key_K)))
    for i, query in enumerate(query_Q):
        for j, key in enumerate(key_K):
            found_QK[i, j], bound_QK[i, j] = _flow(graph, len(chosen) * tokens + query, key)
    coordinates = token_coordinates(attention, "query", at=query_Q) | token_coordinates(attention, "key", at=key_K)
    return xr.Dataset(
        {
            "flow": (("query", "key"), found_QK, {"long_name": "largest flow from key to query", "units": "1"}),
            "flow_bound": (
                ("query", "key"), bound_QK, {"long_name": "by how much the flow may be larger", "units": "1"}
            ),
        },
        coordinates,
        {
            "question": "flow", "document_id": attention.attrs["document_id"], "kind": attention.attrs["kind"],
            "layers": list(chosen), "residual": residual, "source": "Abnar and Zuidema 2020",
        },
    )  # fmt: skip


def _capacities(attention: xr.DataArray, residual: float) -> Floats:
    """(N, N) float64 of one layer."""
    a_NN = np.zeros((attention.sizes["query"], attention.sizes["key"]))
    for head in range(attention.sizes["head"]):
        a_NN += attention.isel(head=head).values
    a_NN *= (1 - residual) / attention.sizes["head"]
    a_NN[np.diag_indices_from(a_NN)] += residual
    return a_NN


def _layer_graph(a_LNN: list[Floats]) -> csr_array:
    """From each token above a layer to those below it: node layer x N + token, 0 being the input."""
    tokens, froms, tos, capacities = len(a_LNN[0]), [], [], []
    for layer, a_NN in enumerate(a_LNN):
        capacity_NN = np.floor(a_NN * UNIT).astype(np.int64)
        query_E, key_E = np.nonzero(capacity_NN)
        froms.append((layer + 1) * tokens + query_E)
        tos.append(layer * tokens + key_E)
        capacities.append(np.minimum(capacity_NN[query_E, key_E], np.iinfo(np.int32).max))
    nodes = (len(a_LNN) + 1) * tokens
    shape = (nodes, nodes)
    return csr_array((np.concatenate(capacities).astype(np.int32), (np.concatenate(froms), np.concatenate(tos))), shape)


def _flow(graph: csr_array, source: int, sink: int) -> tuple[float, float]:
    """The flow, and the rounding of the cut that limits it, by which alone the true one may be larger."""
    found = maximum_flow(graph, source, sink, method="dinic")
    left = csr_array(graph - found.flow)
    left.eliminate_zeros()
    inside = np.zeros(graph.shape[0], dtype=bool)
    inside[breadth_first_order(left, source, return_predecessors=False)] = True
    from_E, to_E = graph.nonzero()
    crossing = int((inside[from_E] & ~inside[to_E]).sum())
    return found.flow_value / UNIT, crossing / UNIT
