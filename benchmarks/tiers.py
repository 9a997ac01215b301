"""Time and peak memory of each tier against the model's plain SDPA forward pass, interleaved, median of the repeats.

python benchmarks/tiers.py MODEL --tokens 4096 --repeats 3
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

import attlas
from attlas.engine.model.load import load_model


@click.command(help=__doc__)
@click.argument("model")
@click.option("--tokens", default=4096, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--tier", "tiers", multiple=True, default=("factors", "statistics"), show_default=True)
@click.option("--chunk-tokens", type=int, help="Query tokens in one forward pass.")
def main(model: str, tokens: int, repeats: int, tiers: tuple[str, ...], chunk_tokens: int | None) -> None:
    loaded = load_model(model, dtype="float32", device="cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, loaded.config.get_text_config().vocab_size - 10, (tokens,), generator=generator).tolist()

    def forward() -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            loaded.model(input_ids=torch.tensor([ids]), use_cache=False)
        return time.perf_counter() - begin

    def tier(keep: str) -> Callable[[], float]:
        def run() -> float:
            with tempfile.TemporaryDirectory() as folder:
                atlas = attlas.capture(
                    loaded.model, [ids], Path(folder) / "atlas.zarr", keep=keep, chunk_tokens=chunk_tokens
                )
                return float(atlas.packs["seconds"].sum())

        return run

    runs: dict[str, Callable[[], float]] = {"forward": forward} | {keep: tier(keep) for keep in tiers}
    times: dict[str, list[float]] = {name: [] for name in runs}
    forward()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run())
    base = statistics.median(times["forward"])
    for name, found in times.items():
        middle = statistics.median(found)
        spread = f"{min(found):.2f} to {max(found):.2f} s"
        click.echo(f"{name:<11} {middle:7.2f} s  {middle / base:5.2f} x forward  ({spread})")
    click.echo(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
