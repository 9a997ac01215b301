"""The reference kernel against brute force in float64, written out cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.attention.score_rule import PositionBias, ScoreRule
from attlas.engine.kernels import reference
from attlas.engine.kernels.reference import TokenFacts, attend, row_statistics, weights
from attlas.engine.kernels.row_statistics import HISTOGRAM_BINS, histogram_edges, statistic_names
from tests.oracle import head_gram as oracle_head_gram
from tests.oracle import row_statistics as oracle_row_statistics

FEATURES = 8


def brute_force(q: Any, k: Any, rule: ScoreRule, start: Any, stop: Any, own: Any) -> np.ndarray[Any, Any]:
    """a (H, N, M) float64, one cell at a time."""
    heads, rows = q.shape[:2]
    group = heads // k.shape[0]
    a = np.zeros((heads, rows, k.shape[1]))
    for h in range(heads):
        for i in range(rows):
            score = {}
            for j in range(start[i], stop[i]):
                s = rule.scaling * float(np.dot(q[h, i], k[h // group, j]))
                if rule.softcap is not None:
                    s = rule.softcap * np.tanh(s / rule.softcap)
                if rule.bias is not None:
                    place = j - own[i] - rule.bias.first_offset
                    s += float(rule.bias.table_HR[h, min(max(place, 0), rule.bias.table_HR.shape[1] - 1)])
                score[j] = s
            total = sum(np.exp(s) for s in score.values())
            if rule.sink_H is not None:
                total += np.exp(float(rule.sink_H[h]))
            for j, s in score.items():
                a[h, i, j] = np.exp(s) / total
    return a


def random_case(seed: int, *, rows: int = 40, heads: int = 4, groups: int = 2, mask: str = "causal") -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    own = np.arange(rows)
    start, stop = {
        "causal": (np.zeros(rows, dtype=np.int64), own + 1),
        "window": (np.maximum(own - 6, 0), own + 1),
        "both": (np.zeros(rows, dtype=np.int64), np.full(rows, rows)),
        "around": (np.maximum(own - 5, 0), np.minimum(own + 6, rows)),
        "packed": (own // 13 * 13, own + 1),
    }[mask]
    ids = rng.integers(0, 7, rows)
    first = own // 13 * 13 if mask == "packed" else np.zeros(rows, dtype=np.int64)
    return {
        "q": rng.normal(size=(heads, rows, FEATURES)) * 2,
        "k": rng.normal(size=(groups, rows, FEATURES)),
        "v": rng.normal(size=(groups, rows, 5)),
        "start": start,
        "stop": stop,
        "facts": TokenFacts(first_N=first, own_N=own, ids_N=ids, ids_M=ids, special_M=ids == 3),
    }


def rules(heads: int = 4) -> dict[str, ScoreRule]:
    rng = np.random.default_rng(9)
    table = rng.normal(size=(heads, 21)).astype(np.float32)
    return {
        "plain": ScoreRule(scaling=0.35),
        "softcap": ScoreRule(scaling=1.0, softcap=3.0),
        "sinks": ScoreRule(scaling=0.5, sink_H=rng.normal(size=heads).astype(np.float32)),
        "bias": ScoreRule(
            scaling=0.5,
            bias=PositionBias(table_HR=table, first_offset=-12, saturates_left=True, saturates_right=True),
        ),
    }


MASKS = ["causal", "window", "both", "around", "packed"]


@pytest.mark.parametrize("rule_name", rules())
@pytest.mark.parametrize("mask", MASKS)
def test_attend_equals_brute_force(rule_name: str, mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "TILE_BYTES", 6_000)  # many tiles, of uneven sizes
    case, rule = random_case(1, mask=mask), rules()[rule_name]
    names = statistic_names(same_axis=True, sinks=rule.sink_H is not None)
    q, k, v = (torch.from_numpy(case[x]).float() for x in "qkv")
    expected = brute_force(
        q.double().numpy(), k.double().numpy(), rule, case["start"], case["stop"], case["facts"].own_N
    )
    got = attend(
        q, k, v, rule,
        start_N=case["start"], stop_N=case["stop"], facts=case["facts"],
        names=names, histogram=True, head_gram=True,
    )  # fmt: skip

    out = np.einsum("hnm,hmv->nhv", expected, np.repeat(v.double().numpy(), 2, axis=0))
    np.testing.assert_allclose(got.out_NHV.numpy(), out, atol=3e-6)
    gram = got.rows.head_gram_HH
    assert gram is not None
    np.testing.assert_allclose(gram.numpy(), oracle_head_gram(expected), rtol=1e-5)

    keys = np.arange(expected.shape[2])
    visible = (keys >= case["start"][:, None]) & (keys < case["stop"][:, None])
    histogram = got.rows.histogram_HB
    assert histogram is not None
    for h in range(4):
        counted, _ = np.histogram(expected[h][visible], bins=histogram_edges())
        assert counted.sum() == histogram[h].sum() == visible.sum()
        # a weight within rounding of an edge may fall on either side of it
        assert np.abs(np.cumsum(counted) - np.cumsum(histogram[h].numpy())).max() <= 1

    for first in np.unique(case["facts"].first_N):
        rows = case["facts"].first_N == first
        _check_statistics(got.rows.statistics, expected, visible, case["facts"], rows, names)


def _check_statistics(
    statistics: dict[str, torch.Tensor], a: Any, visible: Any, facts: TokenFacts, rows: Any, names: tuple[str, ...]
) -> None:
    """One document's rows against the oracle, at document-relative positions."""
    keys = slice(int(facts.first_N[rows][0]), int(facts.first_N[rows][0]) + int(rows.sum()))
    for h in range(a.shape[0]):
        expected = oracle_row_statistics(
            a[h][rows][:, keys], visible[rows][:, keys], facts.ids_N[rows], facts.ids_M[keys], facts.special_M[keys]
        )
        for name in names:
            np.testing.assert_allclose(
                statistics[name][h].numpy()[rows], expected[name], rtol=1e-4, atol=2e-6, err_msg=f"{name}, head {h}"
            )


