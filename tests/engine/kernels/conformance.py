"""What every kernel must do, as a class of tests: a kernel is held to float64 by a subclass that says how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attlas.engine.kernels.measure import Attended, Measure, RowStatistics
from attlas.engine.kernels.problem import Problem
from tests.engine.kernels.cases import MASKS, RULES, Case, Truth, case, truth

__all__ = ["KernelConformance", "TiledConformance"]


class KernelConformance(ABC):
    """A kernel against float64: rules x masks, later chunks, head groups, odd sizes, cross-attention, bfloat16.

    rules: those it takes. statistics: whether it finds row statistics; counts: histogram and Gram matrix too.
    features: sizes of q and k, and of v.
    """

    rules: ClassVar[tuple[str, ...]] = RULES
    statistics: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    bfloat16: ClassVar[bool] = True
    features: ClassVar[tuple[tuple[int, int], ...]] = ((8, 5), (24, 24), (7, 3))
    lse_bound: ClassVar[float] = 5e-6
    output_bound: ClassVar[float] = 5e-6

    @abstractmethod
    def run(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
        """The kernel's answer, on the CPU."""

    def check(self, of: Case, measure: Measure | None = None, *, output_bound: float | None = None) -> None:
        """The kernel's answer to a case against float64, as far as the kernel goes."""
        problem, v = case(of)
        measure = measure or Measure()
        measure = replace(
            measure, names=of.names if self.statistics else (), histogram=self.counts, head_gram=self.counts
        )
        found, expected = self.run(problem, v, measure), truth(of)
        bound = output_bound or self.output_bound
        np.testing.assert_allclose(
            found.out_NHV.double().numpy(), expected.out_NHV, atol=bound, rtol=max(1e-5, bound), err_msg="output"
        )
        np.testing.assert_allclose(found.rows.lse_HN.double(), expected.lse_HN, atol=self.lse_bound, rtol=1e-6)
        if self.statistics:
            self.check_statistics(of, found.rows, expected, problem)
        if self.counts:
            self.check_counts(found.rows, expected)

    def check_statistics(self, of: Case, found: RowStatistics, expected: Truth, problem: Problem) -> None:
        assert set(found.statistics) == set(of.names)
        for name in of.names:
            value = found.statistics[name].double().numpy()
            if name == "argmax_key":
                # the oracle's key, or another whose weight is the largest up to rounding
                key_HN = (value + problem.tokens.first_N).astype(int)
                here = np.take_along_axis(expected.a_HNM, key_HN[:, :, None], axis=2)[:, :, 0]
                np.testing.assert_allclose(here, expected.statistics["max_weight"], rtol=2e-6, atol=0)
            else:
                np.testing.assert_allclose(value, expected.statistics[name], rtol=2e-5, atol=3e-6, err_msg=name)

    def check_counts(self, found: RowStatistics, expected: Truth) -> None:
        assert found.histogram_HB is not None
        assert found.head_gram_HH is not None
        counted = found.histogram_HB.numpy()
        np.testing.assert_array_equal(counted.sum(axis=1), expected.histogram_HB.sum(axis=1))
        moved = np.abs(counted.cumsum(axis=1) - expected.histogram_HB.cumsum(axis=1)).max()
        assert moved <= 2, "only a weight within rounding of an edge may fall on its other side"
        np.testing.assert_allclose(found.head_gram_HH.numpy(), expected.gram_HH, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("first", [0, 45], ids=["whole", "later chunk"])
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("mask", MASKS)
    def test_every_rule_under_every_mask(self, mask: str, rule: str, first: int) -> None:
        if rule not in self.rules:
            pytest.skip("another kernel computes this rule")
        features, values = self.features[0]
        self.check(Case(mask=mask, rule=rule, first=first, features=features, values=values))

    @pytest.mark.parametrize(("heads", "groups"), [(1, 1), (3, 1), (6, 2), (5, 5)])
    @pytest.mark.parametrize("size", [0, 1, 2])
    def test_head_groups_and_odd_sizes(self, heads: int, groups: int, size: int) -> None:
        features, values = self.features[size % len(self.features)]
        self.check(Case(rows=37 + 2 * size, heads=heads, groups=groups, features=features, values=values))

    @pytest.mark.parametrize("rows", [1, 2, 9])
    def test_few_rows(self, rows: int) -> None:
        features, values = self.features[0]
        self.check(Case(rows=rows, features=features, values=values, mask="both"))

    @pytest.mark.parametrize("rule", ["plain", "softcap", "sinks"])
    def test_cross_attention_has_no_own_key(self, rule: str) -> None:
        if rule not in self.rules:
            pytest.skip("another kernel computes this rule")
        features, values = self.features[0]
        of = Case(rows=23, keys=41, mask="both", rule=rule, features=features, values=values)
        assert "previous_weight" not in of.names
        self.check(of)

    @pytest.mark.parametrize("mask", ["causal", "window"])
    def test_bfloat16_factors_are_taken_as_they_are(self, mask: str) -> None:
        """The weights are the float32 softmax of the captured factors, not of rounded scores."""
        if not self.bfloat16:
            pytest.skip("another kernel computes bfloat16")
        features, values = self.features[0]
        self.check(Case(mask=mask, dtype="bfloat16", features=features, values=values), output_bound=1e-2)


class TiledConformance(KernelConformance):
    """A kernel that cuts tiles no larger than it is told."""

    least_tile: ClassVar[int] = 0
    """Bytes of a tile of 4 heads below which the kernel does not go."""

    @abstractmethod
    def tiles(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> list[tuple[int, int]]:
        """Runs the kernel; the rows, each counted once for each of its keys seen, and bytes of each tile it held."""

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        heads=st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 6)]),
        rows=st.integers(1, 70),
        first=st.integers(0, 60),
        threads=st.integers(1, 3),
        tile_bytes=st.integers(1, 100_000),
        mask=st.sampled_from(MASKS),
    )
    def test_neither_tiles_nor_threads_matter(
        self, heads: tuple[int, int], rows: int, first: int, threads: int, tile_bytes: int, mask: str
    ) -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            self.check(
                Case(rows=rows, heads=heads[0], groups=heads[1], mask=mask, first=min(first, rows - 1)),
                Measure(tile_bytes=tile_bytes),
            )
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("tile_bytes", [20_000, 60_000, 240_000])
    def test_no_tile_is_larger_than_told(self, mask: str, tile_bytes: int) -> None:
        """Every visible cell is computed once, in as many tiles as their bound makes it; one tile would hold 640 kB."""
        problem, v = case(Case(rows=200, mask=mask))
        measure = Measure(tile_bytes=tile_bytes)
        tiles = self.tiles(problem, v, measure)
        assert sum(cells for cells, _ in tiles) == problem.cells // problem.heads
        assert max(size for _, size in tiles) <= max(tile_bytes, self.least_tile)
        whole = 4 * problem.cells
        assert len(tiles) >= whole / max(tile_bytes, self.least_tile)
        small = self.tiles(problem, v, replace(measure, tile_bytes=tile_bytes // 4))
        assert max(size for _, size in small) <= max(tile_bytes // 4, self.least_tile)
