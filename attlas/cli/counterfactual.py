"""attlas counterfactual: another text in the place of one, or each of its tokens left out or replaced in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from attlas.cli.experiment import (
    experiment_options,
    experiment_progress,
    head_options,
    interval_of,
    measures_table,
    read_documents,
    told,
    write,
)
from attlas.cli.inputs import read_inputs
from attlas.cli.output import console, reports_errors, styled, table
from attlas.cli.selection import COUNT, WORD

__all__ = ["command"]

BY = ("delete", "mask", "random", "token")
MEASURES = (
    "kl_last", "kl", "js", "total_variation", "agreement", "logit_difference", "logit_difference_other"
)  # fmt: skip


@click.command("counterfactual")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--text", help="One text instead of INPUTS.")
@click.option("--other", help="What is put in the place of --text.")
@click.option("--right", help="A token whose logit is compared behind the last, such as ' Paris'.")
@click.option("--wrong", help="The token that it is compared with.")
@click.option("--by", type=click.Choice(BY), help="Change each token of INPUTS in turn: leave it out, or replace it.")
@click.option("--token", type=WORD, help="What --by token puts in, such as ' the'.")
@click.option("--places", metavar="PLACES", help="Tokens that --by changes: 50:, last:16. [default: not_special]")
@click.option("--draws", type=COUNT, help="Of --by random. [default: 5]")
@head_options
@click.option("--top", type=COUNT, default=12, show_default=True, help="Heads or tokens that are printed.")
@experiment_options
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    text: str | None,
    other: str | None,
    right: str | None,
    wrong: str | None,
    by: str | None,
    top: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL over texts and over others in their place, and see what of predictions and attention moves.

    INPUTS are .jsonl files of lines {"id", "text", "other"}, with "right" and "wrong" where logits of two answers are
    to be compared. With --by: any files, or one atlas, whose tokens are left out or replaced one by one, the ones that
    the prediction behind the last token needs most first.

    \b
    Example:
      attlas counterfactual demo pairs.jsonl --figure moved.png
      attlas counterfactual HuggingFaceTB/SmolLM2-135M --text 'The capital of France is'
        --other 'The capital of Italy is' --right ' Paris' --wrong ' Rome'
      attlas counterfactual demo notes.txt --by delete
    """
    from attlas import experiments

    one = {"text": text, "other": other, "right": right, "wrong": wrong}
    if (right is None) != (wrong is None):
        raise click.UsageError("give both --right and --wrong, or neither")
    if by is not None:
        if click.get_current_context().get_parameter_source("confidence") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--confidence is of intervals over documents, and --by ranks tokens: leave it out")
        if other is not None:
            raise click.UsageError("--by changes tokens of the texts themselves: leave --other out")
        if right is not None and text is None:
            raise click.UsageError("--right and --wrong are of one text: give --text")
        texts, pairs = _texts(inputs, text, "give INPUTS, or --text"), [one]
    else:
        wrongly = next((name for name in ("token", "places", "draws") if options[name] is not None), None)
        if wrongly is not None:
            raise click.UsageError(f"--{wrongly} is of --by")
        texts, pairs = _pairs(inputs, one)
        options = {name: value for name, value in options.items() if name not in ("token", "places", "draws")}
    answers = [(pair["right"], pair["wrong"]) for pair in pairs if pair.get("right") is not None] or None
    with experiment_progress("counterfactual", options, shown=not as_json) as given:
        if by is not None:
            del given["confidence"]
            found = experiments.replace_tokens(model, texts, by=by, answers=answers, **given)
        else:
            others = [pair["other"] for pair in pairs]
            found = experiments.counterfactual(model, texts, others, answers=answers, **given)
    show = _show_tokens if by is not None else _show_heads
    write(found, figure, as_json=as_json, show=lambda one: show(one, top))


def _texts(inputs: tuple[str, ...], text: str | None, remedy: str) -> Any:
    if bool(inputs) == (text is not None):
        raise click.UsageError("INPUTS and --text exclude each other" if inputs else remedy)
    return read_documents(inputs) if inputs else [text]


def _pairs(inputs: tuple[str, ...], one: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The texts, and of each what it is compared with."""
    if not inputs:
        if one["text"] is None or one["other"] is None:
            raise click.UsageError("give INPUTS, or --text and --other, or --text and --by")
        return [one["text"]], [one]
    if any(value is not None for value in one.values()):
        raise click.UsageError("INPUTS and --text exclude each other")
    documents = read_inputs(inputs)
    for document in documents:
        if not isinstance(document.fields.get("other"), str):
            raise click.UsageError(
                f"document {document.id!r} has no other: give lines of JSON with text and other, or --by"
            )
    pairs = [dict(document.fields) for document in documents]
    answered = [isinstance(pair.get("right"), str) and isinstance(pair.get("wrong"), str) for pair in pairs]
    if any(answered) != all(answered):
        raise click.UsageError(
            f"document {documents[answered.index(False)].id!r} has no right, wrong, and others have: give all or none"
        )
    return documents, pairs


def _show_heads(found: Any, top: int) -> None:
    several = found.sizes["document"] > 1
    told(found, "another text in the place of each; predictions compared at and behind the first difference")
    measures_table(found, MEASURES)
    console().print("")
    mean = found.variation_mean
    order = np.argsort(-mean.values.ravel(), kind="stable")[:top]
    interval = [f"{found.attrs['confidence']:.0%} interval"] if several else []
    rows = table("layer", "head", "weight that moved", *interval, right={"layer", "head", "weight that moved"})
    for place in zip(*np.unravel_index(order, mean.shape), strict=True):
        where = dict(zip(("layer", "head"), place, strict=True))
        share, span = interval_of(found, "variation", where, digits=3)
        rows.add_row(*(str(found[dim].values[at]) for dim, at in where.items()), share, *([span] if several else []))
    console().print(rows)
    if mean.size > top:
        console().print(f"{len(order)} of {mean.size} heads, the largest: --json gives all", style="dim")


def _show_tokens(found: Any, top: int) -> None:
    attrs, several = found.attrs, found.attrs["documents"] > 1
    draws = f", {attrs['draws']} draws" if attrs["by"] == "random" else ""
    what = {"delete": "left out", "mask": "masked", "random": "replaced", "token": "replaced"}[attrs["by"]]
    count = f"{attrs['documents']} documents" if several else str(found.document.values[0])
    console().print(styled("[bold]{}[/]  {}", str(attrs["model"]), count))
    console().print(styled("[dim]{}[/]\n", f"one token {what} at a time{draws}: how far the last prediction moves"))
    document = ["document"] if several else []
    right = {"position", "KL, nats", "flips", "weight that moved"}
    rows = table(*document, "position", "token", "KL, nats", "flips", "weight that moved", right=right)
    for rank in range(min(top, found.sizes["rank"])):
        one = found.isel(rank=rank)
        rows.add_row(
            *([str(one.document.item())] if several else []), str(one.position.item()), repr(str(one.token.item())),
            f"{one.kl_last.item():.4f}", f"{one.flips.item():.0%}", f"{one.variation.item():.3f}",
        )  # fmt: skip
    console().print(rows)
    if found.sizes["rank"] > top:
        console().print(f"{top} of {found.sizes['rank']:,} tokens: --json gives all", style="dim")
