"""What every command shares: a console, JSON, errors as one line."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
from rich.console import Console

from attlas.errors import AttlasError

__all__ = ["console", "fail", "print_json", "reports_errors"]

P = ParamSpec("P")
R = TypeVar("R")


def console(*, stderr: bool = False) -> Console:
    """A terminal of its real width; no colour, and 100 columns or what COLUMNS says, in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream, width=None if stream.isatty() or "COLUMNS" in os.environ else 100, highlight=False, soft_wrap=False
    )


def fail(message: str) -> NoReturn:
    """Print one line on stderr and leave with exit status 1."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    raise SystemExit(1)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of the library into one line and exit status 1; ATTLAS_DEBUG=1 shows the traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (AttlasError, OSError) as error:
            if os.environ.get("ATTLAS_DEBUG"):
                raise
            fail(str(error))
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None

    return run


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))
