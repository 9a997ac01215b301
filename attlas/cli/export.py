"""attlas export: a page in one file, to be sent and opened without a server."""

from __future__ import annotations

from pathlib import Path

import click

from attlas.cli.output import console, print_json, reports_errors, styled
from attlas.cli.selection import MEMORY, Parsed, storage_option
from attlas.parse import parse_output
from attlas.readable import human_bytes

__all__ = ["command"]

PAGE = Parsed("file", lambda value: parse_output(value, "the file", (".html",)))


@click.command("export")
@click.argument("store")
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--kind", type=click.Choice(["self", "encoder", "decoder", "cross"]), help="[default: the first]")
@click.option(
    "--head", "heads", metavar="L.H,...",
    help="Layer and head, such as 3.5,3.mean: with every weight. [default: the one to look at first]",
)  # fmt: skip
@click.option("-o", "--output", type=PAGE, required=True, help="File to write: .html.")
@click.option("--limit", type=MEMORY, default="10MB", show_default=True, help="The most that the file may take.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    document: str | None,
    kind: str | None,
    heads: str | None,
    output: Path,
    limit: int,
    as_json: bool,
    storage_options: dict[str, str] | None,
) -> None:
    """Write the page of one document as a file that opens by itself: no server, no network.

    The chosen heads have every weight, float32; all others are thumbnails. A head of 500 tokens takes about 0.6 MB, of
    2,000 about 9 MB.

    \b
    Example:
      attlas export book.zarr -o page.html
      attlas export book.zarr --document moby --head 3.5,3.mean -o moby.html
    """
    import attlas
    from attlas.server.viewer.export import export_page

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    told = export_page(atlas, output, heads=heads, document=document, kind=kind, limit=limit)
    if as_json:
        print_json(told)
        return
    out = console()
    chosen = f"every weight of {', '.join(told['heads'])}, thumbnails of {told['layers']} layers"
    out.print(styled("[bold]{}[/]  {}, {}", told["path"], told["document"], human_bytes(told["bytes"])))
    out.print(styled("[dim]{}; open it in a browser[/]", chosen))
