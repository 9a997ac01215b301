"""The Triton kernel held to the reference in float64: in Triton's interpreter on the CPU, or on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

cuda = pytest.importorskip("attlas.engine.kernels.cuda", reason="triton is made for Linux alone")

from attlas.engine.attention.score_rule import ScoreRule  # noqa: E402
from attlas.engine.kernels import reference  # noqa: E402
from attlas.engine.kernels.reference import TokenFacts  # noqa: E402
from attlas.engine.kernels.row_statistics import statistic_names  # noqa: E402
from tests.engine.kernels.test_cpu import assert_largest, some_rows  # noqa: E402
from tests.engine.kernels.test_reference import MASKS, random_case, rules  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def case_of(rows: int, mask: str, features: int, *, heads: int = 4, groups: int = 2) -> dict[str, Any]:
    case = random_case(rows, rows=rows, heads=heads, groups=groups, mask=mask)
    generator = torch.Generator().manual_seed(rows)
    case["q"] = torch.randn(heads, rows, features, generator=generator).numpy()
    case["k"] = torch.randn(groups, rows, features, generator=generator).numpy()
    case["v"] = torch.randn(groups, rows, features // 2, generator=generator).numpy()
    return case


def compare(case: dict[str, Any], rule: ScoreRule, at: slice, dtype: torch.dtype, tolerance: float) -> None:
    facts: TokenFacts = some_rows(case["facts"], at)
    names = statistic_names(same_axis=True, sinks=rule.sink_H is not None)
    q, k, v = (torch.from_numpy(case[x]).to(dtype) for x in "qkv")
    where = {"start_N": case["start"][at], "stop_N": case["stop"][at]}
    found = cuda.attend(
        q[:, at].to(DEVICE), k.to(DEVICE), v.to(DEVICE), rule, facts=facts, names=names, **where
    )  # fmt: skip
    expected = reference.attend(
        q[:, at].double(), k.double(), v.double(), rule, facts=facts, names=names, dtype=torch.float64, **where
    )
    torch.testing.assert_close(found.rows.lse_HN.cpu().double(), expected.rows.lse_HN, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.out_NHV.cpu().double(), expected.out_NHV, atol=tolerance, rtol=tolerance)
    for name in names:
        got, true = found.rows.statistics[name].cpu().double(), expected.rows.statistics[name]
        if name == "argmax_key":
            assert_largest(case, rule, at, dtype, found.rows, true)
        else:
            torch.testing.assert_close(got, true, rtol=2e-5, atol=3e-6, msg=name)


@pytest.mark.parametrize("rule", rules())
@pytest.mark.parametrize("mask", MASKS)
def test_equals_the_reference(mask: str, rule: str) -> None:
    case = case_of(150, mask, 64)
    scaled = rules()[rule]
    for at in (slice(0, 150), slice(90, 150)):  # a later chunk has more keys than rows
        compare(case, scaled, at, torch.float32, 1e-5)


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (6, 2), (3, 1)])
@pytest.mark.parametrize("features", [64, 96, 128, 256])
def test_head_sizes_and_groups(features: int, heads: int, groups: int) -> None:
    compare(
        case_of(70, "causal", features, heads=heads, groups=groups),
        ScoreRule(scaling=features**-0.5),
        slice(0, 70),
        torch.float32,
        1e-5,
    )


def test_bfloat16_factors_give_float32_statistics() -> None:
    compare(case_of(100, "causal", 64), ScoreRule(scaling=0.125), slice(0, 100), torch.bfloat16, 1e-2)


def test_cross_attention_has_no_statistic_of_its_own_position() -> None:
    case = case_of(40, "both", 64)
    facts = TokenFacts(
        first_N=np.zeros(40, dtype=np.int64), own_N=None, ids_N=case["facts"].ids_N, ids_M=case["facts"].ids_M,
        special_M=case["facts"].special_M,
    )  # fmt: skip
    names = statistic_names(same_axis=False, sinks=False)
    rule, where = ScoreRule(scaling=0.125), {"start_N": case["start"], "stop_N": case["stop"]}
    q, k, v = (torch.from_numpy(case[x]) for x in "qkv")
    found = cuda.attend(q.to(DEVICE), k.to(DEVICE), v.to(DEVICE), rule, facts=facts, names=names, **where)
    expected = reference.attend(
        q.double(), k.double(), v.double(), rule, facts=facts, names=names, dtype=torch.float64, **where
    )
    for name in names:
        torch.testing.assert_close(
            found.rows.statistics[name].cpu().double(), expected.rows.statistics[name], rtol=2e-5, atol=3e-6
        )
