"""attlas mcp: tools for assistants, over standard input and output."""

from __future__ import annotations

import click

from attlas.cli.output import reports_errors
from attlas.cli.selection import PLACE, storage_option

__all__ = ["command"]


@click.command("mcp")
@click.argument("stores", nargs=-1, required=True, type=PLACE)
@click.option("--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for URLs.")
@reports_errors
def command(stores: tuple[str, ...], storage_options: dict[str, str] | None) -> None:
    """Answer questions about STORES to an assistant (Model Context Protocol), on standard input and output.

    An assistant starts it itself. Its tools only read: documents, tokens, heads, the largest weights of a row or
    a column, one weight.

    \b
    Example:
      attlas mcp book.zarr
    """
    import torch

    import attlas
    from attlas.server.listen import named
    from attlas.server.mcp import make_server
    from attlas.server.session import Session

    torch.set_num_threads(1)
    atlases = [attlas.open_atlas(store, storage_options=storage_options) for store in stores]
    make_server(Session(named(atlases))).run()
