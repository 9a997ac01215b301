"""attlas explain: which tokens explanations of a prediction name, and whether these are the ones that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.experiment import experiment_options, experiment_progress, interval_of, read_documents, told, write
from attlas.cli.output import console, reports_errors, table
from attlas.cli.selection import COUNT, NUMBERS, WORD
from attlas.readable import token_label

__all__ = ["command"]

BY = ("delete", "mask", "token")


@click.command("explain")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--text", help="One text instead of INPUTS.")
@click.option("--by", type=click.Choice(BY), default="delete", show_default=True, help="How tokens are taken out.")
@click.option("--token", type=WORD, help="What --by token puts in, such as ' the'.")
@click.option("--shares", type=NUMBERS, help="Of the tokens to take out. [default: 0.01,0.05,0.1,0.2,0.5]")
@click.option("--draws", type=COUNT, default=5, show_default=True, help="Random orders that are set beside.")
@click.option("--top", type=COUNT, default=8, show_default=True, help="Tokens of one text that are printed.")
@experiment_options
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    text: str | None,
    top: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain what MODEL predicts behind the last token, and test the explanations.

    Attention of the last token, rollout, weight times gradient, weight times value and Chefer's relevance rank the
    tokens; those ranked first are taken out, or left alone, and the model is asked again (DeYoung et al. 2020). Random
    orders stand beside.

    \b
    Example:
      attlas explain HuggingFaceTB/SmolLM2-135M --text 'The capital of France is the city of'
      attlas explain demo notes.txt --shares 0.05,0.2 --figure faithful.png
    """
    from attlas import experiments

    if bool(inputs) == (text is not None):
        raise click.UsageError("INPUTS and --text exclude each other" if inputs else "give INPUTS, or --text")
    documents = [text] if text is not None else read_documents(inputs)
    with experiment_progress("explanations", options, shown=not as_json) as given:
        found = experiments.faithfulness(model, documents, **given)
    write(found, figure, as_json=as_json, show=lambda one: _show(one, top))


def _show(found: Any, top: int) -> None:
    several = found.sizes["document"] > 1
    told(found, "the likeliest token behind the last: what explanations rank first, and what happens without it")
    if "score" in found:
        _show_tokens(found, top)
    interval = [f"{found.attrs['confidence']:.0%} interval"] if several else []
    right = {"comprehensiveness", "sufficiency"}
    rows = table("explanation", "comprehensiveness", *interval, "sufficiency", right=right)
    for place, name in enumerate(found.explanation.values):
        where = {"explanation": place}
        mean, span = interval_of(found, "comprehensiveness", where, digits=3)
        rows.add_row(
            str(name).replace("_", " "), mean, *([span] if several else []),
            interval_of(found, "sufficiency", where, digits=3)[0],
        )  # fmt: skip
    console().print(rows)
    console().print("how far the probability falls without the first tokens (much is good), and with these alone "
                    "(little is good)", style="dim")  # fmt: skip
    console().print("")
    console().print(str(found.attrs["says"]))


def _show_tokens(found: Any, top: int) -> None:
    """The tokens that explanations rank first, on average, and the rank in each."""
    score = found.score.values
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1) + 1
    names = [str(name).replace("_", " ") for name in found.method.values]
    rows = table("place", "token", *names, right={"place", *names})
    for place in np.argsort(rank.mean(axis=0), kind="stable")[:top]:
        rows.add_row(
            str(place), token_label(str(found.token.values[place]), 20), *(str(one) for one in rank[:, place])
        )  # fmt: skip
    console().print(rows)
    console().print(f"ranks among {score.shape[1]:,} tokens", style="dim")
    console().print("")
