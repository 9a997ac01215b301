"""The SDPA kernel held to the reference kernel, and its pieces to the intervals they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.kernels import sdpa
from attlas.engine.kernels.measure import Attended, Measure
from attlas.engine.kernels.problem import Problem
from tests.engine.kernels.cases import MASKS, Case, case
from tests.engine.kernels.conformance import KernelConformance


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(1, 60), keys=st.integers(1, 60))
def test_pieces_cover_every_visible_cell_once(data: st.DataObject, rows: int, keys: int) -> None:
    shape = data.draw(st.sampled_from(["random", "causal", "window", "full", "documents", "offset"]))
    row = np.arange(rows)
    if shape == "random":
        start = np.array(data.draw(st.lists(st.integers(0, keys - 1), min_size=rows, max_size=rows)))
        stop = np.array([data.draw(st.integers(int(s) + 1, keys)) for s in start])
    elif shape == "documents":
        size = data.draw(st.integers(1, 20))
        start, stop = row // size * size, row + 1
    else:
        start = np.zeros(rows, dtype=int) if shape != "window" else np.maximum(row - 5, 0)
        stop = {"full": np.full(rows, keys), "offset": row + 1 + keys}.get(shape, row + 1)
    cells = np.zeros((rows, max(int(stop.max()), 1)), dtype=int)
    for piece in sdpa.cut(start, stop):
        places = np.arange(piece.key, piece.key_stop)
        for i in range(piece.row, piece.row_stop):
            if piece.shape == "full":
                seen = places
            elif piece.shape == "causal":
                seen = places[: i - piece.row + 1]
            else:
                seen = places[(places >= start[i]) & (places < stop[i])]
            cells[i, seen] += 1
    column = np.arange(cells.shape[1])
    np.testing.assert_array_equal(cells, (column >= start[:, None]) & (column < stop[:, None]))


class TestSdpa(KernelConformance):
    rules = ("plain", "sinks")
    statistics = False
    counts = False
    bfloat16 = False
    features = ((8, 8), (24, 24), (7, 7))

    def run(self, problem: Problem, v_GMV: torch.Tensor, measure: Measure) -> Attended:
        assert sdpa.supports(problem, v_GMV)
        return sdpa.attend(problem, v_GMV)

    @pytest.mark.parametrize("rows", [3, 300])
    @pytest.mark.parametrize("mask", MASKS)
    def test_few_and_many_rows(self, mask: str, rows: int) -> None:
        for first in (0, rows // 2):
            self.check(Case(rows=rows, first=first, mask=mask, heads=2, groups=1))


def test_what_it_leaves_to_the_cpu_kernel() -> None:
    for left in (Case(dtype="bfloat16"), Case(values=5), Case(rule="softcap"), Case(rule="bias")):
        assert not sdpa.supports(*case(left))  # of bfloat16 its lse would be coarse
    assert sdpa.supports(*case(Case()))
