"""The Triton kernel on a GPU: correctness, time against plain scaled_dot_product_attention, and peak memory.

python benchmarks/gpu.py --tokens 8192,32768,131072 --heads 32 --kv-heads 8 --features 128
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import reference
from attlas.engine.kernels.measure import Measure
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.kernels.row_statistics import statistic_names

CHECKED_ROWS = 256


@click.command(help=__doc__)
@click.option("--tokens", default="8192,32768,131072", show_default=True)
@click.option("--heads", default=32, show_default=True)
@click.option("--kv-heads", default=8, show_default=True)
@click.option("--features", default=128, show_default=True)
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(tokens: str, heads: int, kv_heads: int, features: int, dtype: str, repeats: int) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("there is no GPU here: this script measures nothing without one")
    click.echo(f"{torch.cuda.get_device_name()}, {dtype}, {heads} heads over {kv_heads}, {features} features, causal")
    for count in map(int, tokens.split(",")):
        _one_length(count, heads, kv_heads, features, getattr(torch, dtype), repeats)


def _one_length(tokens: int, heads: int, groups: int, features: int, dtype: torch.dtype, repeats: int) -> None:
    from attlas.engine.kernels import cuda

    torch.manual_seed(0)
    q, k, v = (torch.randn(n, tokens, features, device="cuda", dtype=dtype) for n in (heads, groups, groups))
    own = np.arange(tokens)
    ids = np.random.default_rng(0).integers(0, 5000, tokens)
    problem = Problem(
        q_HND=q, k_GMD=k, rule=ScoreRule(scaling=features**-0.5), start_N=own * 0, stop_N=own + 1,
        tokens=TokenFacts(first_N=own * 0, own_N=own, ids_N=ids, ids_M=ids, special_M=own == 0),
    )  # fmt: skip
    names = statistic_names(same_axis=True, sinks=False)

    def ours(wanted: tuple[str, ...]) -> Any:
        return cuda.attend(problem, v, wanted)

    runs: dict[str, Callable[[], Any]] = {
        "sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        ),
        "output and lse": lambda: ours(()),
        "all statistics": lambda: ours(names),
    }
    _check(runs["all statistics"](), problem, v, names)
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, int] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before = torch.cuda.memory_allocated()
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
            peaks[name] = torch.cuda.max_memory_allocated() - before
    base = statistics.median(times["sdpa"])
    for name, found in times.items():
        middle = statistics.median(found)
        flops = 4 * heads * features * tokens * (tokens + 1) / 2 / middle / 1e9
        click.echo(
            f"{tokens:>8,} tokens  {name:<15} {middle:9.2f} ms  {middle / base:5.2f} x sdpa  {flops:6.1f} TFLOP/s  "
            f"peak {peaks[name] / 2**20:8.1f} MiB  ({min(found):.2f} to {max(found):.2f})"
        )


def _check(found: Any, problem: Problem, v: Any, names: tuple[str, ...]) -> None:
    """The last rows against the reference in float64; raises where one is off."""
    rows, shared = slice(problem.rows - CHECKED_ROWS, problem.rows), problem.heads // problem.groups
    last = problem.of(rows=np.arange(problem.rows)[rows])
    for h in range(0, problem.heads, max(1, problem.heads // 2)):
        g = h // shared
        expected = reference.attend(
            last.of(heads=np.array([h])), v[g : g + 1].double(), Measure(names=names), dtype=torch.float64
        )  # fmt: skip
        torch.testing.assert_close(found.rows.lse_HN[h : h + 1, rows].double(), expected.rows.lse_HN, atol=1e-4, rtol=0)
        out = found.out_NHV[rows, h : h + 1].double()
        torch.testing.assert_close(out, expected.out_NHV, atol=2e-2, rtol=2e-2)
        for name in names:
            if name != "argmax_key":
                got = found.rows.statistics[name][h : h + 1, rows].double()
                torch.testing.assert_close(got, expected.rows.statistics[name], rtol=1e-4, atol=1e-5, msg=name)


if __name__ == "__main__":
    main()
