"""Small maps against numpy's pooling of the dense weights, whatever the blocks; masked cells are told apart from 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import attlas
from attlas import analysis
from attlas.analysis import overview as overview_function
from attlas.errors import DocumentMissingError, InputError
from tests.analysis.test_statistics import write
from tests.families import BY_NAME, build_model, documents
from tests.storage.synthetic import synthetic

LENGTHS = (53, 20)
SIZES = st.integers(1, 40)


@pytest.fixture(scope="module")
def made() -> tuple[attlas.Atlas, NDArray[np.float64]]:
    one = synthetic(LENGTHS, seed=5)
    return write(one, "overview"), one.dense(0)


def pooled(a_QK: NDArray[Any], cells: int, pool: str) -> NDArray[Any]:
    """By loops, over the visible cells of a causal map."""
    n = len(a_QK)
    block = -(-n // cells)
    starts = range(0, n, block)
    out = np.full((len(starts), len(starts)), np.nan)
    for i, q in enumerate(starts):
        for j, k in enumerate(starts):
            if k > min(q + block, n) - 1:
                continue  # no query of the block sees a key of this one
            part = a_QK[q : q + block, k : k + block]
            out[i, j] = part.max() if pool == "max" else part.sum() / len(part)
    return out


@pytest.mark.parametrize("pool", ["max", "mass"])
@pytest.mark.parametrize("cells", [1, 7, 26, 53, 500])
@pytest.mark.parametrize("block_bytes", [53 * 4 * 4, 2**25])
def test_equal_to_pooling_of_the_dense_map(
    made: tuple[attlas.Atlas, NDArray[np.float64]],
    monkeypatch: pytest.MonkeyPatch, pool: str, cells: int, block_bytes: int,
) -> None:  # fmt: skip
    monkeypatch.setitem(overview_function.__globals__, "BLOCK_BYTES", block_bytes)
    atlas, a_LHQK = made
    layers = atlas.layers("self")
    for layer, head in ((0, 1), (-1, "mean")):
        a_QK = a_LHQK[layer].mean(axis=0) if head == "mean" else a_LHQK[layer, 1]
        small = analysis.overview(atlas, "doc-0", layer=layers[layer], head=head, cells=cells, pool=pool)
        np.testing.assert_allclose(small.values, pooled(a_QK, cells, pool), atol=2e-6)
        assert small["query"].values.tolist() == list(range(0, 53, -(-53 // cells)))
        if pool == "mass":
            np.testing.assert_allclose(small.sum("key"), 1, atol=1e-5)
    assert small.attrs["block_queries"] == -(-53 // cells)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from(["max", "mass", "extreme"]), st.data())
def test_any_weights_ragged_and_masked(queries: int, keys: int, cells: int, pool: str, data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 9)))
    a_QK = draw.random((queries, keys)).astype(np.float32) - (0.5 if pool == "extreme" else 0)
    a_QK[draw.random(a_QK.shape) < 0.4] = np.nan
    small = analysis.shrink(xr.DataArray(a_QK, dims=("query", "key")), cells=cells, pool=pool).values
    block_Q, block_K = -(-queries // cells), -(-keys // cells)
    for i, q in enumerate(range(0, queries, block_Q)):
        for j, k in enumerate(range(0, keys, block_K)):
            part = a_QK[q : q + block_Q, k : k + block_K]
            if np.isnan(part).all():
                assert np.isnan(small[i, j])
            else:
                mass = np.nansum(part, dtype=np.float64) / len(part)
                farthest = part.ravel()[np.nanargmax(np.abs(part))]
                expected = {"max": np.nanmax(part), "mass": mass, "extreme": farthest}[pool]
                assert small[i, j] == pytest.approx(expected, rel=1e-5)


def test_thumbnails_are_rows_of_the_dense_map(made: tuple[attlas.Atlas, NDArray[np.float64]]) -> None:
    atlas, a_LHQK = made
    every = analysis.thumbnails(atlas, "doc-0", cells=20)
    rows = every["query"].values
    assert rows.tolist() == [*range(2, 53, 3), 52]
    for j, key in enumerate(every["key"].values):
        largest = a_LHQK[:, :, rows, key : key + 3].max(axis=-1)
        largest[:, :, rows < key] = np.nan
        np.testing.assert_allclose(every.values[..., j], largest, atol=2e-6)


def test_cross_attention_has_no_masked_block(tmp_path: Path) -> None:
    model = build_model(BY_NAME["t5"])
    attlas.capture(model, documents(BY_NAME["t5"]), tmp_path / "t5.zarr")
    atlas = attlas.open_atlas(tmp_path / "t5.zarr")
    document = next(iter(atlas))
    small = analysis.overview(atlas, document, layer=0, head=0, kind="cross", cells=3)
    whole = atlas.attention(document, "cross").sel(layer=0, head=0).values
    assert np.isfinite(small.values).all()
    assert small.shape == tuple(-(-size // -(-size // 3)) for size in whole.shape)
    assert float(small.max()) == pytest.approx(float(whole.max()))


def test_what_is_not_there_is_told(made: tuple[attlas.Atlas, NDArray[np.float64]]) -> None:
    atlas, _ = made
    layer = atlas.layers("self")[0]
    with pytest.raises(InputError, match="2 documents"):
        analysis.overview(atlas, layer=layer)
    with pytest.raises(DocumentMissingError, match="doc-9"):
        analysis.thumbnails(atlas, "doc-9")
    with pytest.raises(InputError, match="pool"):
        analysis.overview(atlas, "doc-0", layer=layer, pool="mean")
    with pytest.raises(InputError, match="cells"):
        analysis.overview(atlas, "doc-0", layer=layer, cells=0)
    with pytest.raises(InputError, match="query and key"):
        analysis.shrink(xr.DataArray(np.zeros((2, 2))))
    with pytest.raises(InputError, match="no layer 99"):
        atlas.key_intervals("doc-0", 99)


def test_all_layers_at_once(made: tuple[attlas.Atlas, NDArray[np.float64]]) -> None:
    atlas, a_LHQK = made
    every = analysis.overview(atlas, "doc-0", layer=None, head=1, cells=9)
    assert every["layer"].values.tolist() == list(atlas.layers("self"))
    for small_QK, a_HQK in zip(every.values, a_LHQK, strict=True):
        np.testing.assert_allclose(small_QK, pooled(a_HQK[1], 9, "max"), atol=2e-6)


@pytest.mark.parametrize("keys", ["5:40", "stride:7", "50:"])
def test_of_chosen_places(made: tuple[attlas.Atlas, NDArray[np.float64]], keys: str) -> None:
    """Blocks of the places that are chosen; masked where no query sees a chosen key, also between strides."""
    atlas, a_LHQK = made
    layer = atlas.layers("self")[0]
    small = analysis.overview(atlas, "doc-0", layer=layer, head=0, queries="10:30", keys=keys, cells=4)
    places = {"5:40": np.arange(5, 40), "stride:7": None, "50:": np.arange(50, 53)}[keys]
    if places is None:
        whole = analysis.overview(atlas, "doc-0", layer=layer, head=0, keys=keys, cells=500)
        places = whole["key"].values
    block = -(-len(places) // 4)
    for i, first in enumerate(range(10, 30, 5)):
        for j, begin in enumerate(range(0, len(places), block)):
            some = places[begin : begin + block]
            if some.min() > first + 4:
                assert np.isnan(small.values[i, j])
            else:
                assert float(small[i, j]) == pytest.approx(a_LHQK[0, 0, first : first + 5][:, some].max(), abs=2e-6)
