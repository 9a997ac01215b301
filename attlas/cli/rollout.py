"""attlas rollout: from which tokens the last state of a query comes, through all layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attlas.cli.heatmap import print_row
from attlas.cli.output import console, print_json, reports_errors
from attlas.cli.selection import INDICES, LAYERS, TABLE, storage_option
from attlas.engine.passage.selection import Selection
from attlas.readable import index_runs, token_label

__all__ = ["command"]

OTHERS = {"query": "queries", "key": "keys"}
PRINTED = 8
"""Rows that are printed at most."""


@click.command("rollout")
@click.argument("store")
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--kind", type=click.Choice(["self", "encoder", "decoder", "cross"]), help="[default: the first]")
@click.option(
    "--query", "queries", type=INDICES, help="7, 10:20, last:16, : for all. [default: the last, or all of --key]"
)
@click.option("--key", "keys", type=INDICES, help="As --query. [default: all]")
@click.option("--layers", type=LAYERS, help="A run of layers, such as 4:8. [default: all]")
@click.option("--residual", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Share of the residual.")
@click.option("--discard", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
              help="Share of each row's weights to drop, the smallest.")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Drop weights below it.")
@click.option("--top", type=click.IntRange(1), default=8, show_default=True, help="So many tokens of each row.")
@click.option(
    "-o", "--output", type=TABLE,
    help="Write a line for each query and key: .csv, .json or .parquet.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--save/--no-save", default=True, show_default=True, help="Keep the answer in the atlas.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    document: str | None,
    queries: Selection | None,
    keys: Selection | None,
    top: int,
    output: Path | None,
    as_json: bool,
    storage_options: dict[str, str] | None,
    **choices: Any,
) -> None:
    """Show from which tokens a query's last state comes: attention rollout (Abnar and Zuidema 2020).

    \b
    Example:
      attlas rollout book.zarr
      attlas rollout book.zarr --query 120 --layers 0:12 --discard 0.9
      attlas rollout book.zarr --key 5 -o from-token-5.csv
    """
    import attlas
    from attlas import analysis

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    given = -1 if queries is None and keys is None else queries
    found = analysis.rollout(atlas, document, queries=given, keys=keys, **choices)
    if output is not None:
        analysis.write_table(found, output, ("query", "key"))
    if as_json:
        print_json(_json(found))
        return
    out, told = console(), found.attrs
    layers = f"layers {index_runs(list(told['layers']))}"
    dropped = f", smallest {told['discard']:.0%} dropped" if told["discard"] else ""
    dropped += f", weights below {told['threshold']:g} dropped" if told["threshold"] else ""
    out.print(f"{store}  {told['document_id']}, {told['kind']} attention, {layers}", markup=False)
    out.print(f"rollout with a residual of {told['residual']:g}{dropped}: share of each token", style="dim")
    out.print()
    by_key = queries is None and keys is not None
    rows = found.rollout.transpose("key", "query") if by_key else found.rollout
    own, other = map(str, rows.dims)
    for row in rows[:PRINTED]:
        label = token_label(str(row[f"{own}_token"].item()), 24)
        out.print(f"{own} {row[own].item()}  {label}", markup=False)
        names = {"query": "key", "query_token": "key_token"} if by_key else {}
        print_row(
            out,
            row.drop_vars([own, f"{own}_token", f"{own}_token_id"], errors="ignore").rename(names),
            most=top,
            others=OTHERS[other],
        )
    if len(rows) > PRINTED:
        more = "--query and --key choose, -o and --json give all"
        out.print(f"{PRINTED} of {len(rows)} {OTHERS[own]}: {more}", style="dim")


def _json(found: Any) -> dict[str, Any]:
    told = ("document_id", "kind", "layers", "residual", "discard", "threshold", "source")
    return {
        **{name: _plain(found.attrs[name]) for name in told},
        **{dim: found[dim].values.tolist() for dim in ("query", "key")},
        **{f"{dim}_token": [str(one) for one in found[f"{dim}_token"].values] for dim in ("query", "key")},
        "rollout": found.rollout.values.tolist(),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
