"""The CPU kernel through the conformance class, and its tile plan."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import cpu, passes
from attlas.engine.kernels.cpu_tiles import plan_tiles
from attlas.engine.kernels.histogram import gini_from_histogram
from attlas.engine.kernels.measure import Attended, Measure
from attlas.engine.kernels.problem import Problem, TokenFacts
from tests import oracle
from tests.engine.kernels.cases import Case, dense
from tests.engine.kernels.conformance import TiledConformance


class TestCpu(TiledConformance):
    least_tile = 4 * 8 * 64 * 4

    def run(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
        """Output by one pass, statistics by another, which is given its log-sum-exp."""
        attended = cpu.attend(problem, v_GMV, tile_bytes=measure.tile_bytes)
        return Attended(
            out_NHV=attended.out_NHV, rows=cpu.row_statistics(problem, attended.rows.lse_HN, measure)
        )  # fmt: skip

    def tiles(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> list[tuple[int, int]]:
        held: dict[str, list[tuple[int, int]]] = {"accumulate": [], "measure": []}
        lock = threading.Lock()
        with pytest.MonkeyPatch.context() as patch:
            for name, lo in {"accumulate": 2, "measure": 3}.items():
                real = getattr(passes, name)

                def watched(*args: Any, name: str = name, lo: int = lo, real: Any = real) -> None:
                    with lock:
                        held[name].append((int((args[lo + 1] - args[lo]).clip(0).sum()), args[0].nbytes))
                    real(*args)

                patch.setattr(passes, name, watched)
            self.run(problem, v_GMV, measure)
        assert sorted(held["accumulate"]) == sorted(held["measure"]), "both passes cut alike"
        return held["measure"]


@settings(max_examples=200, deadline=None)
@given(heads=st.integers(1, 256), rows=st.integers(1, 10_000), tile_bytes=st.integers(1, 2**22))
def test_a_tile_plan_covers_the_rows_within_its_bytes(heads: int, rows: int, tile_bytes: int) -> None:
    plan = plan_tiles(heads, rows, tile_bytes)
    assert [i for begin, end in plan.blocks for i in range(begin, end)] == list(range(rows))
    assert plan.rows >= 8
    assert plan.keys >= 64
    assert heads * plan.rows * plan.keys * 4 <= max(tile_bytes, heads * 8 * 64 * 4)


@pytest.mark.parametrize("mask", ["causal", "around", "packed"])
def test_a_few_hundred_rows_in_tiles_of_the_cache(mask: str) -> None:
    """Tiles as they are cut in earnest, several to a row."""
    TestCpu().check(Case(rows=300, heads=2, groups=1, mask=mask))


def test_gini_from_the_histogram_is_near_the_exact_one() -> None:
    """Weights of one head over all rows, sharp and flat: the histogram's Gini within 2e-3 of the sorted weights'."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 500, 32, generator=generator) for _ in "qk")
    own = np.arange(500)
    for scaling in (0.02, 0.2, 1.0):
        problem = Problem(
            q_HND=q, k_GMD=k, rule=ScoreRule(scaling=scaling), start_N=own * 0, stop_N=own + 1,
            tokens=TokenFacts.of_places(500, 500, own),
        )  # fmt: skip
        a_HNM, lse_HN = dense(problem)
        found = cpu.row_statistics(problem, torch.from_numpy(lse_HN).float(), Measure(histogram=True))
        gini = oracle.gini(a_HNM[0][np.tril(np.ones((500, 500), dtype=bool))])
        assert found.histogram_HB is not None
        assert abs(gini_from_histogram(found.histogram_HB[0].numpy()) - gini) < 2e-3
