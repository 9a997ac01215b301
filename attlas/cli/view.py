"""attlas view: the page, in a browser."""

from __future__ import annotations

import click

from attlas.cli.output import reports_errors
from attlas.cli.selection import PLACE
from attlas.cli.serving import PORT, serve_atlases, serving_options

__all__ = ["command"]


@click.command("view")
@click.argument("stores", nargs=-1, required=True, type=PLACE)
@click.option("--no-browser", is_flag=True, help="Print the address alone.")
@click.option("--port", type=PORT, help="[default: 8765, or the next that is free]")
@serving_options
@reports_errors
def command(
    stores: tuple[str, ...],
    no_browser: bool,
    port: int | None,
    token: str | None,
    storage_options: dict[str, str] | None,
) -> None:
    """Look at one atlas or several in a browser.

    Listens on this machine alone. The address that is printed has a token in it; over SSH, run the line below it on
    your own machine first. `attlas serve` is the same for a team.

    \b
    Example:
      attlas view book.zarr
    """
    serve_atlases(
        stores, host="127.0.0.1", port=port, token=token, storage_options=storage_options, browser=not no_browser
    )
