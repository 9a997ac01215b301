"""Products of all layers as a job, against numpy's with the weights, on threads and on a dask cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

import attlas
from attlas import analysis
from attlas.errors import InputError, TierError
from attlas.jobs import blocks
from tests.families import BY_NAME, build_model, documents


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "bert", "bart"])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_numpys(name: str, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 8)
    monkeypatch.setattr(sys.modules[analysis.products.__module__], "shard_tokens", lambda *_: 8)
    model, given = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(23, 12))
    atlas = attlas.capture(model, given, f"memory://products-{name}", overwrite=True)
    for document in atlas:
        for kind in atlas.kinds:
            a = atlas.attention(document, kind).values.astype(np.float64)
            a = np.swapaxes(a, 2, 3) if transposed else a
            x = np.random.default_rng(0).normal(size=(a.shape[3], 3))
            asked: dict[str, Any] = {"kind": kind, "transposed": transposed}
            found = analysis.products(atlas, x, document, mean=False, **asked).product
            assert found.dims == ("layer", "head", "key" if transposed else "query", "column")
            np.testing.assert_allclose(found.values, a @ x, rtol=1e-5, atol=1e-5)
            found = analysis.products(atlas, x[:, 0].astype(np.float32), document, layers=[1], **asked).product
            assert (found.dtype, found["layer"].values.tolist()) == (np.float32, [1])
            np.testing.assert_allclose(found.values[0], (a[1] @ x[:, 0]).mean(axis=0), rtol=1e-5, atol=1e-5)


def test_of_chosen_rows(tmp_path: Path) -> None:
    atlas = attlas.capture("demo", ["the cat sat on the mat"] * 2, tmp_path / "a", queries=[3, 8], ids=["a", "b"])
    a = atlas.attention("b").values
    found = analysis.products(atlas, np.arange(a.shape[3]), "b", mean=False).product
    assert found["query"].values.tolist() == [3, 8]
    np.testing.assert_allclose(found.values, a @ np.arange(a.shape[3]), rtol=1e-5)
    found = analysis.products(atlas, [1.0, 2.0], "b", transposed=True).product
    np.testing.assert_allclose(found.values, (np.swapaxes(a, 2, 3) @ [1, 2]).mean(axis=1), rtol=1e-5)


def test_on_a_dask_cluster(tmp_path: Path) -> None:
    atlas = attlas.capture("demo", ["the cat sat on the mat"], tmp_path / "a", ids=["a"])
    x = np.random.default_rng(0).normal(size=(atlas.attention("a")["key"].size, 4))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp") as running:
        found = analysis.products(atlas, x, scheduler=running.scheduler_address)
    np.testing.assert_array_equal(found.product.values, analysis.products(atlas, x).product.values)


def test_what_cannot_be_multiplied(tmp_path: Path) -> None:
    atlas = attlas.capture("demo", ["the cat sat"], tmp_path / "a", ids=["a"])
    with pytest.raises(InputError, match=r"x is of shape \(3,\): 'a' has \d+ keys, give \(\d+,\) or \(\d+, columns\)$"):
        analysis.products(atlas, [1, 2, 3])
    with pytest.raises(InputError, match="NaN"):
        analysis.products(atlas, [np.nan] * atlas.attention("a")["key"].size)
    rows = attlas.capture("demo", ["the cat sat"], tmp_path / "b", keep="statistics")
    with pytest.raises(TierError, match="factors"):
        analysis.products(rows, [1, 2, 3])
