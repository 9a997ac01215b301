"""What every command shares: errors as one line, JSON, tables, sizes as people read them."""

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

__all__ = ["console", "fail", "human_bytes", "human_count", "human_seconds", "print_json", "reports_errors"]

P = ParamSpec("P")
R = TypeVar("R")


def console(*, stderr: bool = False) -> Console:
    """A terminal of its real width; 100 columns and no colour in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 100, highlight=False, soft_wrap=False)


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
        except KeyError as error:
            if os.environ.get("ATTLAS_DEBUG") or not str(error.args[0]).count(" "):
                raise
            fail(str(error.args[0]))
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


def human_bytes(count: float) -> str:
    """1,234,567 -> "1.2 MB"; powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return (
                f"{count:.0f} {unit}"
                if unit == "B"
                else f"{count:.3g} {unit}"
                if count < 999.5
                else f"{count:,.0f} {unit}"
            )
        count /= 1000
    raise AssertionError


def human_count(count: float) -> str:
    """124,439,808 -> "124M"."""
    for unit in ("", "k", "M", "B"):
        if count < 999.5 or unit == "B":
            return f"{count:.3g}{unit}" if unit else f"{count:.0f}"
        count /= 1000
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """4_000 -> "1 h 07 min"; 75 -> "1 min 15 s"; 8.2 -> "8 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
