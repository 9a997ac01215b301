"""The SDPA kernel held to the reference kernel, and its pieces to the intervals they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import reference, sdpa
from tests.engine.kernels.test_reference import MASKS, random_case, rules


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


@pytest.mark.parametrize("rows", [3, 40, 300])
@pytest.mark.parametrize("rule", ["plain", "sinks"])
@pytest.mark.parametrize("mask", MASKS)
def test_equals_the_reference(mask: str, rule: str, rows: int) -> None:
    case, score_rule = random_case(rows, rows=rows, mask=mask), rules()[rule]
    q, k = (torch.from_numpy(case[x]).float() for x in "qk")
    v = torch.randn(2, rows, 8, generator=torch.Generator().manual_seed(0))
    assert sdpa.supports(q, v, score_rule)
    for begin in (0, rows // 2):  # a later chunk has more keys than rows
        at = slice(begin, rows)
        found = sdpa.attend(q[:, at], k, v, score_rule, start_N=case["start"][at], stop_N=case["stop"][at])
        facts = case["facts"]
        expected = reference.attend(
            q[:, at].double(), k.double(), v.double(), score_rule,
            start_N=case["start"][at], stop_N=case["stop"][at], facts=facts, dtype=torch.float64,
        )  # fmt: skip
        torch.testing.assert_close(found.out_NHV.double(), expected.out_NHV, atol=5e-6, rtol=1e-5)
        torch.testing.assert_close(found.rows.lse_HN.double(), expected.rows.lse_HN, atol=5e-6, rtol=1e-6)


def test_what_it_leaves_to_the_reference() -> None:
    q, v = torch.zeros(2, 3, 8), torch.zeros(2, 3, 8)
    assert not sdpa.supports(q.bfloat16(), v.bfloat16(), ScoreRule(scaling=1.0))  # its lse would be coarse
    assert not sdpa.supports(q, torch.zeros(2, 3, 5), ScoreRule(scaling=1.0))
    assert not sdpa.supports(q, v, rules()["softcap"])
    assert not sdpa.supports(q, v, rules()["bias"])
