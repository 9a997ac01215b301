"""attlas received: which tokens, words or sentences of a document are attended to most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table
from rich.text import Text

from attlas.cli.output import console, print_json, reports_errors
from attlas.cli.selection import LAYERS, TABLE, storage_option
from attlas.engine.passage.selection import Selection
from attlas.readable import index_runs, token_label

__all__ = ["command"]


@click.command("received")
@click.argument("store")
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--kind", type=click.Choice(["self", "encoder", "decoder", "cross"]), help="[default: the first]")
@click.option("--layers", type=LAYERS, help="Layers, such as 0,4:8,-1. [default: all]")
@click.option("--by", type=click.Choice(["token", "word", "sentence"]), default="token", show_default=True)
@click.option("--top", type=click.IntRange(1), default=12, show_default=True, help="So many that receive most.")
@click.option(
    "-o", "--output", type=TABLE,
    help="Write a row for each layer, head and token: .csv, .json or .parquet.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the mean over layers and heads of all as JSON.")
@click.option("--save/--no-save", default=True, show_default=True, help="Keep the answer in the atlas.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    document: str | None,
    kind: str | None,
    layers: Selection | None,
    by: str,
    top: int,
    output: Path | None,
    as_json: bool,
    save: bool,
    storage_options: dict[str, str] | None,
) -> None:
    """Show which tokens receive the most attention: the mean weight of the queries that may see them.

    \b
    Example:
      attlas received book.zarr
      attlas received book.zarr --layers 4:8 --by sentence --top 5
    """
    import attlas
    from attlas import analysis

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    found = analysis.received(atlas, document, layers=layers, by=by, kind=kind, save=save)
    dim = str(found.received.dims[-1])
    if output is not None:
        analysis.write_table(found, output, ("layer", "head", dim))
    flat = found.received.values.reshape(-1, found.sizes[dim]).astype(np.float64)
    mean, texts = flat.mean(axis=0), found["key_token" if by == "token" else "text"].values
    places = found["key" if by == "token" else "first_token"].values
    order = np.argsort(-np.nan_to_num(mean, nan=-1), kind="stable")
    if as_json:
        print_json(_json(found, by, mean, places, texts))
        return
    out = console()
    layers_told = f"layers {index_runs(found['layer'].values.tolist())}, {found.sizes['head']} heads"
    out.print(f"{store}  {found.attrs['document_id']}, {found.attrs['kind']} attention, {layers_told}", markup=False)
    out.print("mean weight of the queries that may see any of it", style="dim")
    out.print()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("place", justify="right")
    table.add_column(by, no_wrap=True)
    table.add_column("mean", justify="right")
    table.add_column("most", justify="right")
    table.add_column("in layer, head", justify="right")
    heads, width = found.sizes["head"], max(12, out.width - 44)
    for i in order[:top]:
        if np.isnan(mean[i]):
            continue
        most = int(flat[:, i].argmax())
        where = f"{found['layer'].values[most // heads]}, {found['head'].values[most % heads]}"
        table.add_row(
            str(places[i]), Text(token_label(str(texts[i]), width)), f"{mean[i]:.4f}", f"{flat[most, i]:.3f}", where
        )
    out.print(table)


def _json(found: Any, by: str, mean: Any, places: Any, texts: Any) -> dict[str, Any]:
    """Means over layers and heads, in the order of the text; null where no query may see it."""
    return {
        "document": found.attrs["document_id"], "kind": found.attrs["kind"], "by": by,
        "layers": found["layer"].values.tolist(), "definition": found.received.attrs["definition"],
        "received": [
            {"place": int(place), "text": str(text), "mean": None if np.isnan(value) else float(value)}
            for place, text, value in zip(places, texts, mean, strict=True)
        ],
    }  # fmt: skip
