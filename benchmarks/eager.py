"""attlas against eager attention with output_attentions=True, which holds every layer's weights: time and peak memory.

Each run has a process of its own, in turn; eager only makes the weights, attlas also computes all statistics of them
and writes the atlas. The time is that of the capture or the forward passes, without loading the model.

python benchmarks/eager.py document MODEL --tokens 2048
python benchmarks/eager.py corpus MODEL --documents 2000
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click


def texts(vocabulary: int, lengths: list[int]) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randint(10, vocabulary - 10, (n,), generator=generator).tolist() for n in lengths]


def run_eager(model: str, lengths: list[int], batch: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModel

    loaded = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    ids = texts(loaded.config.vocab_size, lengths)
    with torch.inference_mode():
        loaded(input_ids=torch.tensor([ids[0][:16]]), output_attentions=True)
        before, begin = peak(), time.perf_counter()
        for start in range(0, len(ids), batch):
            part = ids[start : start + batch]
            widest = max(map(len, part))
            padded = torch.tensor([[*one, *[0] * (widest - len(one))] for one in part])
            mask = torch.tensor([[1] * len(one) + [0] * (widest - len(one)) for one in part])
            output = loaded(input_ids=padded, attention_mask=mask, output_attentions=True, use_cache=False)
            assert output.attentions[-1].shape[-1] == widest
            del output
    return {"seconds": time.perf_counter() - begin, "bytes": peak() - before, "files": 0}


def run_attlas(model: str, lengths: list[int], keep: str) -> dict[str, Any]:
    import attlas
    from attlas.engine.model.load import load_model

    loaded = load_model(model, dtype="float32", device="cpu")
    ids = texts(loaded.config.get_text_config().vocab_size, lengths)
    with tempfile.TemporaryDirectory() as folder:
        attlas.capture(loaded.model, [ids[0][:16]], Path(folder) / "warm.zarr", keep=keep)
        before, begin = peak(), time.perf_counter()
        attlas.capture(loaded.model, ids, Path(folder) / "atlas.zarr", keep=keep)
        seconds = time.perf_counter() - begin
        files = sum(path.is_file() for path in (Path(folder) / "atlas.zarr").rglob("*"))
    return {"seconds": seconds, "bytes": peak() - before, "files": files}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(model: str, lengths: list[int], batch: int, keeps: tuple[str, ...], repeats: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(repeats):
        for name in ("eager", *keeps):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                if name == "eager":
                    one = pool.apply(run_eager, (model, lengths, batch))
                else:
                    one = pool.apply(run_attlas, (model, lengths, name))
            found.setdefault(name, []).append(one)
    base = {what: statistics.median(one[what] for one in found["eager"]) for what in ("seconds", "bytes")}
    for name, runs in found.items():
        seconds, size = (statistics.median(one[what] for one in runs) for what in ("seconds", "bytes"))
        click.echo(
            f"{name:<11} {seconds:8.1f} s ({base['seconds'] / seconds:5.2f} x faster)  "
            f"{size / 1e9:6.2f} GB above the loaded model ({size / base['bytes']:5.2f} of eager)  "
            f"{runs[0]['files'] or '':>5}{' files' if runs[0]['files'] else ''}"
        )


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@click.argument("model")
@click.option("--tokens", default=2048, show_default=True)
@click.option("--keep", "keeps", multiple=True, default=("statistics", "factors"), show_default=True)
@click.option("--repeats", default=3, show_default=True)
def document(model: str, tokens: int, keeps: tuple[str, ...], repeats: int) -> None:
    compare(model, [tokens], 1, keeps, repeats)


@main.command()
@click.argument("model")
@click.option("--documents", default=2000, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--keep", "keeps", multiple=True, default=("statistics",), show_default=True)
@click.option("--repeats", default=1, show_default=True)
def corpus(model: str, documents: int, batch: int, keeps: tuple[str, ...], repeats: int) -> None:
    import random

    generator = random.Random(0)
    compare(model, [generator.randint(20, 200) for _ in range(documents)], batch, keeps, repeats)


if __name__ == "__main__":
    main()
