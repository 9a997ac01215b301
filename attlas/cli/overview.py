"""attlas overview: store the coarse levels of documents' maps, from which the page zooms."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from attlas.cli.jobs import job_progress
from attlas.cli.output import console, print_json, reports_errors, styled
from attlas.cli.selection import storage_option
from attlas.readable import human_bytes, human_count, human_seconds

__all__ = ["SIDE", "command", "make_overviews"]

SIDE = 1024


@click.command("overview")
@click.argument("store")
@click.option(
    "--document",
    "documents",
    multiple=True,
    help="A document's id; may be repeated. [default: all of 4,096 tokens or more]",
)
@click.option(
    "--side", type=click.IntRange(256, 4096), default=SIDE, show_default=True,
    help="Store levels of at most so many blocks along a side.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str, documents: tuple[str, ...], side: int, as_json: bool, storage_options: dict[str, str] | None
) -> None:
    """Store coarse levels of the maps in STORE: largest weight and mass of blocks, of every head, in one pass.

    From these the page and the server answer at once where they would compute for seconds: worth it from about 16,000
    tokens on. Which heads have a role is kept too, of a sample of rows. What is there already stays, and what was
    stopped is gone on with, a layer at a time.

    \b
    Example:
      attlas overview book.zarr
      attlas overview books.zarr --document moby --document ulysses
    """
    told = make_overviews(store, documents or None, side=side, storage_options=storage_options, bar=not as_json)
    if as_json:
        print_json(told)
    else:
        _show(told)


def make_overviews(
    store: str,
    documents: tuple[str, ...] | None = None,
    *,
    side: int = SIDE,
    storage_options: dict[str, str] | None = None,
    bar: bool = True,
) -> dict[str, Any]:
    """store, what was done of each document, weights, seconds, and the bytes of all overviews; with a bar."""
    import attlas
    from attlas.jobs.overviews import store_overviews
    from attlas.server.handles import Handle
    from attlas.server.questions.heads import sampled_roles
    from attlas.storage.overview import overview_bytes

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    with job_progress("overview", shown=bar) as progress:
        told = store_overviews(atlas, documents, side=side, progress=progress)
    for document, done in told["documents"].items():
        if done == "stored":  # what the page asks before it shows a head
            for kind in atlas.kinds:
                sampled_roles(Handle(atlas, document, kind), save=True)
    return {"store": store} | told | {"bytes": overview_bytes(atlas)}


def _show(told: dict[str, Any]) -> None:
    out, table = console(), Table.grid(padding=(0, 2))
    for document, done in told["documents"].items():
        table.add_row(styled("[bold]{}[/]", document), done)
    out.print(table)
    if told["weights"]:
        weights, took = human_count(told["weights"]), human_seconds(told["seconds"])
        size = human_bytes(told["bytes"])
        out.print(styled("[dim]{} weights in {}; the atlas's overviews take {}[/]", weights, took, size))
