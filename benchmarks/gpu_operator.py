"""A as an operator on a GPU: A @ X and A.T @ X, mean over heads, against the dense product and against fused attention.

python benchmarks/gpu_operator.py --tokens 4096,16384,32768
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import door
from attlas.engine.kernels.problem import Problem, TokenFacts

CHECKED = 256


@click.command(help=__doc__)
@click.option("--tokens", default="4096,16384,32768", show_default=True)
@click.option("--heads", default=32, show_default=True)
@click.option("--kv-heads", default=8, show_default=True)
@click.option("--features", default=128, show_default=True)
@click.option("--columns", default=64, show_default=True)
@click.option("--device", default="cuda", show_default=True)
def main(tokens: str, heads: int, kv_heads: int, features: int, columns: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no GPU here: this script measures nothing without one")
    click.echo(
        f"{torch.cuda.get_device_name() if device == 'cuda' else device}, float32, {heads} heads over {kv_heads}"
    )
    for count in map(int, tokens.split(",")):
        _one_length(count, heads, kv_heads, features, columns, device)


def _one_length(count: int, heads: int, kv_heads: int, features: int, columns: int, device: str) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, count, features, device=device) for n in (heads, kv_heads, kv_heads))
    own = np.arange(count)
    problem = Problem(
        q_HND=q, k_GMD=k, rule=ScoreRule(scaling=features**-0.5), start_N=own * 0, stop_N=own + 1,
        tokens=TokenFacts.of_places(count, count, own),
    )  # fmt: skip
    lse = _lse(q, k, features)
    x = torch.randn(count, columns, device=device)
    every_k, every_v = (part.repeat_interleave(heads // kv_heads, 0) for part in (k, v))  # what has a fused kernel
    runs: dict[str, Callable[[], Any]] = {
        "sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(
            q[None], every_k[None], every_v[None], is_causal=True
        ),
        "A @ X, mean": lambda: door.apply(problem, lse, x, mean=True),
        "A.T @ X, mean": lambda: door.apply_transposed(problem, lse, x, mean=True),
    }
    seconds = {name: _median(run, device) for name, run in runs.items()}
    told = ", ".join(f"{name} {value / seconds['sdpa']:.2f}" for name, value in seconds.items())
    error, base = _error(q, k, lse, x, runs), seconds["sdpa"] * 1e3
    click.echo(f"{count:>8,} tokens: {told} (of sdpa's {base:.1f} ms); error {error:.1e}")


def _lse(q: torch.Tensor, k: torch.Tensor, features: int) -> torch.Tensor:
    """Row by row of blocks in float64, which no memory is short of."""
    out = torch.empty(q.shape[:2], device=q.device)
    group = q.shape[0] // k.shape[0]
    for head in range(q.shape[0]):
        for begin in range(0, q.shape[1], 1024):
            score = (q[head, begin : begin + 1024].double() @ k[head // group].double().T) * features**-0.5
            rows = torch.arange(begin, begin + score.shape[0], device=q.device)
            score.masked_fill_(torch.arange(q.shape[1], device=q.device) > rows[:, None], -torch.inf)
            out[head, begin : begin + 1024] = score.logsumexp(1).float()
    return out


def _error(q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, x: torch.Tensor, runs: dict[str, Any]) -> float:
    """Of the last rows of A @ X, relative, against float64."""
    group, rows = q.shape[0] // k.shape[0], torch.arange(q.shape[1], device=q.device)[-CHECKED:]
    mean = torch.zeros(CHECKED, x.shape[1], dtype=torch.float64, device=q.device)
    for head in range(q.shape[0]):
        score = (q[head, rows].double() @ k[head // group].double().T) * q.shape[2] ** -0.5
        score.masked_fill_(torch.arange(q.shape[1], device=q.device) > rows[:, None], -torch.inf)
        mean += score.softmax(1) @ x.double() / q.shape[0]
    found = torch.as_tensor(runs["A @ X, mean"]()).to(q.device)[-CHECKED:].double()
    return float((found - mean).abs().max() / mean.abs().max())


def _median(run: Callable[[], Any], device: str) -> float:
    found = []
    for _ in range(4):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


if __name__ == "__main__":
    main()
