"""The operator's kernels through their conformance class, how much they hold, and which one the door takes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.kernels import door, operator_cpu, operator_passes, operator_reference
from attlas.engine.kernels.discard import Discard
from attlas.engine.kernels.problem import Problem
from tests.engine.kernels.cases import Case, case, dense
from tests.engine.kernels.operator_conformance import OperatorConformance
from tests.engine.kernels.test_reference import LargestTensor


class TestReference(OperatorConformance):
    def run(self, transposed: bool, problem: Problem, lse_HN: torch.Tensor, x: torch.Tensor, **asked: Any) -> Any:
        kernel = operator_reference.apply_transposed if transposed else operator_reference.apply
        return kernel(problem, lse_HN, x, **asked)


class TestCpu(OperatorConformance):
    def run(self, transposed: bool, problem: Problem, lse_HN: torch.Tensor, x: torch.Tensor, **asked: Any) -> Any:
        kernel = operator_cpu.apply_transposed if transposed else operator_cpu.apply
        return kernel(problem, lse_HN, x, **asked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestCuda(OperatorConformance):
    def run(self, transposed: bool, problem: Problem, lse_HN: torch.Tensor, x: torch.Tensor, **asked: Any) -> Any:
        there = replace(problem, q_HND=problem.q_HND.cuda(), k_GMD=problem.k_GMD.cuda())
        return (door.apply_transposed if transposed else door.apply)(there, lse_HN.cuda(), x.cuda(), **asked)


def test_the_reference_is_exact_in_float64() -> None:
    problem, _ = case(Case(rows=60, mask="both", rule="bias", dtype="float64"))
    a_HNM, lse_HN = dense(problem)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3)))
    rest: dict[str, Any] = {"mean": True, "dtype": torch.float64, "tile_bytes": 5_000}
    lse, expected = torch.from_numpy(lse_HN), a_HNM.mean(axis=0)
    found = operator_reference.apply(problem, lse, x, **rest)
    np.testing.assert_allclose(found.numpy(), expected @ x.numpy(), rtol=1e-12, atol=1e-13)
    found = operator_reference.apply_transposed(problem, lse, x, **rest)
    np.testing.assert_allclose(found.numpy(), expected.T @ x.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("discard", [None, Discard(share=0.5)], ids=["all", "discard"])
@pytest.mark.parametrize("kernel", [operator_cpu, operator_reference], ids=["cpu", "reference"])
@pytest.mark.parametrize("name", ["apply", "apply_transposed"])
def test_no_more_than_a_tile_is_held(name: str, kernel: Any, discard: Discard | None) -> None:
    """Of torch the largest tensor, of numpy the peak: neither grows beyond tiles of what they are told."""
    rows, tile_bytes = 1500, 200_000
    problem, _ = case(Case(rows=rows, mask="both"))
    lse, x = torch.zeros(4, rows), torch.ones(rows, 2)
    apply = getattr(kernel, name)
    with LargestTensor():
        apply(problem, lse, x, mean=True, discard=discard, tile_bytes=tile_bytes)  # compiled and imported by now
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so that all is done in this thread, which is watched
    tracemalloc.start()
    try:
        with LargestTensor() as watched:
            apply(problem, lse, x, mean=True, discard=discard, tile_bytes=tile_bytes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        torch.set_num_threads(before)
    factors = max(problem.q_HND.nbytes, lse.nbytes)
    assert watched.largest <= max(tile_bytes, factors)
    assert peak <= 3 * tile_bytes + 2 * factors
    assert rows * rows * 4 > 5 * (3 * tile_bytes + 2 * factors), "one head's weights would be seen"


@pytest.mark.parametrize("name", ["apply", "apply_transposed"])
def test_on_the_cpu_the_door_takes_the_cpu_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = case(Case(rows=20))
    lse, x = torch.from_numpy(dense(problem)[1]).float(), torch.ones(20, 1)
    expected = getattr(operator_cpu, name)(problem, lse, x)
    monkeypatch.setattr(operator_reference, name, None)
    np.testing.assert_array_equal(getattr(door, name)(problem, lse, x).numpy(), expected.numpy())


def test_a_share_of_a_row_is_discarded_and_equal_weights_stay() -> None:
    a = np.array([[0.1, 0.2, 0.1, 0.6], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 9.0, 9.0]])
    Discard(share=0.5).of_rows(a, np.zeros(3, dtype=int), np.array([4, 4, 2]))
    np.testing.assert_allclose(a, [[0, 0.25, 0, 0.75], [0.25] * 4, [0.5, 0.5, 9, 9]])
    b = np.array([[0.3, 0.7]])
    Discard(threshold=0.9).of_rows(b, np.array([0]), np.array([2]))
    np.testing.assert_allclose(b, [[0, 1]], err_msg="a row's largest weight is never dropped")


@settings(deadline=None)  # the first one compiles
@given(
    seed=st.integers(0, 2**31), keys=st.integers(1, 200), share=st.floats(0, 0.999),
    threshold=st.sampled_from([0, 1e-2, 2]), spread=st.sampled_from([0, 1, 8, 60]),
)  # fmt: skip
def test_the_compiled_discard_is_that_of_numpy(
    seed: int, keys: int, share: float, threshold: float, spread: int
) -> None:
    draw = np.random.default_rng(seed)
    a_QK = np.exp(-spread * draw.random((5, keys)) - 3).astype(np.float32)
    a_QK[:, draw.random(keys) < 0.2] = a_QK[0, 0]  # equal weights at the edge
    a_QK[1, draw.random(keys) < 0.5] = 0
    lo_Q = draw.integers(0, keys + 1, 5)
    hi_Q = np.maximum(lo_Q, draw.integers(0, keys + 1, 5))
    expected, found = a_QK.copy(), a_QK.copy()
    Discard(share=share, threshold=threshold).of_rows(expected, lo_Q, hi_Q)
    operator_passes.discard_smallest(found, lo_Q, hi_Q, share, threshold)
    assert ((found == 0) == (expected == 0)).all()
    np.testing.assert_allclose(found, expected, rtol=3e-6)
