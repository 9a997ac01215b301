"""attlas embed: heads as points, with how far the picture can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.jobs import KINDS, job_progress
from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import COUNT, FIGURE, LAYERS, SAMPLE, SEED, TABLE, storage_option
from attlas.readable import index_runs

__all__ = ["command"]


@click.command("embed")
@click.argument("store")
@click.option("--by", type=click.Choice(["distance", "statistics"]), default="distance", show_default=True,
              help="Heads are near where their rows are alike, or their statistics.")  # fmt: skip
@click.option("--method", type=click.Choice(["pca", "mds", "tsne", "umap"]), default="pca", show_default=True)
@click.option("--kind", type=click.Choice(KINDS), help="[default: the first]")
@click.option("--document", "documents", multiple=True, help="One document, or again, more. [default: all]")
@click.option("--layers", type=LAYERS, help="Layers, such as 0,4:8,-1. [default: all]")
@click.option("--sample", type=SAMPLE, help="Query rows to look at: 2000, or 5%. [default: all, exactly]")
@click.option("--pair-rows", type=COUNT, help="Query rows on which pairs of heads are compared.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of rows, of the method, of permutations.")
@click.option("--figure", type=FIGURE, help="Draw the points: .png, .pdf or .svg.")
@click.option("-o", "--output", type=TABLE, help="Write a line for each head: .csv, .json or .parquet.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    by: str,
    method: str,
    seed: int,
    figure: Path | None,
    output: Path | None,
    as_json: bool,
    storage_options: dict[str, str] | None,
    documents: tuple[str, ...],
    **given: Any,
) -> None:
    """Lay heads out on a plane, so that those that attend alike lie near one another.

    \b
    Example:
      attlas embed book.zarr --figure heads.png
      attlas embed book.zarr --method tsne --by statistics
    """
    import attlas
    from attlas import analysis, plots

    choices = {name: value for name, value in given.items() if value is not None}
    atlas = attlas.open_atlas(store, storage_options=storage_options)
    with job_progress("embed", shown=not as_json) as report:
        found = analysis.embed_heads(
            atlas, method=method, by=by, seed=seed, documents=documents or None, progress=report, **choices
        )
    if figure is not None:
        plots.save(plots.embedding(found), figure)
    points = found.reset_coords(["member_layer", "member_head"])
    points = points[["member_layer", "member_head", "position", "cluster", "role"]]
    if output is not None:
        analysis.write_table(points, output, ("member",))
    if as_json:
        print_json(_json(found))
        return
    out, told = console(), found.attrs
    out.print(styled("[bold]{}[/]  {} heads by {}, {}", store, found.sizes["member"], by, method))
    trusted = f"trustworthiness {told['trustworthiness']:.2f} of {told['neighbours']} neighbours"
    if np.isfinite(told["role_p"]):
        trusted += f"; heads of one role lie {told['role_ratio']:.2f} as far apart as any two (p {told['role_p']:.2g})"
    out.print(styled("[dim]{}[/]\n", trusted))
    rows = table("cluster", "heads", "leading role", "of them", "by layer.head", right={"cluster", "heads", "of them"})
    for number, role in zip(found["cluster_number"].values, found.cluster_role.values, strict=True):
        some = found.cluster.values == number
        alike = int((found.role.values[some] == role).sum())
        rows.add_row(
            str(number), str(int(some.sum())), str(role).replace("_", " ") or "none", str(alike), _named(found, some)
        )
    out.print(rows)


def _named(found: Any, some: Any) -> str:
    """`3.0-2, 4.1`: heads of each layer as runs."""
    layers, heads = found.member_layer.values[some], found.member_head.values[some]
    return ", ".join(f"{layer}.{index_runs(heads[layers == layer].tolist())}" for layer in np.unique(layers))


def _json(found: Any) -> dict[str, Any]:
    heads = zip(found.member_layer.values, found.member_head.values, found.position.values, strict=True)
    told = ("model", "method", "by", "seed", "trustworthiness", "neighbours", "role_ratio", "role_p")
    return {
        **{name: None if found.attrs[name] != found.attrs[name] else found.attrs[name] for name in told},
        "heads": [
            {"layer": int(layer), "head": int(head), "position": place.tolist(),
             "cluster": int(found.cluster.values[i]), "role": str(found.role.values[i])}
            for i, (layer, head, place) in enumerate(heads)
        ],
    }  # fmt: skip
