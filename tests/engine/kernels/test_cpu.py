"""The CPU kernel held to the reference kernel in float64: every rule, every mask, any tiling, any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import cpu, reference
from attlas.engine.kernels.reference import RowStatistics, TokenFacts
from attlas.engine.kernels.row_statistics import gini_from_histogram, statistic_names
from tests import oracle
from tests.engine.kernels.test_reference import MASKS, random_case, rules

SMALL_TILE = 4 * 8 * 64 * 4


def names_of(rule: ScoreRule) -> tuple[str, ...]:
    return statistic_names(same_axis=True, sinks=rule.sink_H is not None)


def measured(case: dict[str, Any], rule: ScoreRule, rows: Any, *, dtype: torch.dtype = torch.float32) -> RowStatistics:
    """The CPU kernel on some rows, given the log-sum-exp that the reference finds in float64."""
    expected = exact(case, rule, rows, dtype=dtype)
    q, k = (torch.from_numpy(case[x]).to(dtype) for x in "qk")
    return cpu.row_statistics(
        q[:, rows], k, rule, lse_HN=expected.lse_HN.float(), start_N=case["start"][rows], stop_N=case["stop"][rows],
        facts=some_rows(case["facts"], rows), names=names_of(rule), histogram=True, head_gram=True,
    )  # fmt: skip


def exact(case: dict[str, Any], rule: ScoreRule, rows: Any, *, dtype: torch.dtype = torch.float32) -> RowStatistics:
    q, k = (torch.from_numpy(case[x]).to(dtype).double() for x in "qk")
    return reference.row_statistics(
        q[:, rows], k, rule, start_N=case["start"][rows], stop_N=case["stop"][rows],
        facts=some_rows(case["facts"], rows), names=names_of(rule), histogram=True, head_gram=True,
        dtype=torch.float64,
    )  # fmt: skip


def some_rows(facts: TokenFacts, rows: Any) -> TokenFacts:
    return TokenFacts(
        first_N=facts.first_N[rows],
        own_N=None if facts.own_N is None else facts.own_N[rows],
        ids_N=facts.ids_N[rows],
        ids_M=facts.ids_M,
        special_M=facts.special_M,
    )


def assert_same(case: dict[str, Any], rule: ScoreRule, rows: Any, *, dtype: torch.dtype = torch.float32) -> None:
    found, expected = measured(case, rule, rows, dtype=dtype), exact(case, rule, rows, dtype=dtype)
    values = dict(expected.statistics)
    assert_largest(case, rule, rows, dtype, found, values.pop("argmax_key"))
    for name, value in values.items():
        torch.testing.assert_close(found.statistics[name].double(), value, rtol=2e-5, atol=2e-6, msg=name)
    assert found.histogram_HB is not None
    assert expected.histogram_HB is not None
    assert torch.equal(found.histogram_HB.sum(1), expected.histogram_HB.sum(1))
    moved = (found.histogram_HB.cumsum(1) - expected.histogram_HB.cumsum(1)).abs().max()
    assert moved <= 2, "only a weight within rounding of an edge may fall on its other side"
    assert found.head_gram_HH is not None
    assert expected.head_gram_HH is not None
    torch.testing.assert_close(found.head_gram_HH, expected.head_gram_HH, rtol=1e-5, atol=1e-7)


def assert_largest(
    case: dict[str, Any], rule: ScoreRule, rows: Any, dtype: torch.dtype, found: RowStatistics, expected: torch.Tensor
) -> None:
    """argmax_key is the reference's, or another key whose weight is the largest up to rounding."""
    q, k = (torch.from_numpy(case[x]).to(dtype).double() for x in "qk")
    facts = some_rows(case["facts"], rows)
    lse = found.lse_HN.cpu().double()
    places = {"start_Q": case["start"][rows], "stop_Q": case["stop"][rows], "query_positions_Q": facts.own_N}
    a = reference.weights(
        q[:, rows], k, lse, rule, key_positions_K=np.arange(k.shape[1]), dtype=torch.float64, **places
    )
    first = torch.from_numpy(facts.first_N)
    here, there = (
        a.gather(2, (key.double() + first).long()[:, :, None])
        for key in (found.statistics["argmax_key"].cpu(), expected)
    )
    torch.testing.assert_close(here, there, rtol=2e-6, atol=0)


