"""Attention flow against networkx's, in float, and by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

import attlas
from attlas import analysis
from attlas.errors import InputError
from tests.families import BY_NAME, build_model, documents


def reference(a_LNN: np.ndarray, residual: float, query: int, key: int) -> float:
    """By networkx on float capacities."""
    graph, layers, tokens = nx.DiGraph(), len(a_LNN), a_LNN.shape[1]
    for layer in range(layers):
        full = (1 - residual) * a_LNN[layer] + residual * np.eye(tokens)
        for i, j in zip(*np.nonzero(full), strict=True):
            graph.add_edge((layer + 1, int(i)), (layer, int(j)), capacity=float(full[i, j]))
    return float(nx.maximum_flow_value(graph, (layers, query), (0, key)))


@pytest.mark.parametrize(("family", "residual"), [("llama", 0.5), ("bert", 0.5), ("llama", 0.1), ("gpt2", 0.0)])
def test_flow_is_networkx_within_its_stated_bound(family: str, residual: float) -> None:
    model, inputs = build_model(BY_NAME[family]), documents(BY_NAME[family])
    atlas = attlas.capture(model, [inputs[0][:14]], f"memory://flow-{family}", overwrite=True)
    a_LNN = atlas.attention("doc-0").values.astype(np.float64).mean(axis=1)
    found = analysis.flow(atlas, queries=[5, 13], keys=[0, 5, 9], residual=residual)
    for query in (5, 13):
        for key in (0, 5, 9):
            cell = found.sel(query=query, key=key)
            expected = reference(a_LNN, residual, query, key)
            assert 0 <= float(cell.flow_bound) < 1e-6
            assert float(cell.flow) <= expected + 1e-9
            assert expected <= float(cell.flow + cell.flow_bound) + 1e-9


def test_two_layers_of_two_tokens_by_hand() -> None:
    """From token 1 above to token 0 below: 0.5 of the lower edge and what the upper lets through; see the numbers."""
    from attlas.analysis.flow import _flow, _layer_graph

    lower, upper = np.array([[1.0, 0.0], [0.25, 0.75]]), np.array([[1.0, 0.0], [0.5, 0.5]])
    graph = _layer_graph([lower, upper])
    # 1 above -> 0 between (0.5) -> 0 below (1): 0.5; 1 above -> 1 between (0.5) -> 0 below (0.25): 0.25
    assert _flow(graph, 5, 0)[0] == pytest.approx(0.75, abs=1e-8)
    assert _flow(graph, 4, 1)[0] == 0.0


def test_refusals_say_how_far(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build_model(BY_NAME["t5"]), documents(BY_NAME["t5"])
    atlas = attlas.capture(model, inputs, "memory://flow-t5", overwrite=True)
    with pytest.raises(InputError, match="flow goes through layers of one text"):
        analysis.flow(atlas, "doc-0", kind="cross")
    monkeypatch.setitem(analysis.flow.__globals__, "MOST_EDGES", 100)
    with pytest.raises(InputError, match=r"has up to \d+ edges, and 100 are taken: choose fewer layers"):
        analysis.flow(atlas, "doc-0", kind="encoder")
