"""The driver's memory over a long corpus on a cluster: what it holds when the packs begin, and when they are done.

python benchmarks/driver_memory.py MODEL --documents 10000 --shards 2
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np
import psutil


@click.command(help=__doc__)
@click.argument("model")
@click.option("--documents", default=10_000)
@click.option("--shards", default=2)
@click.option("--keep", default="statistics")
def main(model: str, documents: int, shards: int, keep: str) -> None:
    import attlas
    from attlas.progress import Progress

    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 200, size=int(draw.integers(20, 201))).tolist() for _ in range(documents)]
    process = psutil.Process()
    seen: list[tuple[int, int]] = []

    def progress(state: Progress) -> None:
        if not seen or seen[-1][0] != state.packs_done:
            seen.append((state.packs_done, process.memory_info().rss))

    with tempfile.TemporaryDirectory() as folder:
        attlas.capture(model, texts, Path(folder) / "a.zarr", keep=keep, shards=shards, threads=1, progress=progress)
    quarter = seen[len(seen) // 4 :]
    click.echo(
        json.dumps(
            {
                "documents": documents,
                "tokens": sum(map(len, texts)),
                "packs": seen[-1][0],
                "rss_at_first_pack": seen[0][1],
                "rss_after_a_quarter": quarter[0][1],
                "rss_at_last_pack": seen[-1][1],
                "most": max(size for _, size in seen),
            }
        )
    )


if __name__ == "__main__":
    main()
