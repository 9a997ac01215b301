"""attlas graph: one head's attention as a graph of tokens, who is central in it, and files for graph programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.jobs import KINDS
from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import COUNT, FIGURE, OUTPUT, SEED, storage_option
from attlas.readable import token_label

__all__ = ["command"]

SHOWN = {
    "received": "received", "in_degree": "in", "betweenness": "between", "eigenvector": "eigen", "pagerank": "pagerank",
    "community": "community",
}  # fmt: skip
"""Measure -> column."""


@click.command("graph")
@click.argument("store")
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--kind", type=click.Choice(KINDS), help="[default: the first]")
@click.option("--layer", type=int, required=True, help="The model's layer index; -1 is the last.")
@click.option("--head", type=int, help="The model's head index; -1 is the last. [default: mean over heads]")
@click.option("--top", type=COUNT, help="Edges: so many keys of each query. [default: 3]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Edges: weights of at least so much.")
@click.option("--mass", type=click.FloatRange(0, 1), help="Edges: the fewest keys that hold so much of a query.")
@click.option("--tokens", type=COUNT, default=12, show_default=True, help="Tokens to print, the most received first.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the communities.")
@click.option("-o", "--output", type=OUTPUT, help="Write the graph: .graphml or .gexf, for Gephi, Cytoscape, igraph.")
@click.option("--figure", type=FIGURE, help="Draw it: .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print tokens, edges and centralities as JSON.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    head: int | None,
    tokens: int,
    seed: int,
    output: Path | None,
    figure: Path | None,
    as_json: bool,
    storage_options: dict[str, str] | None,
    top: int | None,
    threshold: float | None,
    mass: float | None,
    **choice: Any,
) -> None:
    """Make a graph of one head's attention: tokens are nodes, the weights that the edge rule keeps are edges.

    \b
    Example:
      attlas graph book.zarr --layer 3 --head 5 --top 1
      attlas graph book.zarr --layer 3 --mass 0.9 -o layer3.graphml --figure layer3.png
    """
    import attlas
    from attlas import analysis, plots

    top = 3 if top is threshold is mass is None else top
    atlas = attlas.open_atlas(store, storage_options=storage_options)
    made = analysis.graph(
        atlas, head="mean" if head is None else head, top=top, threshold=threshold, mass=mass, **choice
    )
    found = analysis.centrality(made, seed=seed)
    if output is not None:
        analysis.write_graph(made, output)
    if figure is not None:
        plots.save(plots.graph_drawing(made), figure)
    if as_json:
        print_json(_json(made, found))
        return
    out, told = console(), made.graph
    of = "mean over heads" if told["head"] == "mean" else f"head {told['head']}"
    out.print(styled("[bold]{}[/]  {}, layer {}, {}", store, told["document"], told["layer"], of))
    counted = f"{made.number_of_nodes():,} tokens, {made.number_of_edges():,} edges ({told['edges']})"
    out.print(styled("[dim]{}[/]\n", counted))
    names = [name for name in SHOWN if name in found]
    columns = [SHOWN[name] for name in names]
    rows = table("place", "token", *columns, right={"place", *columns})
    for i in np.argsort(-found.received.values, kind="stable")[:tokens]:
        label = token_label(str(found["text"].values[i]), 14)
        rows.add_row(str(found["token"].values[i]), label, *(_number(found[name].values[i]) for name in names))
    out.print(rows)
    if "left_out" in found.attrs:
        out.print(styled("[dim]{}[/]", found.attrs["left_out"]))


def _number(value: Any) -> str:
    return f"{value:,}" if np.issubdtype(type(value), np.integer) else f"{value:,.3g}"


def _json(made: Any, found: Any) -> dict[str, Any]:
    nodes = {node: i for i, node in enumerate(made)}
    return {
        **made.graph,
        "tokens": [
            {"node": node, **facts, **{str(name): found[name].values[i].item() for name in found}}
            for i, (node, facts) in enumerate(made.nodes(data=True))
        ],
        "edges": [[nodes[a], nodes[b], weight] for a, b, weight in made.edges(data="weight")],
    }
