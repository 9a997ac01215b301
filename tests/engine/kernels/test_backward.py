"""The gradient of attention, tile by tile, against autograd through a dense float64 softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import backward, door, reference
from attlas.engine.kernels.backward import attend_backward, by_tiles
from attlas.engine.kernels.measure import Measure
from attlas.engine.kernels.problem import Problem, TokenFacts

HEADS, GROUPS, ROWS, WIDTH = 4, 2, 70, 8
RULES = {
    "plain": ScoreRule(scaling=0.5),
    "softcap": ScoreRule(scaling=0.5, softcap=2.0),
    "sinks": ScoreRule(scaling=0.5, sink_H=np.array([-1.0, 0.0, 2.0, 0.5], dtype=np.float32)),
}


def intervals(name: str) -> tuple[Any, Any]:
    own = np.arange(ROWS)
    return {
        "causal": (np.zeros(ROWS, dtype=np.int64), own + 1),
        "window": (np.maximum(own - 9, 0), own + 1),
        "packed": (own // 25 * 25, own + 1),
        "full": (np.zeros(ROWS, dtype=np.int64), np.full(ROWS, ROWS)),
    }[name]


def dense_gradients(factors: list[torch.Tensor], rule: ScoreRule, seen: torch.Tensor, grad: torch.Tensor) -> Any:
    """By autograd, in float64: of q, k and v."""
    q, k, v = (x.double().requires_grad_() for x in factors)
    share = HEADS // GROUPS
    score = rule.scaling * q @ k.repeat_interleave(share, 0).transpose(1, 2)
    if rule.softcap is not None:
        score = rule.softcap * torch.tanh(score / rule.softcap)
    score = score.masked_fill(~seen, -torch.inf)
    if rule.sink_H is not None:
        sink = torch.from_numpy(rule.sink_H).double()[:, None, None].expand(-1, ROWS, 1)
        score = torch.cat([score, sink], 2)
    a = torch.softmax(score, 2)[:, :, :ROWS]
    out = (a @ v.repeat_interleave(share, 0)).transpose(0, 1)
    return torch.autograd.grad((out * grad).sum(), [q, k, v])


def case(rule: str, mask: str, *, seed: int) -> Any:
    """Factors, the output's gradient, the problem, its answer, and which cells (N, M) are seen."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(heads, ROWS, WIDTH, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]
    grad = torch.randn(ROWS, HEADS, WIDTH, generator=generator)
    start, stop = intervals(mask)
    facts = TokenFacts.of_places(ROWS, ROWS, np.arange(ROWS))
    problem = Problem(
        q_HND=factors[0], k_GMD=factors[1], rule=RULES[rule], start_N=start, stop_N=stop, tokens=facts
    )  # fmt: skip
    keys = np.arange(ROWS)
    seen = torch.from_numpy((keys >= start[:, None]) & (keys < stop[:, None]))
    return factors, grad, problem, door.attend(problem, factors[2], Measure()), seen


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mask", ["causal", "window", "packed", "full"])
@pytest.mark.parametrize("tile_bytes", [1, 4_000, 32 * 2**20])
def test_tiles_of_any_size_give_the_dense_gradient_and_keep_their_bound(
    rule: str, mask: str, tile_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, grad, problem, attended, seen = case(rule, mask, seed=0)
    v = factors[2]
    tiles: list[tuple[int, int]] = []
    real = reference.weights

    def spying(tile: Problem, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = real(tile, *args, **kwargs)
        tiles.append((found.shape[1], found.numel() * found.itemsize))
        return found

    monkeypatch.setattr(backward, "weights", spying)
    found = by_tiles(
        problem, v, grad_NHV=grad, out_NHV=attended.out_NHV, lse_HN=attended.rows.lse_HN, tile_bytes=tile_bytes
    )
    for one, expected in zip(found, dense_gradients(factors, RULES[rule], seen, grad), strict=True):
        assert (one - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert sum(rows for rows, _ in tiles) == ROWS
    assert all(size <= tile_bytes or rows == 1 for rows, size in tiles)
    assert (len(tiles) == 1) == (tile_bytes > 10**6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mask", ["causal", "window", "packed", "full"])
def test_the_fused_pass_gives_the_same_where_it_knows_the_rule(
    rule: str, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, grad, problem, attended, seen = case(rule, mask, seed=1)
    v = factors[2]
    tiles: list[Any] = []

    def spying(*given: Any, **more: Any) -> Any:
        tiles.append(given)
        return by_tiles(*given, **more)

    monkeypatch.setattr(backward, "by_tiles", spying)
    found = attend_backward(problem, v, grad_NHV=grad, out_NHV=attended.out_NHV, lse_HN=attended.rows.lse_HN)
    assert len(tiles) == (rule == "softcap")
    for one, expected in zip(found, dense_gradients(factors, RULES[rule], seen, grad), strict=True):
        assert (one - expected).abs().max() <= 1e-5 * expected.abs().max()
