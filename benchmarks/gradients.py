"""What a capture with gradients costs: time over a plain pass forward and back, and the peak above the model.

    python benchmarks/gradients.py smollm2 --tokens 2048 --rounds 3

MODEL is a folder, or `smollm2`. Each contender runs in a process of its own, once a round, in turn. The plain pass is
transformers' own under SDPA, weights frozen, the loss of the next tokens; `eager` keeps every map and its gradient.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

CONTENDERS = ("plain", "attlas", "eager")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def work(name: str, model: Any, ids: list[int]) -> None:
    """One document forward and back."""
    import torch

    import attlas
    from attlas.engine.model.embedded import constant_weights

    if name == "attlas":
        with tempfile.TemporaryDirectory() as folder:
            attlas.capture(model, [ids], Path(folder) / "a.zarr", gradients="loss", extrapolate=True)
        return
    model.set_attn_implementation("eager" if name == "eager" else "sdpa")
    with constant_weights(model):
        given = torch.tensor([ids])
        out = model(given, use_cache=False, output_attentions=name == "eager")
        if name == "eager":
            for one in out.attentions:
                one.retain_grad()
        torch.nn.functional.cross_entropy(out.logits[0, :-1], given[0, 1:]).backward()


def measure(name: str, folder: str, tokens: int, threads: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(10, model.config.vocab_size - 10, tokens).tolist()
    work(name, model, ids[:32])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    loaded, begin = _resident("VmRSS"), time.perf_counter()
    work(name, model, ids)
    return {"seconds": time.perf_counter() - begin, "peak": _resident("VmHWM") - loaded}


@click.command()
@click.argument("model")
@click.option("--tokens", type=click.IntRange(64), default=2048, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--only", type=click.Choice(CONTENDERS), multiple=True, help="[default: plain, attlas]")
@click.option("--alone", type=click.Choice(CONTENDERS), hidden=True)
def main(model: str, tokens: int, rounds: int, threads: int, only: tuple[str, ...], alone: str | None) -> None:
    if model == "smollm2":
        from tests.real_models import smollm2_folder

        model = str(smollm2_folder())
    if alone is not None:
        click.echo(json.dumps(measure(alone, model, tokens, threads)))
        return
    names = only or CONTENDERS[:2]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, model, "--tokens", str(tokens), "--threads", str(threads)]
            done = subprocess.run([*command, "--alone", name], capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    click.echo(f"{tokens:,} tokens, {threads} thread(s), medians of {rounds} rounds")
    for name, runs in found.items():
        seconds, peak = (float(np.median([one[what] for one in runs])) for what in ("seconds", "peak"))
        ratio = float(np.median([a["seconds"] / b["seconds"] for a, b in zip(runs, found[names[0]], strict=True)]))
        click.echo(f"{name:8} {seconds:7.2f} s  {ratio:5.2f} x {names[0]}  {peak / 2**20:7,.0f} MB above the model")


if __name__ == "__main__":
    main()