@pytest.mark.parametrize("tile_bytes", [SMALL_TILE, cpu.TILE_BYTES])
@pytest.mark.parametrize("rule", rules())
@pytest.mark.parametrize("mask", MASKS)
def test_statistics_equal_the_reference(mask: str, rule: str, tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "TILE_BYTES", tile_bytes)
    case, score_rule = random_case(3, rows=300, mask=mask), rules()[rule]
    for rows in (slice(0, 300), slice(200, 300), np.array([0, 7, 8, 150, 299])):
        assert_same(case, score_rule, rows)


@pytest.mark.parametrize("tile_bytes", [SMALL_TILE, cpu.TILE_BYTES])
@pytest.mark.parametrize("rule", rules())
@pytest.mark.parametrize("mask", MASKS)
def test_output_and_lse_equal_the_reference(
    mask: str, rule: str, tile_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "TILE_BYTES", tile_bytes)
    case, score_rule = random_case(4, rows=300, mask=mask), rules()[rule]
    q, k, v = (torch.from_numpy(case[x]).float() for x in "qkv")  # values are narrower than keys
    at = slice(120, 300)
    where = {"start_N": case["start"][at], "stop_N": case["stop"][at]}
    facts = some_rows(case["facts"], at)
    found = cpu.attend(q[:, at], k, v, score_rule, own_N=facts.own_N, **where)
    expected = reference.attend(
        q[:, at].double(), k.double(), v.double(), score_rule, facts=facts, dtype=torch.float64, **where
    )
    torch.testing.assert_close(found.out_NHV.double(), expected.out_NHV, atol=5e-6, rtol=1e-5)
    torch.testing.assert_close(found.rows.lse_HN.double(), expected.rows.lse_HN, atol=5e-6, rtol=1e-6)


def test_bfloat16_factors_are_taken_as_they_are() -> None:
    """The weights are the float32 softmax of the captured factors, not of rounded scores."""
    case, rows = random_case(5, rows=120), slice(0, 120)
    rule = rules()["plain"]
    assert_same(case, rule, rows, dtype=torch.bfloat16)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 6)]),
    rows=st.integers(1, 150),
    threads=st.integers(1, 3),
    tile_bytes=st.integers(1, 200_000),
    mask=st.sampled_from(MASKS),
)
def test_neither_tiles_nor_threads_matter(
    heads: tuple[int, int], rows: int, threads: int, tile_bytes: int, mask: str
) -> None:
    case = random_case(rows, rows=rows, heads=heads[0], groups=heads[1], mask=mask)
    rule, before, tile = ScoreRule(scaling=0.4), torch.get_num_threads(), cpu.TILE_BYTES
    try:
        torch.set_num_threads(threads)
        cpu.TILE_BYTES = tile_bytes
        assert_same(case, rule, slice(0, rows))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
        cpu.TILE_BYTES = tile


@settings(max_examples=200, deadline=None)
@given(heads=st.integers(1, 256), rows=st.integers(1, 10_000), tile_bytes=st.integers(1, 2**22))
def test_a_tile_plan_covers_the_rows_within_its_bytes(heads: int, rows: int, tile_bytes: int) -> None:
    plan = cpu.plan_tiles(heads, rows, tile_bytes)
    assert [i for begin, end in plan.blocks for i in range(begin, end)] == list(range(rows))
    assert plan.rows >= 8
    assert plan.keys >= 64
    assert heads * plan.rows * plan.keys * 4 <= max(tile_bytes, heads * 8 * 64 * 4)


def test_gini_from_the_histogram_is_near_the_exact_one() -> None:
    """Weights of one head over all rows, sharp and flat: the histogram's Gini within 2e-3 of the sorted weights'."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 500, 32, generator=generator) for _ in "qk")
    own = np.arange(500)
    facts = TokenFacts(first_N=own * 0, own_N=own, ids_N=own, ids_M=own, special_M=own < 0)
    for scaling in (0.02, 0.2, 1.0):
        rule, start, stop = ScoreRule(scaling=scaling), own * 0, own + 1
        rows = reference.row_statistics(
            q.double(), k.double(), rule, start_N=start, stop_N=stop, facts=facts, names=(), dtype=torch.float64
        )
        found = cpu.row_statistics(
            q, k, rule, lse_HN=rows.lse_HN.float(), start_N=start, stop_N=stop, facts=facts, names=(), histogram=True
        )
        s = torch.tril(torch.ones(500, 500)).bool()
        a = torch.exp((q[0].double() @ k[0].double().T) * scaling - rows.lse_HN[0][:, None])[s].numpy()
        gini = oracle.gini(a)
        assert found.histogram_HB is not None
        assert abs(gini_from_histogram(found.histogram_HB[0].numpy()) - gini) < 2e-3
