"""Two attentions side by side, against scipy's distances of the dense rows and the changes sorted whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import jensenshannon

import attlas
from attlas import analysis
from attlas.analysis import compare as compare_function
from attlas.errors import InputError
from tests.analysis.test_statistics import write
from tests.families import BY_NAME, build_model
from tests.storage.synthetic import synthetic


@pytest.fixture(scope="module")
def both() -> tuple[xr.DataArray, xr.DataArray]:
    """One text, two models."""
    made = [write(synthetic((31,), seed=seed), f"compare-{seed}") for seed in (1, 2)]
    return tuple(atlas.attention("doc-0") for atlas in made)  # type: ignore[return-value]


@pytest.mark.parametrize("block_bytes", [1, 31 * 8 * 7, 2**25])
def test_distances_and_changes_are_those_of_the_dense_rows(
    both: tuple[xr.DataArray, xr.DataArray], monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setitem(compare_function.__globals__, "BLOCK_BYTES", block_bytes)
    one, other = (value.drop_vars(["query_token", "key_token", "query_token_id", "key_token_id"]) for value in both)
    found = analysis.compare(one, other, top=9)
    a, b = (value.values.astype(np.float64) for value in (one, other))
    for place in np.ndindex(*a.shape[:3]):
        assert found.row_distance.values[place] == pytest.approx(jensenshannon(a[place], b[place], 2), abs=1e-3)
    np.testing.assert_allclose(found.variation, np.abs(a - b).sum(-1).mean(-1) / 2, atol=1e-6)
    np.testing.assert_allclose(found.distance, found.row_distance.mean("query"), atol=1e-12)
    order = np.argsort(-np.abs(b - a), axis=None, kind="stable")[:9]
    np.testing.assert_allclose(np.abs(found.change), np.abs((b - a).ravel()[order]), atol=2e-6)
    for rank in range(9):
        at = {dim: int(found[f"change_{dim}"][rank]) for dim in ("layer", "head", "query", "key")}
        assert float(found.change[rank]) == pytest.approx(float(other.sel(at)) - float(one.sel(at)), abs=2e-6)
    assert "difference" not in found


def test_one_attention_differs_from_itself_nowhere(both: tuple[xr.DataArray, xr.DataArray]) -> None:
    found = analysis.compare(both[0], both[0])
    assert float(found.distance.max()) == 0
    assert float(np.abs(found.change).max()) == 0


def test_heads_of_one_layer_and_their_map(both: tuple[xr.DataArray, xr.DataArray]) -> None:
    layer = both[0]["layer"].values[0]
    one, other = (both[0].sel(layer=layer, head=head) for head in (0, 1))
    found = analysis.compare(one, other, cells=16)
    whole = other.values - one.values
    assert found.difference.shape == (16, 16)
    for i, j in ((0, 0), (7, 3), (15, 0)):
        part = whole[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel()
        assert float(found.difference[i, j]) == pytest.approx(part[np.abs(part).argmax()], abs=2e-6)


def test_texts_are_aligned_by_their_tokens(tmp_path: Path) -> None:
    """A word put in: the others are found again behind it, and their weights on it are compared as a sum."""
    model = build_model(BY_NAME["llama"])
    ids = [7, 8, 9, 10, 11, 12, 13, 14]
    longer = [*ids[:3], 30, *ids[3:]]
    attlas.capture(model, [ids, longer], tmp_path / "two.zarr", ids=["a", "b"])
    atlas = attlas.open_atlas(tmp_path / "two.zarr")
    one, other = atlas.attention("a"), atlas.attention("b")
    found = analysis.compare(one, other, top=5)
    assert found.attrs["aligned"] == 8
    kept = [0, 1, 2, 4, 5, 6, 7, 8]
    a, b = one.values.astype(np.float64), other.values[:, :, kept][..., kept].astype(np.float64)
    rest = 1 - b.sum(-1, keepdims=True)
    expected = (np.abs(a - b).sum(-1) + np.abs(rest[..., 0])) / 2
    np.testing.assert_allclose(found.variation, expected.mean(-1), atol=1e-6)
    np.testing.assert_allclose(found.row_distance[:, :, :3], 0, atol=1e-3)  # causal: what stands before is as it was
    assert set(zip(found.change_query.values.tolist(), found.change_query_other.values.tolist(), strict=True)) <= set(
        zip(range(8), kept, strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one, other: (one.isel(head=[0]), other), "equally many"),
        (lambda one, other: (one.isel(query=0), other), "query, key"),
        (lambda one, other: ("attention", other), "give weights"),
    ],
    ids=["heads", "row", "text"],
)
def test_what_cannot_be_compared_is_told(both: tuple[xr.DataArray, xr.DataArray], change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analysis.compare(*change(*both))


def test_texts_without_a_common_token(tmp_path: Path) -> None:
    attlas.capture(build_model(BY_NAME["llama"]), [[5, 6, 7], [8, 9, 10]], tmp_path / "none.zarr", ids=["a", "b"])
    atlas = attlas.open_atlas(tmp_path / "none.zarr")
    with pytest.raises(InputError, match="no token in common"):
        analysis.compare(atlas.attention("a"), atlas.attention("b"))
