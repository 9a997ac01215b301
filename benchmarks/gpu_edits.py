"""Edited forward passes on a GPU, as ratios to the unedited one: a model of 1B shape with random weights in bfloat16.

python benchmarks/gpu_edits.py --tokens 2048,8192
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import attlas
from attlas.experiments.asked import Asked, ask_model

EDITS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "zero, 8 of 32 heads": [{"do": "zero", "layer": "1:", "head": "0:8"}],
    "scale": [{"do": "scale", "factor": 0.5}],
    "uniform, one head": [{"do": "uniform", "layer": "8:", "head": 3}],
    "temperature": [{"do": "temperature", "temperature": 1.3}],
    "swap": [{"do": "swap", "head": 0, "other": 9}],
    "knock_out, one head": [{"do": "knock_out", "head": 0, "key": "first"}],
    "knock_out": [{"do": "knock_out", "key": "first"}],
    "noise": [{"do": "noise", "size": 0.5}],
    "drop_top": [{"do": "drop_top", "top": 1}],
}


@click.command(help=__doc__)
@click.option("--tokens", default="2048,8192", show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(tokens: str, rounds: int) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("there is no GPU here: this script measures nothing without one")
    click.echo(torch.cuda.get_device_name())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=65_536,
    )  # fmt: skip
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM(config)
    model = model.to(dtype=torch.bfloat16).eval()
    for count in map(int, tokens.split(",")):
        asked = ask_model(model, [torch.randint(0, 32_000, (count,)).tolist()], {"chunk_tokens": count})
        best: dict[str, float] = {}
        for _ in range(rounds):
            for name, edits in EDITS.items():
                seconds = _seconds(asked, [attlas.Edit(**one) for one in edits])
                best[name] = min(best.get(name, seconds), seconds)
        for name, seconds in best.items():
            click.echo(f"{count:>7} {name:22} {seconds * 1000:9.1f} ms  {seconds / best['plain']:7.2f} x")


def _seconds(asked: Asked, edits: Sequence[attlas.Edit]) -> float:
    document = asked.documents[0]
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in asked.logits(asked.passage(document), [asked.editing(edits, document)] if edits else [], last_only=True):
        pass
    torch.cuda.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
