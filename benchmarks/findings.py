"""What docs/edits.md and docs/gradients.md say of a model's attention, measured again.

    python benchmarks/findings.py smollm2 sinks
    python benchmarks/findings.py smollm2 explanations
    python benchmarks/findings.py smollm2 importance
    python benchmarks/findings.py smollm2 knock-out --tokens 32768 --threads 2

MODEL is a folder, or `smollm2`. Texts are pages of docs/, so that figures move a little as these are written on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

import attlas  # noqa: E402
from attlas import analysis, experiments  # noqa: E402
from attlas.experiments.asked import ask_model  # noqa: E402

PAGE = (ROOT / "docs" / "architecture.md").read_text()


@click.group()
@click.argument("model")
@click.pass_context
def main(context: click.Context, model: str) -> None:
    if model == "smollm2":
        from tests.real_models import smollm2_folder

        model = str(smollm2_folder())
    context.obj = model


@main.command()
@click.pass_obj
def sinks(model: str) -> None:
    """As much weight taken from the first token as from all others, of the heads that lay more than half on it."""
    text = PAGE + (ROOT / "docs" / "store.md").read_text()
    texts = [text[begin : begin + 2400] for begin in (0, 4000, 8000)]
    atlas = attlas.capture(model, texts, "memory://sinks", overwrite=True, max_tokens=512)
    first = analysis.statistics(atlas, save=False).first_weight.values
    heads = [(int(layer), int(head), float(first[layer, head])) for layer, head in np.argwhere(first > 0.5)]
    click.echo(f"{len(heads)} of {first.size} heads lay more than half on the first token")

    def change(what: str, edits: list[attlas.Edit]) -> None:
        found = experiments.run(model, texts, edits, max_tokens=512, predicted="16:")
        mean, low, high = (found[f"loss_change_{end}"].item() for end in ("mean", "low", "high"))
        click.echo(f"{what:44} {mean:+.3f} nats ({low:+.3f} to {high:+.3f})")

    def edits(**how: Any) -> list[attlas.Edit]:
        return [attlas.Edit(layer=layer, head=head, **how) for layer, head, _ in heads]

    part = [
        attlas.Edit(do="scale", layer=layer, head=head, key="first", factor=1 - (1 - share) / share)
        for layer, head, share in heads
    ]
    change("from the first, as much as the others have", part)
    change("the others", edits(do="zero", key="not_first"))
    change("the first, poured over the others", edits(do="knock_out", key="first"))


@main.command()
@click.pass_obj
def explanations(model: str) -> None:
    """Which explanations name tokens that the prediction needs."""
    texts = [PAGE[:700], PAGE[900:1600], PAGE[2000:2700], PAGE[3000:3700]]
    found = experiments.faithfulness(model, texts, max_tokens=160)
    for name in found.explanation.values:
        one = found.sel(explanation=name)
        click.echo(f"{name:22} {one.comprehensiveness_mean.item():.3f}  {one.sufficiency_mean.item():.3f}")
    click.echo(found.says)


@main.command()
@click.pass_obj
def importance(model: str) -> None:
    """Importance of heads by gradients of the loss, beside the loss without each."""
    from scipy.stats import pearsonr, spearmanr

    atlas = attlas.capture(model, PAGE[:1500], "memory://importance", gradients="loss", max_tokens=256, overwrite=True)
    first = -analysis.relevance(atlas, save=False).head_importance.values.ravel()
    exact = experiments.ablate_heads(model, PAGE[:1500], max_tokens=256).loss_change.values.ravel()
    rank, linear = spearmanr(first, exact).statistic, pearsonr(first, exact).statistic
    click.echo(f"{exact.size} heads: rank correlation {rank:.2f}, Pearson {linear:.2f}")


@main.command("knock-out")
@click.option("--tokens", type=click.IntRange(64), default=32_768, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.pass_obj
def knock_out(model: str, tokens: int, threads: int) -> None:
    """The first key knocked out of one head and of all, over the unedited pass: time, and the peak above the model."""
    import torch

    torch.set_num_threads(threads)
    ids = np.random.default_rng(0).integers(10, 49_000, tokens).tolist()
    asked = ask_model(model, [ids], {"extrapolate": True})
    (document,), plain, loaded = asked.documents, 0.0, _resident("VmRSS")
    one = attlas.Edit(do="knock_out", key="first", layer=asked.layers[len(asked.layers) // 2], head=4)
    every = attlas.Edit(do="knock_out", key="first")
    passes: dict[str, list[attlas.Edit]] = {"unedited": [], "one head": [one], "all heads": [every]}
    for what, edits in passes.items():
        listeners = [asked.editing(edits, document)] if edits else []
        Path("/proc/self/clear_refs").write_text("5")
        begin = time.perf_counter()
        for _ in asked.logits(asked.passage(document), listeners, last_only=True):
            pass
        seconds = time.perf_counter() - begin
        plain = plain or seconds
        click.echo(f"{what:10} {seconds:7.1f} s  {seconds / plain:.2f}  {_resident('VmHWM') - loaded:,.0f} MB")


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
