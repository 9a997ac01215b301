"""A corpus of short documents: attlas against padded batches under eager attention with output_attentions=True.

Each run has a process of its own, in turn; eager only makes the weights, attlas also computes all statistics of them
and writes the atlas. The time is that of the capture or the forward passes, without loading the model. One document,
and other tools: peers/run.py.

python benchmarks/corpus.py MODEL --documents 2000
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from attlas.memory import peak_memory
from attlas.readable import human_bytes

SHORTEST, LONGEST = 20, 200


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
        before, begin = peak_memory(), time.perf_counter()
        for start in range(0, len(ids), batch):
            part = ids[start : start + batch]
            widest = max(map(len, part))
            padded = torch.tensor([[*one, *[0] * (widest - len(one))] for one in part])
            mask = torch.tensor([[1] * len(one) + [0] * (widest - len(one)) for one in part])
            output = loaded(input_ids=padded, attention_mask=mask, output_attentions=True, use_cache=False)
            assert output.attentions[-1].shape[-1] == widest
            del output
    return {"seconds": time.perf_counter() - begin, "bytes": peak_memory() - before, "files": 0}


def run_attlas(model: str, lengths: list[int], keep: str) -> dict[str, Any]:
    import attlas
    from attlas.engine.model.load import load_model

    loaded = load_model(model, dtype="float32", device="cpu")
    ids = texts(loaded.config.get_text_config().vocab_size, lengths)
    with tempfile.TemporaryDirectory() as folder:
        attlas.capture(loaded.model, [ids[0][:16]], Path(folder) / "warm.zarr", keep=keep)
        before, begin = peak_memory(), time.perf_counter()
        attlas.capture(loaded.model, ids, Path(folder) / "atlas.zarr", keep=keep)
        seconds = time.perf_counter() - begin
        files = sum(path.is_file() for path in (Path(folder) / "atlas.zarr").rglob("*"))
    return {"seconds": seconds, "bytes": peak_memory() - before, "files": files}


@click.command(help=__doc__)
@click.argument("model")
@click.option("--documents", default=2000, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--keep", "keeps", multiple=True, default=("statistics",), show_default=True)
@click.option("--repeats", default=1, show_default=True)
def main(model: str, documents: int, batch: int, keeps: tuple[str, ...], repeats: int) -> None:
    generator = random.Random(0)
    lengths = [generator.randint(SHORTEST, LONGEST) for _ in range(documents)]
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(repeats):
        for name in ("eager", *keeps):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                if name == "eager":
                    one = pool.apply(run_eager, (model, lengths, batch))
                else:
                    one = pool.apply(run_attlas, (model, lengths, name))
            found.setdefault(name, []).append(one)
    base = statistics.median(one["seconds"] for one in found["eager"])
    for name, runs in found.items():
        seconds, size = (statistics.median(one[what] for one in runs) for what in ("seconds", "bytes"))
        files = f", {runs[0]['files']:,} files" if runs[0]["files"] else ""
        click.echo(
            f"{name:<11} {seconds:8.1f} s ({base / seconds:5.2f} x as fast)  "
            f"{human_bytes(size)} above the loaded model{files}"
        )


if __name__ == "__main__":
    main()
