"""attlas relevance: how much each token counts for what the model said, of an atlas with gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import INDICES, LAYERS, TABLE, storage_option
from attlas.readable import index_runs, token_label

__all__ = ["command"]

METHODS = ("attention_x_gradient", "value_norm", "chefer")


@click.command("relevance")
@click.argument("store")
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--kind", type=click.Choice(["self", "encoder", "decoder", "cross"]), help="[default: the first]")
@click.option("--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True)
@click.option("--query", "queries", type=INDICES, help="Of chefer: rows that predictions are read from. [default: -1]")
@click.option("--layers", type=LAYERS, help="Layers, such as 0,4:8,-1. [default: all]")
@click.option("--top", type=click.IntRange(1), default=12, show_default=True, help="Tokens that are printed.")
@click.option("-o", "--output", type=TABLE, help="Write a line for each number: .csv, .json or .parquet.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--save/--no-save", default=True, show_default=True, help="Keep the answer in the atlas.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    document: str | None,
    top: int,
    output: Path | None,
    as_json: bool,
    storage_options: dict[str, str] | None,
    **choices: Any,
) -> None:
    """Show which tokens count for the target of an atlas that was captured with --gradients.

    attention_x_gradient: weight times gradient, summed over queries, layers and heads. value_norm: weight times the
    length of the value (Kobayashi et al. 2020). chefer: positive contributions through all layers (Chefer et al. 2021).

    \b
    Example:
      attlas capture demo notes.txt --store graded.zarr --gradients next_token
      attlas relevance graded.zarr --method chefer
    """
    import attlas
    from attlas import analysis

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    found = analysis.relevance(atlas, document, **choices)
    if output is not None:
        analysis.write_table(found, output, tuple(map(str, found.relevance.dims)))
    own = tuple(dim for dim in found.relevance.dims if dim != "key")
    total = found.relevance.mean(own) if "query" in own else found.relevance.sum(own)
    if as_json:
        print_json(_json(found, total))
        return
    attrs, out = found.attrs, console()
    out.print(styled("[bold]{}[/]  {}, {} attention", store, attrs["document_id"], attrs["kind"]))
    out.print(styled("[dim]{}[/]", f"{attrs['method'].replace('_', ' ')} of {attrs['target']}"))
    out.print(styled("[dim]{}[/]\n", f"layers {index_runs(list(attrs['layers']))}; {attrs['shows']}"))
    rows = table("place", "token", "relevance", right={"place", "relevance"})
    order = np.argsort(-np.abs(total.values), kind="stable")[:top]
    for place in order:
        token = token_label(str(found["key_token"].values[place]), 24)
        rows.add_row(str(found["key"].values[place]), token, f"{total.values[place]:+.4f}")
    out.print(rows)
    if len(order) < found.sizes["key"]:
        out.print(f"{len(order)} of {found.sizes['key']:,} tokens, the largest: --json gives all", style="dim")


def _json(found: Any, total: Any) -> dict[str, Any]:
    told = ("document_id", "kind", "method", "layers", "target", "source", "shows")
    plain = {name: found.attrs[name] for name in told}
    plain["layers"] = [int(layer) for layer in found.attrs["layers"]]
    tokens = zip(found["key"].values.tolist(), map(str, found["key_token"].values), total.values.tolist(), strict=True)
    heads = {"head_importance": found.head_importance.values.tolist()} if "head_importance" in found else {}
    return plain | {"tokens": [{"place": at, "token": t, "relevance": value} for at, t, value in tokens]} | heads
