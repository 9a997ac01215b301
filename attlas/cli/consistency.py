"""attlas consistency: how much the weights of each head vary when dropout is on, or over paraphrases."""

from __future__ import annotations

import json
from contextlib import suppress
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
from attlas.cli.inputs import read_inputs
from attlas.cli.output import console, reports_errors, table
from attlas.cli.selection import COUNT, MEMORY

__all__ = ["command"]


@click.command("consistency")
@experiment_arguments
@click.option("--paraphrases", is_flag=True, help="Over texts that say the same, not over dropout.")
@click.option("--cells", type=click.IntRange(2), help="Of --paraphrases: rows of the grid of a map. [default: 16]")
@click.option("--draws", type=click.IntRange(2), help="Runs, of their own masks. [default: 10]")
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Every probability of dropout. [default: the model's own]")  # fmt: skip
@head_options
@click.option("--memory", type=MEMORY, help="What all draws' q and k may take. [default: 1 GiB]")
@click.option("--top", type=COUNT, default=12, show_default=True, help="Heads that are printed.")
@experiment_options
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    paraphrases: bool,
    top: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL over INPUTS again and again with dropout on, and see how much the weights of each head vary.

    INPUTS are files as of attlas capture, or one atlas, whose documents are taken. With --paraphrases they are .jsonl
    files of lines {"id", "text", "paraphrases"}, and it is the patterns over each text and its paraphrases, a list,
    that are compared, pooled by relative place.

    \b
    Example:
      attlas consistency openai-community/gpt2 notes.txt --figure varies.png
      attlas consistency demo notes.txt --rate 0.1
      attlas consistency demo said.jsonl --paraphrases --cells 8
    """
    from attlas import experiments

    wrong = next((one for one in (("draws", "rate", "memory") if paraphrases else ("cells",)) if options[one]), None)
    if wrong is not None:
        raise click.UsageError(f"--{wrong} is of {'dropout' if paraphrases else '--paraphrases'}")
    if paraphrases:
        texts = read_inputs(inputs)
        others = [_paraphrases(document) for document in texts]
        with experiment_progress("paraphrases", options, shown=not as_json) as given:
            found = experiments.paraphrases(model, texts, others, **given)
        write(found, figure, as_json=as_json, show=lambda one: _show(one, top))
        return
    documents = read_documents(inputs)
    with experiment_progress("dropout", options, shown=not as_json) as given:
        found = experiments.consistency(model, documents, **given)
    write(found, figure, as_json=as_json, show=lambda one: _show(one, top))


def _paraphrases(document: Any) -> list[str]:
    given = document.fields.get("paraphrases")
    if isinstance(given, str):  # what is no plain value is kept as its JSON
        with suppress(ValueError):
            given = json.loads(given)
    if not isinstance(given, list) or not given or not all(isinstance(one, str) and one for one in given):
        raise click.UsageError(f"document {document.id!r} has no paraphrases: give lines of JSON with text and a list")
    return given


def _show(found: Any, top: int) -> None:
    attrs, several = found.attrs, found.sizes["document"] > 1
    if attrs["question"] == "paraphrases":
        told(found, f"weights over texts that say the same, on a grid of {attrs['cells']} x {attrs['cells']}")
    else:
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
    console().print("variation: a row's deviations by its means; correlation: of two of them", style="dim")
    if cv.size > top:
        console().print(f"{len(order)} of {cv.size} heads, the most variable: --json gives all", style="dim")
