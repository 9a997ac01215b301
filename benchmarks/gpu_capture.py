"""Capture of a model of Llama-3-8B's shape, with random weights, on a GPU: time beside the plain forward pass, memory.

python benchmarks/gpu_capture.py --tokens 8192,32768,131072 --keep statistics
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from transformers import LlamaConfig, LlamaModel

import attlas


@click.command(help=__doc__)
@click.option("--tokens", default="8192,32768,131072", show_default=True)
@click.option("--keep", type=click.Choice(["statistics", "factors"]), default="statistics", show_default=True)
@click.option("--layers", default=32, show_default=True)
@click.option("--hidden", default=4096, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--folder", default=None, help="Where the atlases go, which are removed.")
def main(tokens: str, keep: str, layers: int, hidden: int, rounds: int, device: str, folder: str | None) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no GPU here: this script measures nothing without one")
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=hidden * 7 // 2, num_hidden_layers=layers, vocab_size=32_000,
        num_attention_heads=hidden // 128, num_key_value_heads=max(1, hidden // 512), max_position_embeddings=131_072,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}, dtype=torch.bfloat16,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaModel(config).eval()
    torch.set_default_dtype(torch.float32)
    click.echo(f"{torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, {layers} layers, bfloat16, {keep}")
    for count in map(int, tokens.split(",")):
        _one_length(model, count, keep, rounds, folder)


def _one_length(model: LlamaModel, count: int, keep: str, rounds: int, folder: str | None) -> None:
    ids = torch.randint(0, 32_000, (count,), generator=torch.Generator().manual_seed(count)).tolist()

    def plain() -> None:
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)

    with tempfile.TemporaryDirectory(dir=folder) as place:

        def ours() -> None:
            attlas.capture(model, [ids], Path(place) / "a.zarr", ids=["text"], keep=keep, overwrite=True)

        seconds: dict[str, list[float]] = {"plain forward": [], keep: []}
        peaks: dict[str, int] = {}
        for _ in range(rounds + 1):
            for name, run in (("plain forward", plain), (keep, ours)):
                seconds[name].append(_timed(run, name, peaks))
        found = {name: statistics.median(values[1:]) for name, values in seconds.items()}
        ratio = found[keep] / found["plain forward"]
        peak = ", ".join(f"{name} {value / 1e9:.1f} GB" for name, value in peaks.items())
        told = f"plain {found['plain forward']:.2f} s, {keep} {found[keep]:.2f} s, ratio {ratio:.2f}"
        click.echo(f"{count:>8,} tokens: {told}; {peak}")
        row = attlas.open_atlas(Path(place) / "a.zarr")["text"]
        if keep == "factors":
            weight = row.attention.isel(layer=-1, head=0, query=-1).values
            click.echo(f"          the last row sums to {weight.sum():.6f}, its largest weight is {weight.max():.4g}")
        else:
            entropy = float(row.entropy.isel(layer=0, head=0, query=-1))
            click.echo(f"          entropy of the last row, layer 0, head 0: {entropy:.4f}")


def _timed(run: Callable[[], None], name: str, peaks: dict[str, int]) -> float:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
        peaks[name] = max(peaks.get(name, 0), torch.cuda.max_memory_allocated())
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
