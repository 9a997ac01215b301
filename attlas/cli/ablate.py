"""attlas ablate: what the model loses without a head, without some edges, or under any edit."""

from __future__ import annotations

import json
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
    measures_table,
    read_documents,
    told,
    write,
)
from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import COUNT

__all__ = ["command"]

OF_HEADS = ("do", "method", "sample")
MEASURES = ("loss_unedited", "loss", "loss_change", "kl", "total_variation", "agreement")


@click.command("ablate")
@experiment_arguments
@click.option("--edit", "edits", multiple=True, metavar="JSON", help='One edit, such as {"do": "zero", "layer": 3}.')
@click.option("--explain", is_flag=True, help="Print how the edits would be made, and stop.")
@click.option("--from-keys", metavar="PLACES", help="Cut edges: no longer to these keys, such as first, 0:3.")
@click.option("--to-queries", metavar="PLACES", help="Cut edges: of these queries, such as last:1. [default: all]")
@click.option("--window", type=COUNT, default=1, show_default=True, help="Neighbouring layers cut at a time.")
@head_options
@click.option("--do", type=click.Choice(["zero", "uniform", "mean"]), default="zero", show_default=True)
@click.option("--method", type=click.Choice(["exact", "first_order"]), default="exact", show_default=True)
@click.option("--sample", type=click.IntRange(0), default=20, show_default=True,
              help="Heads whose exact change is set beside first_order.")  # fmt: skip
@click.option("--top", type=COUNT, default=12, show_default=True, help="Heads that are printed.")
@experiment_options
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    edits: tuple[str, ...],
    explain: bool,
    from_keys: str | None,
    to_queries: str | None,
    window: int,
    top: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL over INPUTS with some of its attention taken away.

    Without further options: the loss without each head (Michel et al. 2019). With --edit: any edits, made in their
    order. With --from-keys and --to-queries: these edges cut, layer by layer (Geva et al. 2023).

    INPUTS are files as of attlas capture, or one atlas, whose documents are taken.

    \b
    Example:
      attlas ablate demo notes.txt --figure heads.png
      attlas ablate demo notes.txt --edit '{"do": "zero", "layer": 1}'
      attlas ablate demo notes.txt --from-keys 0:4 --to-queries last:1
    """
    from attlas import experiments

    if edits and (from_keys or to_queries):
        raise click.UsageError("--edit and --from-keys or --to-queries exclude each other")
    asked = experiments.parse_edits([_object(one) for one in edits])
    if explain:
        _explain(experiments.explain_edits(model, asked), as_json=as_json)
        return
    documents = read_documents(inputs)
    rest = {name: value for name, value in options.items() if name not in OF_HEADS}
    if edits:
        if options["layers"] is not None or options["heads"] is not None:
            raise click.UsageError("an edit says of which layers and heads it is: leave --layers and --heads out")
        rest = {name: value for name, value in rest.items() if name not in ("layers", "heads")}
        with experiment_progress("edits", rest, shown=not as_json) as given:
            found = experiments.run(model, documents, asked, **given)
        write(found, figure, as_json=as_json, show=_show_run)
        return
    if from_keys or to_queries:
        with experiment_progress("edges", rest, shown=not as_json) as given:
            found = experiments.ablate_edges(
                model, documents, _places(to_queries), _places(from_keys), window=window, **given
            )
        write(found, figure, as_json=as_json, show=_show_edges)
        return
    with experiment_progress("heads", options, shown=not as_json) as given:
        found = experiments.ablate_heads(model, documents, **given)
    write(found, figure, as_json=as_json, show=lambda one: _show_heads(one, top))


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        hint = 'write {"do": "zero", "layer": 3, "head": 5}, in single quotes'
        raise click.BadParameter(f"{text!r} is no JSON: {hint}", param_hint="--edit") from error


def _places(text: str | None) -> Any:
    return _object(text) if text is not None and text.lstrip().startswith("{") else text


def _explain(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    out = table("kind", "layer", "heads", "way", "", right={"layer"})
    for row in rows:
        heads = ",".join(map(str, row["heads"]))
        out.add_row(row["kind"], str(row["layer"]), heads, row["way"], row["why"])
    console().print(out)


def _show_run(found: Any) -> None:
    told(found, "; then ".join(found.attrs["edits"]))
    measures_table(found, MEASURES)


def _show_edges(found: Any) -> None:
    window = found.attrs["window"]
    at_once = "layer by layer" if window == 1 else f"in {window} neighbouring layers at a time"
    told(found, f"edges of queries {found.attrs['queries']} to keys {found.attrs['keys']} cut, {at_once}")
    names = ("kl", "kl_last", "loss_change")
    columns = ("layer", "KL, nats", "behind the last token", "loss change, nats")
    rows = table(*columns, right=set(columns))
    for place, layer in enumerate(found["layer"].values):
        rows.add_row(str(layer), *(interval_of(found, name, {"layer": place})[0] for name in names))
    together = [found[f"{name}_together_mean"].item() for name in names]
    rows.add_row("all", *(f"{one:.4f}" for one in together[:2]), f"{together[2]:+.4f}")
    console().print(rows)


def _show_heads(found: Any, top: int) -> None:
    attrs, several = found.attrs, found.sizes["document"] > 1
    how = "to first order" if attrs["method"] == "first_order" else "exact"
    told(found, f"change of the loss, nats, where one head is ablated ({attrs['do']}), {how}")
    console().print(f"loss as it is: {found.loss_unedited_mean.item():.4f} nats")
    console().print("")
    change = found.loss_change_mean.values
    order = np.argsort(-np.abs(change).ravel(), kind="stable")[:top]
    interval = [f"{attrs['confidence']:.0%} interval"] if several else []
    rows = table("layer", "head", "change", *interval, right={"layer", "head", "change"})
    for layer, head in zip(*np.unravel_index(order, change.shape), strict=True):
        mean, span = interval_of(found, "loss_change", {"layer": layer, "head": head})
        rows.add_row(
            str(found["layer"].values[layer]), str(found["head"].values[head]), mean, *([span] if several else [])
        )  # fmt: skip
    console().print(rows)
    if change.size > top:
        console().print(f"{len(order)} of {change.size} heads, the largest changes: --json gives all", style="dim")
    if "pearson" in attrs:
        told_ = f"{attrs['pearson']:.2f} (Pearson), {attrs['spearman']:.2f} (rank)"
        heads = found.sizes["sampled"]
        console().print(styled("[dim]correlation with the exact change of {} heads: {}[/]", heads, told_))
