"""Peak memory of a capture against its length, each length in a process of its own, beside what the plan foretold.

python benchmarks/memory.py MODEL --tokens 4096,8192,16384,32768 --keep statistics --memory 6
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click


def measure(model: str, tokens: int, keep: str, memory: int | None) -> dict[str, Any]:
    """Capture one document of random ids; runs in a fresh process, whose peak resident memory is the figure."""
    import torch

    import attlas
    from attlas.capture.plan import plan_capture
    from attlas.engine.model.load import load_model

    loaded = load_model(model, dtype="float32", device="cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, loaded.config.get_text_config().vocab_size - 10, (tokens,), generator=generator).tolist()
    sizes = plan_capture(loaded, [ids], keep=keep, memory=memory, extrapolate=True).sizes
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        attlas.capture(loaded.model, [ids], Path(folder) / "atlas.zarr", keep=keep, memory=memory, extrapolate=True)
        seconds = time.perf_counter() - begin
    return {
        "tokens": tokens,
        "keep": keep,
        "chunk_tokens": sizes.chunk_tokens,
        "block": sizes.block,
        "seconds": seconds,
        "loaded_bytes": before,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "planned_bytes": sizes.memory.total,
    }


@click.command(help=__doc__)
@click.argument("model")
@click.option("--tokens", default="4096,8192,16384,32768", show_default=True)
@click.option("--keep", "keeps", multiple=True, default=("statistics", "factors"), show_default=True)
@click.option("--memory", type=float, help="Budget in GB.")
@click.option("--json", "as_json", is_flag=True)
def main(model: str, tokens: str, keeps: tuple[str, ...], memory: float | None, as_json: bool) -> None:
    budget = None if memory is None else int(memory * 1e9)
    for keep in keeps:
        for count in map(int, tokens.split(",")):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(measure, (model, count, keep, budget))
            if as_json:
                click.echo(json.dumps(found))
                continue
            click.echo(
                f"{keep:<11} {count:>7,} tokens  peak {found['peak_bytes'] / 1e9:5.2f} GB  "
                f"planned {found['planned_bytes'] / 1e9:5.2f} GB  loaded {found['loaded_bytes'] / 1e9:5.2f} GB  "
                f"{found['seconds']:7.1f} s  (chunk {found['chunk_tokens']}, block {found['block']})"
            )


if __name__ == "__main__":
    main()
