"""PageRank and the eigenvector by products alone, against networkx on the graph of all weights."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

import attlas
from attlas import analysis
from attlas.errors import InputError
from tests.families import BY_NAME, build_model, documents


@pytest.mark.parametrize(("family", "head"), [("llama", 1), ("llama", "mean"), ("gpt_oss", 0), ("bert", "mean")])
def test_equal_to_networkx_on_all_weights(family: str, head: int | str, tmp_path: Path) -> None:
    one = BY_NAME[family]
    attlas.capture(build_model(one), documents(one), tmp_path / "a.zarr")
    atlas = attlas.open_atlas(tmp_path / "a.zarr")
    document = next(iter(atlas))
    layer = atlas.layers("self")[-1] if "self" in atlas.kinds else atlas.layers(atlas.kinds[0])[-1]
    found = analysis.pagerank(atlas, document, layer=layer, head=head)
    weights = atlas.attention(document, atlas.kinds[0]).sel(layer=layer)
    w_NN = (weights.mean("head") if head == "mean" else weights.sel(head=head)).values.astype(np.float64)
    graph = nx.from_numpy_array(w_NN, create_using=nx.DiGraph)
    expected = nx.pagerank(graph, weight="weight", tol=1e-13, max_iter=2000)
    np.testing.assert_allclose(found.pagerank, [expected[i] for i in range(len(w_NN))], atol=1e-6)
    values, vectors = np.linalg.eigh((w_NN + w_NN.T) / 2)
    assert values[-1] - values[-2] > 1e-4
    np.testing.assert_allclose(found.eigenvector, np.abs(vectors[:, -1]), atol=1e-4)


def test_cross_attention_is_refused(tmp_path: Path) -> None:
    one = BY_NAME["t5"]
    attlas.capture(build_model(one), documents(one), tmp_path / "t5.zarr")
    atlas = attlas.open_atlas(tmp_path / "t5.zarr")
    with pytest.raises(InputError, match="tokens to themselves"):
        analysis.pagerank(atlas, next(iter(atlas)), layer=0, kind="cross")
