"""attlas query: weights of one head of one document."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.heatmap import print_tile
from attlas.cli.output import console, print_json, reports_errors
from attlas.cli.selection import INDICES, OUTPUT, storage_option

__all__ = ["command"]


@click.command("query")
@click.argument("store")
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--layer", type=int, required=True, help="The model's layer index; -1 is the last.")
@click.option("--head", type=int, required=True, help="The model's head index; -1 is the last.")
@click.option("--query", "queries", type=INDICES, default="last:12", show_default=True, help="7, 10:20, :50, last:16")
@click.option("--key", "keys", type=INDICES, default=":", help="As --query. [default: all]")
@click.option("--kind", type=click.Choice(["self", "encoder", "decoder", "cross"]), help="[default: the first]")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "npy"]), default="table", show_default=True
)
@click.option("-o", "--output", type=OUTPUT, help="File to write instead of stdout.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(store: str, form: str, output: Path | None, storage_options: dict[str, str] | None, **choice: Any) -> None:
    """Print the exact weights of one head: queries down, keys across.

    \b
    Example:
      attlas query book.zarr --document book --layer 3 --head 5 --query 10:20 --key :50
      attlas query book.zarr --layer -1 --head 0 --query 100 --format csv > row.csv
    """
    import attlas
    from attlas.storage.tile import choose_tile, tile_csv, tile_json

    if form == "table" and output is not None:
        raise click.UsageError("--output goes with --format csv, json or npy")
    tile = choose_tile(attlas.open_atlas(store, storage_options=storage_options), **choice)
    if form == "table":
        print_tile(console(), tile)
    elif form == "npy":
        _write_npy(tile.values, output)
    elif output is not None:
        text = tile_csv(tile) if form == "csv" else json.dumps(tile_json(tile), ensure_ascii=False)
        output.write_text(text, encoding="utf-8")
    elif form == "csv":
        click.echo(tile_csv(tile), nl=False)
    else:
        print_json(tile_json(tile))


def _write_npy(values: Any, output: Path | None) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    if output is not None:
        output.write_bytes(buffer.getvalue())
    elif sys.stdout.isatty():
        raise click.UsageError("--format npy is binary: give --output FILE, or redirect it")
    else:
        sys.stdout.buffer.write(buffer.getvalue())
