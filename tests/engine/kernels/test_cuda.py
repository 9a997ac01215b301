"""The Triton kernel through the conformance class: in Triton's interpreter on the CPU, or on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

cuda = pytest.importorskip("attlas.engine.kernels.cuda", reason="triton is made for Linux alone")

from attlas.engine.kernels.measure import Attended, Measure, RowStatistics  # noqa: E402
from attlas.engine.kernels.problem import Problem  # noqa: E402
from tests.engine.kernels.cases import Case  # noqa: E402
from tests.engine.kernels.conformance import KernelConformance  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class TestCuda(KernelConformance):
    counts = False
    features = ((64, 32), (96, 48), (7, 3))
    lse_bound = 1e-5
    output_bound = 1e-5

    def run(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
        there = replace(problem, q_HND=problem.q_HND.to(DEVICE), k_GMD=problem.k_GMD.to(DEVICE))
        found = cuda.attend(there, v_GMV.to(DEVICE), measure.names)
        return Attended(
            out_NHV=found.out_NHV.cpu(),
            rows=RowStatistics(
                lse_HN=found.rows.lse_HN.cpu(),
                statistics={name: value.cpu() for name, value in found.rows.statistics.items()},
            ),
        )

    @pytest.mark.parametrize("features", [128, 256])
    def test_large_heads(self, features: int) -> None:
        self.check(Case(rows=70, features=features, values=features // 2))
