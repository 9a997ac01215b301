"""The reference kernel through the conformance class, and what only it does: weights of any cells, any float type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from attlas.engine.kernels import reference
from attlas.engine.kernels.measure import Attended, Measure
from attlas.engine.kernels.problem import Problem
from tests.engine.kernels.cases import MASKS, RULES, Case, brute_force, case, dense, rules, truth
from tests.engine.kernels.conformance import TiledConformance


class LargestTensor(TorchDispatchMode):
    """Watches what every operation of torch returns: the largest, and the tiles that a log-sum-exp is taken of."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.tiles: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.is_floating_point():
            self.largest = max(self.largest, found.nbytes)
        if func.overloadpacket is torch.ops.aten.logsumexp:
            self.tiles.append(args[0].shape)
        return found


class TestReference(TiledConformance):
    def run(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
        return reference.attend(problem, v_GMV, measure)

    def tiles(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> list[tuple[int, int]]:
        with LargestTensor() as watched:
            self.run(problem, v_GMV, measure)
        blocks = reference.plan_rows(problem.start_N, problem.stop_N, problem.heads * 4, measure.tile_bytes)
        assert [shape[1] for shape in watched.tiles] == [end - begin for begin, end, _, _ in blocks]
        factors = max(problem.q_HND.nbytes, problem.k_GMD.nbytes, 4 * problem.rows * problem.heads * v_GMV.shape[2])
        assert watched.largest <= max(factors, *(shape.numel() * 4 for shape in watched.tiles))
        seen_N = problem.stop_N - problem.start_N
        return [
            (int(seen_N[begin:end].sum()), shape.numel() * 4)
            for (begin, end, _, _), shape in zip(blocks, watched.tiles, strict=True)
        ]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(1, 600), cell_bytes=st.integers(1, 64), tile_bytes=st.integers(1, 10**6))
def test_a_plan_of_rows_covers_them_within_its_bytes(
    data: st.DataObject, rows: int, cell_bytes: int, tile_bytes: int
) -> None:
    row = np.arange(rows)
    start = {"causal": row * 0, "window": np.maximum(row - 5, 0)}[data.draw(st.sampled_from(["causal", "window"]))]
    blocks = reference.plan_rows(start, row + 1, cell_bytes, tile_bytes)
    assert [i for begin, end, _, _ in blocks for i in range(begin, end)] == list(range(rows))
    for begin, end, low, high in blocks:
        assert (low, high) == (int(start[begin]), end)
        span = high - low
        assert end - begin == 1 or (end - begin) * span * cell_bytes <= tile_bytes
        assert end - begin <= 256


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mask", MASKS)
def test_what_the_kernels_are_held_to_is_brute_force(mask: str, rule: str) -> None:
    """The dense float64 softmax of the conformance tests, cell by cell."""
    for of in (Case(rows=30, mask=mask, rule=rule), Case(rows=30, mask=mask, rule=rule, first=11)):
        problem, _ = case(of)
        np.testing.assert_allclose(truth(of).a_HNM, brute_force(problem), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_weights_of_any_cells(rule: str) -> None:
    problem, _ = case(Case(rows=40, mask="around", rule=rule))
    expected, lse_HN = dense(problem)
    lse = torch.from_numpy(lse_HN).float()
    np.testing.assert_allclose(reference.weights(problem, lse).numpy(), expected, atol=2e-6)
    rows, keys = np.array([30, 2, 2, 17]), np.array([5, 31, 30, 0, 16, 17])
    some = problem.of(rows=rows)
    part = Problem(
        q_HND=some.q_HND, k_GMD=some.k_GMD[:, keys], rule=some.rule, start_N=some.start_N, stop_N=some.stop_N,
        tokens=some.tokens,
    )  # fmt: skip
    got = reference.weights(part, lse[:, rows], key_M=keys)
    np.testing.assert_allclose(got.numpy(), expected[:, rows][:, :, keys], atol=2e-6)
    heads = np.array([1, 3])
    one_by_one = reference.weights(part.of(heads=heads), lse[heads][:, rows], key_M=keys)
    np.testing.assert_allclose(one_by_one.numpy(), expected[heads][:, rows][:, :, keys], atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), tile_bytes=st.integers(200, 200_000), mask=st.sampled_from(MASKS))
def test_in_float64_tiles_change_nothing_and_rows_sum_to_one(seed: int, tile_bytes: int, mask: str) -> None:
    of = Case(seed=seed, mask=mask, rows=40, dtype="float64")
    problem, v = case(of)
    measure = Measure(names=("max_weight", "squared_sum", "entropy"), tile_bytes=tile_bytes)
    cut = reference.attend(problem, v, measure, dtype=torch.float64)
    np.testing.assert_allclose(cut.out_NHV.numpy(), truth(of).out_NHV, atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(cut.rows.lse_HN.numpy(), truth(of).lse_HN, atol=1e-12, rtol=1e-12)
    for name, value in cut.rows.statistics.items():
        np.testing.assert_allclose(value.numpy(), truth(of).statistics[name], atol=1e-12, rtol=1e-12)
    a = reference.weights(problem, cut.rows.lse_HN, dtype=torch.float64)
    np.testing.assert_allclose(a.sum(2).numpy(), 1, atol=1e-12, rtol=0)


def test_rules_of_some_heads_are_their_own() -> None:
    problem, _ = case(Case(rule="sinks"))
    part = problem.of(heads=np.array([0, 3]))
    sink = rules()["sinks"].sink_H
    assert sink is not None
    assert part.rule.sink_H is not None
    np.testing.assert_array_equal(part.rule.sink_H, sink[[0, 3]])
    assert part.groups == 2, "each of the two uses a kv head of its own"
    assert problem.of(heads=np.array([0, 1])).groups == 1, "both use the same"
    assert problem.of(heads=np.array([0, 1, 2])).groups == 3, "unequally shared: one for each"
