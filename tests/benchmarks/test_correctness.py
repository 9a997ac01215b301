"""A contender whose output is wrong is found out before time is taken: in a weight, a shape, a NaN, or an entropy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from transformers import AutoModel

import attlas
from attlas.engine.model.source import DEMO_FOLDER
from benchmarks.peers.contenders import CONTENDERS, Contender
from benchmarks.peers.correctness import Check, check_all, entropy, largest_difference, sampled
from benchmarks.peers.watch import OK, Watched

Spoil = Callable[[NDArray[Any]], NDArray[Any]]


def check(folder: Path, spoil: Spoil = lambda weights: weights, *, spoilt: str = "nnsight") -> dict[str, Check]:
    """Every contender's check where the peers' maps are eager attention's, and `spoilt` has its own changed."""
    ids = np.random.default_rng(0).integers(10, 200, 40)
    model = AutoModel.from_pretrained(DEMO_FOLDER, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        made = model(torch.from_numpy(ids)[None], output_attentions=True).attentions
    eager = np.stack([weights[0].numpy() for weights in made])

    def run(one: Contender, output: Path) -> Watched:
        output.mkdir(parents=True)
        if one.environment == "attlas":
            attlas.capture(str(DEMO_FOLDER), [ids.tolist()], output / "atlas.zarr", keep=one.how)
        elif one.name == spoilt and spoilt == "TransformerLens":
            return Watched(status="failed: ImportError: no", seconds=None, peak_bytes=None)
        else:
            maps = spoil(eager.copy()) if one.name == spoilt else eager
            dtype = np.float32 if one.name == "reference" else np.float16
            zarr.create_array(output / "maps.zarr", data=maps.astype(dtype))
        return Watched(status=OK, seconds=0.0, peak_bytes=0, bytes_written=0)

    return {one.contender: one for one in check_all(run, folder)}


def test_right_maps_pass(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert set(found) == {one.name for one in CONTENDERS} - {"forward"}
    assert {one.status for one in found.values()} == {OK}
    assert found["attlas factors"].difference is not None
    assert found["attlas factors"].difference < 1e-5


def test_a_wrong_weight_is_rejected(tmp_path: Path) -> None:
    def one_head_of_another(weights: NDArray[Any]) -> NDArray[Any]:
        weights[0, 0] = weights[0, 1]
        return weights

    found = check(tmp_path, one_head_of_another)
    assert found["nnsight"].status.startswith("wrong: differs by ")
    assert found["HF eager"].status == OK


@pytest.mark.parametrize("spoil", [lambda w: w * 1.01, lambda w: w[..., :-1], lambda w: np.where(w == 1, np.nan, w)])
def test_scale_shape_and_nan_are_rejected(spoil: Spoil, tmp_path: Path) -> None:
    assert check(tmp_path, spoil)["nnsight"].status.startswith("wrong")


def test_a_contender_that_fails_says_so(tmp_path: Path) -> None:
    assert check(tmp_path, spoilt="TransformerLens")["TransformerLens"].status == "failed: ImportError: no"


def test_without_a_judge_nothing_is_judged(tmp_path: Path) -> None:
    failing = Watched(status="out of memory", seconds=None, peak_bytes=None)
    with pytest.raises(RuntimeError, match="reference, by which the others are judged: out of memory"):
        list(check_all(lambda _one, _output: failing, tmp_path))


def test_differences_and_entropies() -> None:
    assert largest_difference(np.array([0.5, 0.25]), np.array([0.5, 0.5])) == 0.25
    assert largest_difference(np.zeros(2), np.zeros(3)) == float("inf")
    assert entropy(np.full((1, 8), 1 / 8)) == pytest.approx(np.log(8))
    assert entropy(np.array([[1.0, 0.0]])) == pytest.approx(0)
    assert sampled(30, 5) == [0, 7, 14, 22, 29]
    assert sampled(2, 5) == [0, 1]
