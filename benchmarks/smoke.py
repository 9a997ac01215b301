"""Has attlas become slower? Ratios to the plain forward pass and to numpy, against the recorded ones. Two minutes.

Ratios, never seconds, of a small model made here, on one thread, so that they mean the same on another machine; CPU
time, the least of many short interleaved rounds, and three attempts, so that a noisy neighbour does no harm. Exits 1
where one got worse than recorded by more than its band.

python benchmarks/smoke.py
python benchmarks/smoke.py --record                    make the recorded ratios anew, after a change that is meant
python benchmarks/smoke.py --slow factors --by 2       run one twice over on purpose, to see the guard fail
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

import attlas
from attlas import analysis
from attlas.bench.dense import dense_block, distance_edges
from attlas.bench.guard import Pair, Verdict, judge, load, measure, record, save
from attlas.bench.machine import find_machine
from attlas.bench.trial import plain_forward
from attlas.experiments.asked import ask_model
from attlas.jobs.corpus import find_corpus
from attlas.server.handles import Handle
from attlas.server.tiles import choose_box, pooled

RECORDED = Path(__file__).with_name("smoke.json")
RUNS = 7
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
TOKENS, WIDE = 768, 384
CONFIG: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": WIDE, "intermediate_size": 3 * WIDE, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": TOKENS,
}  # fmt: skip
SHORT = [int(n) for n in np.random.default_rng(1).integers(20, 100, 24)]


@contextmanager
def pairs() -> Iterator[dict[str, Pair]]:
    """The guarded ratios over a model of random weights; what they need lies in a folder that goes at the end."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LlamaModel(LlamaConfig(**CONFIG)).eval()
    draw = np.random.default_rng(0)
    long = [draw.integers(10, 500, TOKENS).tolist()]
    many = [draw.integers(10, 500, n).tolist() for n in SHORT]
    with tempfile.TemporaryDirectory(prefix="attlas-smoke-") as folder:
        place = Path(folder)
        atlas = attlas.capture(model, long, place / "kept.zarr")
        forward, short_forward = lambda: plain_forward(model, long), lambda: plain_forward(model, many)
        q, k, scaling = _factors(atlas)
        page, operator = atlas["doc-0"], atlas.operator("doc-0", 1)
        x_NC = draw.normal(size=(TOKENS, 64)).astype(np.float32)

        def tier(keep: str, documents: Any) -> Callable[[], float]:
            def run() -> float:
                """CPU seconds from the first pack's begin to the last one's commit, as progress tells of them."""
                told: list[float] = []
                attlas.capture(
                    model,
                    documents,
                    place / "made.zarr",
                    keep=keep,
                    progress=lambda _: told.append(time.process_time()),
                )
                shutil.rmtree(place / "made.zarr")
                return told[-1] - told[0]

            return run

        def dense_map() -> Any:
            return softmax(q[1, 2] @ k[1, 1].T * scaling)

        edited, unedited = _passes(model, long)
        head_map, box = Handle(atlas, "doc-0", "self").head_map(1, 2), choose_box(TOKENS, TOKENS, 2, 0, 0)

        found = [
            Pair(name="factors", contender=tier("factors", long), base=forward, base_name="forward pass", rounds=8),
            Pair(
                name="statistics", contender=tier("statistics", long), base=forward, base_name="forward pass",
                rounds=8,
            ),
            Pair(
                name="short documents", contender=tier("factors", many), base=short_forward,
                base_name="forward passes", rounds=8,
            ),
            Pair(
                name="whole map", contender=lambda: _read(page.attention[1, 2]),
                base=lambda: _drop(dense_map()), base_name="numpy", rounds=15,
            ),
            Pair(
                name="exact statistics",
                contender=lambda: _drop(analysis.statistics(atlas, layers=[1], save=False, workers=1)),
                base=_dense_statistics(atlas, page), base_name="numpy on maps", rounds=5,
            ),
            Pair(
                name="operator", contender=lambda: _both_ways(operator, x_NC), base=lambda: _fused(q[1], k[1]),
                base_name="fused attention", rounds=15,
            ),
            Pair(
                name="edited pass", contender=edited, base=unedited, base_name="unedited pass", rounds=15,
            ),
            Pair(
                name="coarse tile", contender=lambda: _drop(pooled(head_map, box, "max")),
                base=lambda: _drop(_pooled(dense_map())), base_name="numpy", rounds=15,
            ),
        ]  # fmt: skip
        yield {pair.name: pair for pair in found}


