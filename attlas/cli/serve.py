"""attlas serve: atlases over HTTP, for a team and its programs."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attlas.cli.output import reports_errors
from attlas.cli.selection import FOLDER, PLACE, WORD
from attlas.cli.serving import PORT, serve_atlases, serving_options

if TYPE_CHECKING:
    from attlas.server.captures import Captures
    from attlas.server.session import Session

__all__ = ["command"]


@click.command("serve")
@click.argument("stores", nargs=-1, required=True, type=PLACE)
@click.option("--host", type=WORD, default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0: all.")
@click.option("--port", type=PORT, default="8765", show_default=True, help="0: any that is free.")
@click.option("--allow-host", "hosts", type=WORD, multiple=True, help="A name by which it is called, as by a proxy.")
@click.option("--allow-capture", is_flag=True, help="Take texts to capture, with --model.")
@click.option("--model", "models", type=WORD, multiple=True, help="A model that may be run on texts.")
@click.option("--folder", type=FOLDER, help="Where captures are kept. [default: until the end]")
@serving_options
@reports_errors
def command(
    stores: tuple[str, ...],
    host: str,
    port: int,
    hosts: tuple[str, ...],
    allow_capture: bool,
    models: tuple[str, ...],
    folder: Path | None,
    token: str | None,
    storage_options: dict[str, str] | None,
) -> None:
    """Serve STORES over HTTP: the page, the /v1 resources with their /docs, and the files for any Zarr reader.

    Listens on loopback unless --host says otherwise, speaks no TLS, and asks everyone for the token: see
    docs/server.md for a team's way to it.

    \b
    Example:
      attlas serve book.zarr news.zarr --port 9000
      attlas serve book.zarr --allow-capture --model HuggingFaceTB/SmolLM2-135M
    """
    if allow_capture != bool(models):
        raise click.UsageError("--allow-capture and --model go together: say which models may be run")
    if folder is not None and not allow_capture:
        raise click.UsageError("--folder is for --allow-capture")
    temporary = tempfile.TemporaryDirectory(prefix="attlas-captures-") if allow_capture and folder is None else None
    with temporary or nullcontext("") as made:
        place = Path(made) if folder is None else folder

        def captures(session: Future[Session]) -> Captures:
            from attlas.server.captures import Captures

            return Captures(models, place, session.result)

        serve_atlases(
            stores, host=host, port=port, token=token, hosts=hosts, storage_options=storage_options,
            captures=captures if allow_capture else None,
        )  # fmt: skip
