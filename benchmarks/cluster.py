"""What shards and replicas on Ray bring: each against one process with one torch thread, interleaved.

python benchmarks/cluster.py replicas MODEL --documents 300      two replicas on a corpus of short documents
python benchmarks/cluster.py shards MODEL --tokens 4096          two shards on one long document
python benchmarks/cluster.py offload MODEL --weights 200MB       weights read from disk, peak memory measured

Seconds are those from the first pack's begin to the last one's commit: what a run costs to start is left out.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import click

from attlas.progress import Progress


def capture(model: str, texts: list[list[int]], **options: Any) -> dict[str, Any]:
    """One capture; what its last progress tells."""
    import attlas

    told: list[Progress] = []
    with tempfile.TemporaryDirectory() as folder:
        attlas.capture(
            model, texts, Path(folder) / "atlas.zarr", dtype="float32", device="cpu", progress=told.append, **options
        )
    last = told[-1]
    return {
        "seconds": last.seconds,
        "tokens_per_second": last.tokens_now / last.seconds,
        "busy": [round(share.busy, 3) for share in last.shards],
        "peak_memory": [share.peak_memory for share in last.shards]
        or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024],
    }


def random_ids(counts: list[int]) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randint(100, 8000, (count,), generator=generator).tolist() for count in counts]


def compare(model: str, texts: list[list[int]], repetitions: int, wide: dict[str, Any], common: dict[str, Any]) -> None:
    one: list[dict[str, Any]] = []
    many: list[dict[str, Any]] = []
    for turn in range(repetitions):
        for found, options in ((one, {}), (many, wide))[:: 1 if turn % 2 == 0 else -1]:
            found.append(capture(model, texts, **common, **options, threads=1))
            click.echo(json.dumps({**options, **found[-1]}), err=True)
    median = [statistics.median(run["seconds"] for run in runs) for runs in (one, many)]
    click.echo(
        json.dumps(
            {
                "documents": len(texts),
                "tokens": sum(map(len, texts)),
                "cores": os.cpu_count(),
                **wide,
                **common,
                "seconds_one": median[0],
                "seconds_many": median[1],
                "ratio": round(median[0] / median[1], 3),
                "ratios": [round(a["seconds"] / b["seconds"], 3) for a, b in zip(one, many, strict=True)],
            },
            indent=2,
        )
    )


@click.group()
def main() -> None:
    """See the module."""


@main.command()
@click.argument("model")
@click.option("--documents", default=300)
@click.option("--keep", default="statistics")
@click.option("--repetitions", default=3)
def replicas(model: str, documents: int, keep: str, repetitions: int) -> None:
    """Two replicas against one, on documents of 20 to 200 tokens."""
    import numpy as np

    counts = np.random.default_rng(0).integers(20, 201, size=documents).tolist()
    compare(model, random_ids(counts), repetitions, {"replicas": 2}, {"keep": keep})


@main.command()
@click.argument("model")
@click.option("--tokens", default=4096)
@click.option("--keep", default="statistics")
@click.option("--chunk-tokens", default=512)
@click.option("--repetitions", default=3)
def shards(model: str, tokens: int, keep: str, chunk_tokens: int, repetitions: int) -> None:
    """Two shards against one, on one document."""
    compare(model, random_ids([tokens]), repetitions, {"shards": 2}, {"keep": keep, "chunk_tokens": chunk_tokens})


@main.command()
@click.argument("model")
@click.option("--weights", default="300MB")
@click.option("--tokens", default=1024)
def offload(model: str, weights: str, tokens: int) -> None:
    """Peak memory with only so many bytes of weights in memory, and with all; each in a process of its own.

    anonymous: what the kernel cannot drop and read again; weights that are mapped from a file as they are do not count.
    """
    from attlas.engine.passage.selection import parse_bytes

    spawn = multiprocessing.get_context("spawn")
    for limit in (None, parse_bytes(weights)):
        with spawn.Pool(1) as pool:
            click.echo(json.dumps({"offload": limit, **pool.apply(capture_watched, (model, tokens, limit))}))


def capture_watched(model: str, tokens: int, limit: int | None) -> dict[str, Any]:
    """One capture in float32, with the process's peak anonymous memory."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
            assert found is not None
            peak[0] = max(peak[0], int(found.group(1)) * 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = capture(model, random_ids([tokens]), keep="factors", offload=limit)
    finally:
        over.set()
        watcher.join()
    return {**found, "anonymous": peak[0]}


if __name__ == "__main__":
    main()
