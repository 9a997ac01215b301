"""attlas consistency: how much the weights of each head vary when dropout is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.experiment import (
    experiment_arguments,
    experiment_options,
    experiment_progress,
    head_options,
    interval_of,
    read_documents,
    told,
    write,
)
from attlas.cli.output import console, reports_errors, table
from attlas.cli.selection import COUNT, MEMORY

__all__ = ["command"]


@click.command("consistency")
@experiment_arguments
@click.option("--draws", type=click.IntRange(2), default=10, show_default=True, help="Runs, of their own masks.")
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Every probability of dropout. [default: the model's own]")  # fmt: skip
@head_options
@click.option("--memory", type=MEMORY, help="What all draws' q and k may take. [default: 1 GiB]")
@click.option("--top", type=COUNT, default=12, show_default=True, help="Heads that are printed.")
@experiment_options
@reports_errors
def command(model: str, inputs: tuple[str, ...], top: int, figure: Path | None, as_json: bool, **options: Any) -> None:
    """Run MODEL over INPUTS again and again with dropout on, and see how much the weights of each head vary.

    INPUTS are files as of attlas capture, or one atlas, whose documents are taken.

    \b
    Example:
      attlas consistency openai-community/gpt2 notes.txt --figure varies.png
      attlas consistency demo notes.txt --rate 0.1
    """
    from attlas import experiments

    documents = read_documents(inputs)
    with experiment_progress("dropout", options, shown=not as_json) as given:
        found = experiments.consistency(model, documents, **given)
    write(found, figure, as_json=as_json, show=lambda one: _show(one, top))


def _show(found: Any, top: int) -> None:
    attrs, several = found.attrs, found.sizes["document"] > 1
    told(found, f"weights over {attrs['draws']} runs with dropout, rate {attrs['rate']}")
    cv = found.cv_mean.values
    order = np.argsort(-cv.ravel(), kind="stable")[:top]
    interval = [f"{attrs['confidence']:.0%} interval"] if several else []
    rows = table("layer", "head", "variation", *interval, "correlation", "deviation",
                 right={"layer", "head", "variation", "correlation", "deviation"})  # fmt: skip
    for layer, head in zip(*np.unravel_index(order, cv.shape), strict=True):
        where = {"layer": layer, "head": head}
        mean, span = interval_of(found, "cv", where)
        more = (interval_of(found, name, where)[0] for name in ("correlation", "deviation"))
        names = (str(found[dim].values[at]) for dim, at in where.items())
        rows.add_row(*names, mean, *([span] if several else []), *more)
    console().print(rows)
    console().print("variation: a row's deviations by its means; correlation: of two runs", style="dim")
    if cv.size > top:
        console().print(f"{len(order)} of {cv.size} heads, the most variable: --json gives all", style="dim")
