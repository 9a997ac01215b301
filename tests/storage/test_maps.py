"""The maps tier opens with stock tools alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import attlas
from tests.families import BY_NAME, build_model, documents, eager_attention


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "atlas.zarr"
    family = BY_NAME["llama"]
    attlas.capture(build_model(family), documents(family), path, keep="maps", ids=["a/b", "c", "d"])
    return path


def test_open_datatree(store: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xr.open_datatree(store, engine="zarr")
    names = {str(name) for name in tree["self/maps"].children}
    assert names == {"a%2Fb", "c", "d"}
    attention = tree["self/maps/c"].attention
    assert attention.dims == ("layer", "head", "query", "key")
    assert set(attention.coords) >= {"layer", "head", "query", "key", "query_token", "key_token"}
    assert attention.attrs["long_name"] == "attention weight"
    family = BY_NAME["llama"]
    eager = eager_attention(build_model(family), documents(family)[1])["self"]
    for layer in range(2):
        np.testing.assert_allclose(attention.sel(layer=layer).values, eager[layer].numpy(), atol=5e-4)


def test_open_group_with_zarr_alone(store: Path) -> None:
    group = zarr.open_group(store, mode="r")
    array = group["self/maps/d/attention"]
    assert isinstance(array, zarr.Array)
    assert array.metadata.dimension_names == ("layer", "head", "query", "key")  # type: ignore[union-attr]
    assert array.dtype == np.float16
    np.testing.assert_allclose(np.asarray(array[...]).sum(-1), 1, atol=2e-3)


def test_every_array_is_named_and_described(store: Path) -> None:
    tree = xr.open_datatree(store, engine="zarr")
    for node in tree.subtree:
        for name, variable in node.to_dataset(inherit=False).variables.items():
            assert "long_name" in variable.attrs, f"{node.path}/{name}"
            assert "units" in variable.attrs or variable.dtype.kind in "TObU", f"{node.path}/{name}"
