"""attlas patch: attention of one run put into another, and how much of the answer comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.experiment import (
    experiment_options,
    experiment_progress,
    head_options,
    interval_of,
    told,
    write,
)
from attlas.cli.inputs import read_inputs
from attlas.cli.output import console, reports_errors, table
from attlas.cli.selection import COUNT

__all__ = ["command"]

FIELDS = ("other", "right", "wrong")


@click.command("patch")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--text", help="One text instead of INPUTS, with --other, --right and --wrong.")
@click.option("--other", help="The text whose run is given attention of --text's.")
@click.option("--right", help="The token that --text is followed by, such as ' Paris'.")
@click.option("--wrong", help="The token that --other is followed by.")
@click.option("--what", type=click.Choice(["output", "weights"]), default="output", show_default=True)
@click.option("--each", type=click.Choice(["head", "layer", "position"]), default="head", show_default=True)
@head_options
@click.option("--top", type=COUNT, default=12, show_default=True, help="Places that are printed.")
@experiment_options
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    text: str | None,
    other: str | None,
    right: str | None,
    wrong: str | None,
    top: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Put attention of one run of MODEL into another, and see how much of the answer comes back.

    INPUTS are .jsonl files of lines {"id", "text", "other", "right", "wrong"}: two texts of as many tokens, and the
    token that each is followed by.

    \b
    Example:
      attlas patch demo pairs.jsonl --figure patched.png
      attlas patch HuggingFaceTB/SmolLM2-135M --text 'The capital of France is' --right ' Paris'
        --other 'The capital of Italy is' --wrong ' Rome'
    """
    from attlas import experiments

    one = {"text": text, "other": other, "right": right, "wrong": wrong}
    if inputs and any(value is not None for value in one.values()):
        raise click.UsageError("INPUTS and --text exclude each other")
    if not inputs and any(value is None for value in one.values()):
        raise click.UsageError("give INPUTS, or --text, --other, --right and --wrong")
    texts: Any = [text]
    pairs: list[Any] = [one]
    if inputs:
        texts = read_inputs(inputs)
        pairs = [_fields(document) for document in texts]
    answers = [(pair["right"], pair["wrong"]) for pair in pairs]
    with experiment_progress("patching", options, shown=not as_json) as given:
        found = experiments.patching(model, texts, [pair["other"] for pair in pairs], answers, **given)
    write(found, figure, as_json=as_json, show=lambda one: _show(one, top))


def _fields(document: Any) -> dict[str, Any]:
    missing = [name for name in FIELDS if not isinstance(document.fields.get(name), str)]
    if missing:
        raise click.UsageError(
            f"document {document.id!r} has no {', '.join(missing)}: give lines of JSON with text, other, right, wrong"
        )
    return dict(document.fields)


def _show(found: Any, top: int) -> None:
    attrs, several = found.attrs, found.sizes["document"] > 1
    told(found, f"{attrs['what']} of each {attrs['each']} put into the other run")
    own, other = found.logit_difference_mean.item(), found.logit_difference_other_mean.item()
    console().print(f"right less wrong answer: {own:+.3f} (logits), in the other run {other:+.3f}")
    console().print("")
    mean = found.recovered_mean
    order = np.argsort(-np.abs(mean.values).ravel(), kind="stable")[:top]
    interval = [f"{attrs['confidence']:.0%} interval"] if several else []
    dims = [str(dim) for dim in mean.dims]
    rows = table(*dims, "recovered", *interval, right={*dims, "recovered"})
    for place in zip(*np.unravel_index(order, mean.shape), strict=True):
        where = dict(zip(dims, place, strict=True))
        share, span = interval_of(found, "recovered", where, digits=3)
        rows.add_row(
            *(str(found[dim].values[at]) for dim, at in where.items()), share, *([span] if several else [])
        )  # fmt: skip
    console().print(rows)
    if mean.size > top:
        console().print(f"{len(order)} of {mean.size}, the largest: --json gives all", style="dim")
