"""What `attlas view` and `attlas serve` share: open, listen, say where."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import click

from attlas.cli.output import console, styled
from attlas.cli.selection import Parsed, storage_option
from attlas.parse import parse_count

if TYPE_CHECKING:
    from attlas.server.captures import Captures
    from attlas.server.session import Session

__all__ = ["PORT", "TOKEN", "serve_atlases", "serving_options"]

PORT = Parsed("port", lambda value: parse_count(value, "the port", least=0, most=65535))
SSH = ("SSH_CONNECTION", "SSH_TTY")
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


def _token(value: Any) -> str:
    from attlas.server.auth import parse_token

    return parse_token(value, "the token")


TOKEN = Parsed("token", _token)


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--token and --storage-option, which both commands take."""
    for option in (
        click.option(
            "--token",
            type=TOKEN,
            envvar="ATTLAS_TOKEN",
            help="What askers must have; also $ATTLAS_TOKEN. [default: a new one]",
        ),
        click.option(
            "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for URLs."
        ),
    ):
        command = option(command)
    return command


def serve_atlases(
    stores: Sequence[str],
    *,
    host: str,
    port: int | None,
    token: str | None,
    hosts: Sequence[str] = (),
    storage_options: dict[str, str] | None = None,
    browser: bool = False,
    captures: Callable[[Future[Session]], Captures] | None = None,
) -> None:
    """Open the atlases, listen, print where, and serve until Ctrl-C."""
    import attlas
    from attlas.server.app import create_app
    from attlas.server.auth import new_token
    from attlas.server.listen import address, bind, listen, names_of, open_session, spare_memory, tunnel

    spare_memory()
    atlases = [attlas.open_atlas(store, storage_options=storage_options) for store in stores]
    made = bind(host, port)
    token = token or new_token()
    session = open_session(atlases)
    app = create_app(
        session,
        token=token,
        hosts=[*hosts, *names_of(made, host)],
        captures=None if captures is None else captures(session),
    )
    where = address(made, token)

    def begun() -> None:
        out = console()
        for store, atlas in zip(stores, atlases, strict=True):
            count = f"{len(atlas):,} document{'' if len(atlas) == 1 else 's'}"
            out.print(styled("[bold]{}[/]  [dim]{}, {}[/]", store, atlas.model.get("name"), count))
        click.echo(f"\n  {where}\n")  # as it is, whatever the width
        if _is_loopback(made):
            click.echo(f"From another machine, first:\n  {tunnel(made)}\n")
        click.echo("Ctrl-C stops.")
        sys.stdout.flush()
        if browser and _has_screen():
            webbrowser.open(where)

    listen(app, made, session, begun)


def _is_loopback(made: socket.socket) -> bool:
    return str(made.getsockname()[0]) in ("127.0.0.1", "::1")


def _has_screen() -> bool:
    """Whether a browser would open before whoever typed the command, and not in their terminal."""
    if any(name in os.environ for name in SSH):
        return False
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in SCREENS)
