"""attlas query: weights of one head of one document."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.capture import storage_option
from attlas.cli.heatmap import print_tile
from attlas.cli.output import console, print_json, reports_errors
from attlas.cli.selection import INDICES
from attlas.errors import InputError

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
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write instead of stdout."
)
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    document: str | None,
    layer: int,
    head: int,
    queries: slice,
    keys: slice,
    kind: str | None,
    form: str,
    output: Path | None,
    storage_options: dict[str, str] | None,
) -> None:
    """Print the exact weights of one head: queries down, keys across.

    \b
    Example:
      attlas query book.zarr --document book --layer 3 --head 5 --query 10:20 --key :50
      attlas query book.zarr --layer -1 --head 0 --query 100 --format csv > row.csv
    """
    tile = choose_tile(store, document, layer, head, queries, keys, kind, storage_options)
    if form == "table":
        if output is not None:
            raise click.UsageError("--output goes with --format csv, json or npy")
        out = console()
        where = (
            f"{tile.attrs['document_id']}, {tile.attrs['kind']} layer {tile.attrs['layer']}, head {tile.attrs['head']}"
        )
        out.print(f"[dim]{where}: weight of each key (across) for each query (down)[/]")
        print_tile(out, tile)
    elif form == "npy":
        _write_npy(tile.values, output)
    else:
        text = _csv(tile) if form == "csv" else None
        if output is not None:
            output.write_text(text if text is not None else _json_text(tile), encoding="utf-8")
        elif text is not None:
            click.echo(text, nl=False)
        else:
            print_json(_json(tile))


def choose_tile(
    store: str,
    document: str | None,
    layer: int,
    head: int,
    queries: slice,
    keys: slice,
    kind: str | None,
    storage_options: dict[str, str] | None = None,
) -> Any:
    """The chosen tile as a loaded DataArray (query, key); raises InputError where something chosen does not exist."""
    import attlas

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    kind = kind or atlas.kinds[0]
    if kind not in atlas.kinds:
        raise InputError(f"{store} has no {kind} attention: it has {', '.join(atlas.kinds)}")
    if document is None:
        if len(atlas) != 1:
            raise InputError(f"{store} holds {len(atlas)} documents: name one with --document ({_some(atlas)})")
        document = next(iter(atlas))
    page = atlas[document]
    prefix = "" if kind == "self" else f"{kind}_"
    attention = page[f"{prefix}attention"]
    layer, head = _existing(attention, f"{prefix}layer", layer), _existing(attention, f"{prefix}head", head)
    tile = attention.sel({f"{prefix}layer": layer, f"{prefix}head": head})
    tile = tile.isel({f"{prefix}query": queries, f"{prefix}key": keys})
    if 0 in tile.shape:
        raise InputError(
            f"nothing is chosen: the document has {attention.shape[2]} queries and {attention.shape[3]} keys, from 0"
        )
    return tile.load().assign_attrs(document_id=document, kind=kind, layer=layer, head=head)


def _existing(attention: Any, dim: str, index: int) -> int:
    """The label of a layer or head; a negative one counts from the end of those captured."""
    have = [int(label) for label in attention[dim].values]
    if index in have:
        return index
    if -len(have) <= index < 0:
        return have[index]
    raise InputError(f"there is no {dim.replace('_', ' ')} {index}: the atlas has {_runs(have)}")


def _runs(have: list[int]) -> str:
    return f"{have[0]} to {have[-1]}" if have == list(range(have[0], have[-1] + 1)) else ", ".join(map(str, have))


def _some(atlas: Any) -> str:
    ids = list(atlas)
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")


def _labels(tile: Any) -> tuple[Any, Any, Any, Any]:
    query, key = tile.dims
    return tile[query].values, tile[f"{query}_token"].values, tile[key].values, tile[f"{key}_token"].values


def _csv(tile: Any) -> str:
    queries, query_tokens, keys, key_tokens = _labels(tile)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "query_token", "key", "key_token", "weight"])
    for i, row in enumerate(tile.values):
        for j, weight in enumerate(row):
            writer.writerow([queries[i], query_tokens[i], keys[j], key_tokens[j], repr(float(weight))])
    return text.getvalue()


def _json(tile: Any) -> dict[str, Any]:
    queries, query_tokens, keys, key_tokens = _labels(tile)
    return {
        "document": tile.attrs["document_id"],
        "kind": tile.attrs["kind"],
        "layer": tile.attrs["layer"],
        "head": tile.attrs["head"],
        "query": [int(i) for i in queries],
        "query_token": [str(t) for t in query_tokens],
        "key": [int(i) for i in keys],
        "key_token": [str(t) for t in key_tokens],
        "weight": [[float(w) for w in row] for row in tile.values],
    }


def _json_text(tile: Any) -> str:
    import json

    return json.dumps(_json(tile), ensure_ascii=False)


def _write_npy(values: Any, output: Path | None) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    if output is not None:
        output.write_bytes(buffer.getvalue())
    elif sys.stdout.isatty():
        raise click.UsageError("--format npy is binary: give --output FILE, or redirect it")
    else:
        sys.stdout.buffer.write(buffer.getvalue())