def _pooled(a: Any) -> Any:
    """The largest of each 4 x 4 weights."""
    return a.reshape(len(a) // 4, 4, -1, 4).max(axis=(1, 3))


def _passes(model: LlamaModel, long: list[list[int]]) -> tuple[Callable[[], None], Callable[[], None]]:
    """A document through the model with its head: the first key of every row knocked out, and as it is."""
    whole = LlamaForCausalLM(model.config).eval()
    whole.model = model
    asked = ask_model(whole, long, {})
    (document,) = asked.documents
    part = asked.passage(document)

    def run(*listeners: Any) -> None:
        for _ in asked.logits(part, listeners, last_only=True):
            pass

    return lambda: run(asked.editing([attlas.Edit(do="knock_out", key="first")], document)), run


def softmax(scores: Any) -> Any:
    """Causal, by numpy alone, (Q, K) -> (Q, K)."""
    scores[np.triu_indices(len(scores), 1)] = -np.inf
    scores -= scores.max(1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(1, keepdims=True)
    return scores


def _factors(atlas: Any) -> tuple[Any, Any, float]:
    """q (L, H, N, D), k (L, G, N, D), and the scaling."""
    rows = atlas.rows("self", 0)
    tokens = np.arange(rows.queries)
    layers = range(len(rows.layers))
    places = {"q": (None, rows.query_start + tokens), "k": (None, rows.key_start + tokens)}
    found = [rows.read(layer, **places) for layer in layers]
    q, k = (np.stack([part[i].numpy() for part in found]) for i in (0, 1))
    return q, k, float(rows.rule(0).scaling)


def _dense_statistics(atlas: Any, page: Any) -> Callable[[], None]:
    """Numpy's sums of one layer's heads, the maps in memory already."""
    corpus = find_corpus(atlas)
    ids = atlas.column("tokens/text/token_id")[: corpus.rows]
    marks, edges = np.isin(ids, corpus.separators), distance_edges(corpus.rows)
    maps = page.attention[1].values.astype(np.float16)

    def run() -> None:
        for first in range(0, corpus.rows, TOKENS // 3):
            dense_block(maps[:, first : first + TOKENS // 3], first, ids, marks, edges)

    return run


def _both_ways(operator: Any, x_NC: Any) -> None:
    """A @ X and A.T @ X, of the mean over heads."""
    operator.apply(x_NC, "mean")
    operator.apply_transposed(x_NC, "mean")


def _fused(q_HND: Any, k_GND: Any) -> None:
    """Torch's own attention of the layer, whose values are as wide as its keys."""
    q, k = torch.from_numpy(q_HND)[None], torch.from_numpy(k_GND)[None]
    torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)


def _read(attention: Any) -> None:
    attention.values  # noqa: B018


def _drop(_answer: Any) -> None:
    return None


def slowed(pair: Pair, times: int) -> Pair:
    """The pair with a contender that does its work `times` times."""

    def run() -> float:
        begin = time.process_time()
        told = [pair.contender() for _ in range(times)]
        own = [seconds for seconds in told if seconds is not None]
        return sum(own) if own else time.process_time() - begin

    return replace(pair, contender=run)


def show(verdict: Verdict) -> None:
    known = verdict.recorded
    told = "SLOWER" if verdict.is_slower else "ok"
    click.echo(
        f"{verdict.name:<18} {verdict.ratio:7.3f} x {known.base:<15} recorded {known.ratio:7.3f}, at most "
        f"{known.most:7.3f}  {told}"
    )


@click.command(help=__doc__)
@click.option("--record", "records", is_flag=True, help=f"Write {RECORDED.name} anew, from {RUNS} runs.")
@click.option("--recorded", type=click.Path(path_type=Path, dir_okay=False), default=RECORDED, help="That file.")
@click.option("--only", multiple=True, help="One ratio; may be given again. [default: all]")
@click.option("--slow", help="One ratio, whose contender runs several times over.")
@click.option("--by", type=click.IntRange(1), default=2, show_default=True, help="With --slow, how often.")
def main(records: bool, recorded: Path, only: tuple[str, ...], slow: str | None, by: int) -> None:
    begin = time.perf_counter()
    with pairs() as found:
        unknown = next((name for name in (*only, *([slow] if slow else [])) if name not in found), None)
        if unknown is not None:
            raise click.UsageError(f"there is no ratio {unknown!r}: choose of {', '.join(found)}")
        if slow is not None:
            found[slow] = slowed(found[slow], by)
        chosen = [pair for name, pair in found.items() if not only or name in only]
        if records:
            runs: dict[str, list[float]] = {pair.name: [] for pair in chosen}
            for turn in range(RUNS):
                for pair in chosen:
                    runs[pair.name].append(measure(pair))
                click.echo(f"run {turn + 1} of {RUNS}: " + ", ".join(f"{n} {r[-1]:.3f}" for n, r in runs.items()))
            machine = find_machine(Path(tempfile.gettempdir()))
            kept = load(recorded) if only and recorded.exists() else {}
            made = {pair.name: record(pair.base_name, runs[pair.name]) for pair in chosen}
            save(recorded, {**kept, **made}, f"{machine.cpu}, {machine.cores} cores, Python {machine.python}")
            click.echo(f"recorded in {recorded}")
            return
        verdicts = judge(chosen, load(recorded))
    for verdict in verdicts:
        show(verdict)
    slower = [verdict.name for verdict in verdicts if verdict.is_slower]
    click.echo(f"{time.perf_counter() - begin:.0f} s")
    if slower:
        raise click.ClickException(
            f"slower than recorded, three times over: {', '.join(slower)}. Find the cause; where it is meant, make the "
            "ratios anew with python benchmarks/smoke.py --record"
        )


if __name__ == "__main__":
    if not ONE_THREAD.items() <= os.environ.items():  # BLAS reads it when it is loaded, which is before this line
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    main()
