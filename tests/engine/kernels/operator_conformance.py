"""What every kernel of the operator must do, as a class of tests: held to the dense float64 product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attlas.engine.kernels.discard import Discard
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.problem import Problem
from tests.engine.kernels.cases import MASKS, RULES, Case, case, dense

__all__ = ["OperatorConformance", "discarded"]

Float = NDArray[np.float64]
DISCARDS = (Discard(share=0.5), Discard(share=0.97), Discard(threshold=0.05), Discard(share=0.2, threshold=0.03))


def discarded(a_NM: Float, seen_NM: NDArray[np.bool_], discard: Discard) -> Float:
    """The mean weights less the smallest ones of each row, by sorting, row by row."""
    out = np.zeros_like(a_NM)
    for i, row in enumerate(a_NM):
        seen = np.flatnonzero(seen_NM[i])
        if not len(seen):
            continue
        order = seen[np.argsort(row[seen], kind="stable")]
        left = [j for j in order[int(discard.share * len(seen)) :] if row[j] >= discard.threshold] or [order[-1]]
        out[i, left] = row[left] * row[seen].sum() / row[left].sum()
    return out


class OperatorConformance(ABC):
    """A kernel of the operator against float64: rules x masks, head groups, cross-attention, keys that rows lack."""

    bound: ClassVar[float] = 1e-5
    least_tile: ClassVar[int] = 0

    @abstractmethod
    def run(self, transposed: bool, problem: Problem, lse_HN: torch.Tensor, x: torch.Tensor, **asked: Any) -> Any:
        """A @ X, or A.T @ X, by the kernel."""

    def check(
        self, problem: Problem, *, columns: int = 3, dtype: torch.dtype = torch.float32, tile_bytes: int = TILE_BYTES
    ) -> None:
        """X shared and one a head; of each head and of their mean; both ways."""
        a_HNM, lse_HN = dense(problem)
        self.check_against(problem, a_HNM, lse_HN, columns=columns, dtype=dtype, tile_bytes=tile_bytes)

    def check_against(
        self, problem: Problem, a_HNM: Float, lse_HN: Float, *, columns: int, dtype: torch.dtype, tile_bytes: int
    ) -> None:
        rng, lse = np.random.default_rng(3), torch.from_numpy(lse_HN).float()
        for transposed in (False, True):
            maps = a_HNM.transpose(0, 2, 1) if transposed else a_HNM
            size = maps.shape[2]
            for shape in ((size, columns), (len(maps), size, columns)):
                x = torch.from_numpy(rng.normal(size=shape)).to(dtype)
                expected = maps @ x.double().numpy()
                for mean in (False, True):
                    found = self.run(transposed, problem, lse, x, mean=mean, tile_bytes=tile_bytes)
                    assert found.dtype == dtype
                    self.near(found, expected.mean(axis=0) if mean else expected)

    def near(self, found: torch.Tensor, expected: Float) -> None:
        assert tuple(found.shape) == expected.shape
        error = np.abs(found.double().cpu().numpy() - expected).max() / np.abs(expected).max()
        assert error <= self.bound, error

    @pytest.mark.parametrize("first", [0, 45], ids=["whole", "later chunk"])
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("mask", MASKS)
    def test_every_rule_under_every_mask(self, mask: str, rule: str, first: int) -> None:
        self.check(case(Case(mask=mask, rule=rule, first=first))[0])

    @pytest.mark.parametrize(("heads", "groups"), [(1, 1), (3, 1), (6, 2), (5, 5)])
    @pytest.mark.parametrize("features", [7, 24])
    def test_head_groups_and_odd_sizes(self, heads: int, groups: int, features: int) -> None:
        self.check(case(Case(rows=31 + features, heads=heads, groups=groups, features=features))[0])

    @pytest.mark.parametrize("rule", ["plain", "softcap", "sinks"])
    def test_cross_attention(self, rule: str) -> None:
        self.check(case(Case(rows=23, keys=41, mask="both", rule=rule))[0])

    @pytest.mark.parametrize("mask", ["causal", "packed"])
    def test_some_heads_and_rows(self, mask: str) -> None:
        problem, _ = case(Case(rows=60, heads=6, groups=3, mask=mask, rule="sinks"))
        self.check(problem.of(heads=np.array([0, 3, 4]), rows=np.array([2, 3, 17, 59])))

    @pytest.mark.parametrize("rule", RULES)
    def test_keys_that_some_rows_do_not_see(self, rule: str) -> None:
        """Part of the keys: what the storage's reader gives. Rows that see none of them give and take nothing."""
        problem, _ = case(Case(rows=90, mask="window", rule=rule))
        a_HNM, lse_HN = dense(problem)
        low, high = 40, 71
        assert problem.tokens.own_N is not None
        part = replace(
            problem, k_GMD=problem.k_GMD[:, low:high], start_N=np.clip(problem.start_N, low, high) - low,
            stop_N=np.clip(problem.stop_N, low, high) - low,
            tokens=replace(problem.tokens, own_N=problem.tokens.own_N - low),
        )  # fmt: skip
        self.check_against(part, a_HNM[:, :, low:high], lse_HN, columns=2, dtype=torch.float32, tile_bytes=TILE_BYTES)

    def test_bfloat16_factors_are_taken_as_they_are(self) -> None:
        self.check(case(Case(dtype="bfloat16"))[0])

    def test_sums_are_in_the_dtype_of_x(self) -> None:
        """Of 300 equal weights of 1/300 on ones, in float64: what is left is the error of a float32 weight."""
        problem, _ = case(Case(rows=300, mask="both"))
        flat = replace(problem, q_HND=problem.q_HND * 0)
        lse = torch.full((4, 300), float(np.log(300)))
        found = self.run(False, flat, lse, torch.ones(300, 1, dtype=torch.float64), mean=True)
        assert found.dtype == torch.float64
        assert float(found.max() - found.min()) < 1e-13
        self.check(problem, dtype=torch.float64, columns=1)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        heads=st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 6)]), rows=st.integers(1, 150), threads=st.integers(1, 3),
        tile_bytes=st.integers(1, 100_000), mask=st.sampled_from(MASKS), columns=st.integers(1, 9),
    )  # fmt: skip
    def test_neither_tiles_nor_threads_matter(
        self, heads: tuple[int, int], rows: int, threads: int, tile_bytes: int, mask: str, columns: int
    ) -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            problem, _ = case(Case(rows=rows, heads=heads[0], groups=heads[1], mask=mask))
            self.check(problem, tile_bytes=tile_bytes, columns=columns)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("discard", DISCARDS, ids=lambda one: f"{one.share}-{one.threshold}")
    @pytest.mark.parametrize("mask", ["causal", "window", "both"])
    @pytest.mark.parametrize("rule", ["plain", "sinks"])
    def test_the_smallest_weights_of_the_mean_are_discarded(self, rule: str, mask: str, discard: Discard) -> None:
        problem, _ = case(Case(rows=70, mask=mask, rule=rule))
        a_HNM, lse_HN = dense(problem)
        keys = np.arange(problem.keys)
        seen = (keys >= problem.start_N[:, None]) & (keys < problem.stop_N[:, None])
        expected, lse = discarded(a_HNM.mean(axis=0), seen, discard), torch.from_numpy(lse_HN).float()
        np.testing.assert_allclose(expected.sum(axis=1), a_HNM.mean(axis=0).sum(axis=1), rtol=1e-12)
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(70, 4)))
        for tile_bytes in (TILE_BYTES, 2_000):
            asked = {"mean": True, "discard": discard, "tile_bytes": tile_bytes}
            self.near(self.run(False, problem, lse, x, **asked), expected @ x.numpy())
            self.near(self.run(True, problem, lse, x, **asked), expected.T @ x.numpy())