@pytest.mark.parametrize("rule_name", rules())
def test_weights_of_any_cells(rule_name: str) -> None:
    case, rule = random_case(2, mask="around"), rules()[rule_name]
    q, k = torch.from_numpy(case["q"]).float(), torch.from_numpy(case["k"]).float()
    expected = brute_force(
        q.double().numpy(), k.double().numpy(), rule, case["start"], case["stop"], case["facts"].own_N
    )
    lse = row_statistics(q, k, rule, start_N=case["start"], stop_N=case["stop"], facts=case["facts"], names=()).lse_HN
    rows, keys = np.array([30, 2, 2, 17]), np.array([5, 31, 30, 0, 16, 17])
    got = weights(
        q[:, rows], k[:, keys], lse[:, rows], rule,
        start_Q=case["start"][rows], stop_Q=case["stop"][rows], query_positions_Q=rows, key_positions_K=keys,
    )  # fmt: skip
    np.testing.assert_allclose(got.numpy(), expected[:, rows][:, :, keys], atol=2e-6)
    some = np.array([3, 1])
    one_by_one = weights(
        q[some][:, rows], k[some // 2][:, keys], lse[some][:, rows], rule.for_heads(some),
        start_Q=case["start"][rows], stop_Q=case["stop"][rows], query_positions_Q=rows, key_positions_K=keys,
    )  # fmt: skip
    np.testing.assert_allclose(one_by_one.numpy(), expected[some][:, rows][:, :, keys], atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), tile=st.integers(200, 200_000), mask=st.sampled_from(MASKS))
def test_tiling_does_not_matter_and_rows_sum_to_one(seed: int, tile: int, mask: str) -> None:
    case, rule = random_case(seed, mask=mask), ScoreRule(scaling=1.0)
    q, k, v = (torch.from_numpy(case[x]) for x in "qkv")
    arguments = {"start_N": case["start"], "stop_N": case["stop"], "facts": case["facts"], "dtype": torch.float64}
    whole = attend(q, k, v, rule, **arguments)
    before = reference.TILE_BYTES
    try:
        reference.TILE_BYTES = tile
        cut = attend(q, k, v, rule, names=("max_weight", "squared_sum", "entropy"), **arguments)
    finally:
        reference.TILE_BYTES = before
    torch.testing.assert_close(cut.out_NHV, whole.out_NHV, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(cut.rows.lse_HN, whole.rows.lse_HN, atol=1e-12, rtol=1e-12)
    positions = np.arange(40)
    a = weights(
        q, k, whole.rows.lse_HN, rule, start_Q=case["start"], stop_Q=case["stop"],
        query_positions_Q=positions, key_positions_K=positions, dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(a.sum(2), torch.ones(4, 40, dtype=torch.float64), atol=1e-12, rtol=0)


def test_cross_attention_has_no_own_key() -> None:
    rng = np.random.default_rng(4)
    q, k, v = (torch.from_numpy(rng.normal(size=s)).float() for s in [(2, 5, 8), (2, 9, 8), (2, 9, 3)])
    rule = ScoreRule(scaling=0.5)
    facts = TokenFacts(
        first_N=np.zeros(5, dtype=np.int64), own_N=None, ids_N=np.arange(5), ids_M=np.arange(9),
        special_M=np.arange(9) == 8,
    )  # fmt: skip
    start, stop = np.zeros(5, dtype=np.int64), np.full(5, 9)
    names = statistic_names(same_axis=False, sinks=False)
    assert "previous_weight" not in names
    got = attend(q, k, v, rule, start_N=start, stop_N=stop, facts=facts, names=names)
    a = brute_force(q.double().numpy(), k.double().numpy(), rule, start, stop, None)
    for h in range(2):
        expected = oracle_row_statistics(
            a[h], np.ones((5, 9), bool), facts.ids_N, facts.ids_M, facts.special_M, same_axis=False
        )
        for name in names:
            np.testing.assert_allclose(got.rows.statistics[name][h].numpy(), expected[name], rtol=1e-4, atol=2e-6)


def test_histogram_edges_cover_zero_to_one() -> None:
    edges = histogram_edges()
    assert len(edges) == HISTOGRAM_BINS + 1
    assert edges[0] == 0
    assert edges[-1] == 1
    np.testing.assert_allclose(edges[2:] / edges[1:-1], 2**0.25)
