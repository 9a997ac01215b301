"""What every command shares: the one way to a terminal, on which data never acts; JSON; errors as one line.

A console takes a str as data and shows it as it is, its control characters as escapes. What is styled is written
`styled("[bold]{}[/] of {}", name, number)`: the template is ours, and what is put into it is data.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import SpinnerColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from attlas.errors import AttlasError
from attlas.readable import escaped, one_line

__all__ = [
    "console",
    "fail",
    "print_data",
    "print_json",
    "print_json_text",
    "reports_errors",
    "spinner",
    "styled",
    "table",
]

P = ParamSpec("P")
R = TypeVar("R")

SIGNS = {
    "█": "#", "▏": "|", "░": "-", "·": "-", "–": "-", "…": "~", "±": "~", "×": "x", "µ": "u", "␣": "_", "⏎": "/",
    "⇥": ">", "│": "|", "─": "-", "━": "-", "╸": "-", "╺": "-", "’": "'",
}  # fmt: skip
"""Our own signs where the terminal's encoding lacks them, each as wide."""


class Screen(Console):
    """A console for which a str is data, never markup, and from which no control character of it leaves."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_told(text, self.encoding), **options | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_safe(segment.text, self.encoding), segment.style)


def console(*, stderr: bool = False) -> Screen:
    """A terminal of its real width; no colour, and 100 columns or what COLUMNS says, in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return Screen(file=stream, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def styled(template: str, *data: object) -> Text:
    """A line of ours with data in it: Rich's markup in `template` alone, each `{}` one value as it is.

    >>> styled("[bold]{}[/], {} heads", "[red]a\\x1b", 4).plain
    '[red]a\\\\x1b, 4 heads'
    """
    text, values = Text.from_markup(template, emoji=False), list(data)
    places = [match.start() for match in re.finditer(r"\{\}", text.plain)]
    assert len(places) == len(values), template
    parts = text.divide([edge for place in places for edge in (place, place + 2)])
    line = Text(style=text.style)
    for i, part in enumerate(parts):
        if i % 2:
            part = _instead(part, _told(str(values[i // 2]), sys.stdout.encoding or "utf-8"))
        line.append_text(part)
    return line


def spinner(screen: Console) -> SpinnerColumn:
    """What turns while work is done, of signs that the terminal has."""
    return SpinnerColumn("dots" if _encodes("⠋", screen.encoding) else "line")


def table(*columns: str, right: Iterable[str] = (), header: bool = True) -> Table:
    """A table without lines; what a column has no room for goes on below, and is never cut. right: flush right."""
    made = Table(box=None, pad_edge=False, header_style="dim", show_header=header, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in set(right) else "left", overflow="fold")
    return made


def fail(message: str) -> NoReturn:
    """Print one line on stderr, which a terminal shows broken between words, and leave with exit status 1."""
    line = f"error: {_told(one_line(message), sys.stderr.encoding or 'utf-8')}"
    if sys.stderr.isatty():  # which would break it within a word
        line = textwrap.fill(line, console(stderr=True).width, break_long_words=False, break_on_hyphens=False)
    click.echo(line, err=True)
    raise SystemExit(1)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of the library into one line and exit status 1; ATTLAS_DEBUG=1 shows the traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:  # whoever read our output has enough
            raise
        except (AttlasError, OSError) as error:
            if os.environ.get("ATTLAS_DEBUG"):
                raise
            fail(str(error))
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise SystemExit(130) from None

    return run


def print_json(value: Any) -> None:
    """JSON that reads back as it was, in which nothing acts on a terminal, whatever its encoding."""
    print_json_text(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_json_text(text: str) -> None:
    """JSON that is text already; what cannot be printed stands in its strings alone, where \\u says the same."""
    narrow = not _encodes(text, sys.stdout.encoding or "utf-8")
    hidden = {one for one in set(text) if one != "\n" and not (one.isprintable() and (one.isascii() or not narrow))}
    click.echo(text.translate({ord(one): _json_escape(one) for one in hidden}))


def print_data(text: str) -> None:
    """A file's text on standard output: in a pipe byte for byte in UTF-8, on a terminal with escapes."""
    if sys.stdout.isatty():
        click.echo("\n".join(_told(line, sys.stdout.encoding) for line in text.split("\n")), nl=False)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogatepass"))
    sys.stdout.flush()


def _instead(part: Text, data: str) -> Text:
    """Data in the style of the place it is put into."""
    text = Text(data, style=part.style)
    for span in part.spans:
        text.stylize(span.style, 0, len(data))
    return text


def _told(text: str, encoding: str) -> str:
    """Data with what acts on a terminal, and what it has no sign for, as escapes."""
    safe = escaped(text)
    if _encodes(safe, encoding):
        return safe
    letters = (one if _encodes(one, encoding) else SIGNS.get(one, one) for one in safe)
    return "".join(letters).encode(encoding, "backslashreplace").decode(encoding)


def _safe(text: str, encoding: str) -> str:
    """Letter for letter what may leave, so that columns stay where they are."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    shown = "".join(one if one.isprintable() or one == "\n" else "·" for one in text)
    if _encodes(shown, encoding):
        return shown
    return "".join(one if _encodes(one, encoding) else SIGNS.get(one, "?") for one in shown)


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
