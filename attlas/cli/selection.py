"""Values as people type them: click's types around the library's own readers, which Python uses too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from attlas.engine.passage.selection import parse_selection
from attlas.errors import InputError
from attlas.parse import (
    FIGURE_ENDINGS,
    TABLE_ENDINGS,
    parse_bytes,
    parse_count,
    parse_folder,
    parse_numbers,
    parse_output,
    parse_path,
    parse_sample,
    parse_seed,
    parse_shards,
    parse_word,
    parse_workers,
)

__all__ = [
    "COUNT", "FIGURE", "FOLDER", "INDICES", "LAYERS", "MEMORY", "NUMBERS", "OUTPUT", "PLACE", "QUERIES", "SAMPLE",
    "SEED", "SHARDS", "TABLE", "TARGET", "WORD", "WORKERS", "Parsed", "storage_option",
]  # fmt: skip


class Parsed(click.ParamType[Any]):
    """A value that `read` makes of a text, or of itself; its InputError becomes click's. name: the metavar."""

    def __init__(self, name: str, read: Callable[[Any], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


def _numbers(value: Any) -> tuple[float, ...]:
    """`0.001,0.01` -> (0.001, 0.01)."""
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError as error:
            raise InputError(f"{value!r} is no list of numbers: write 0.001,0.01") from error
    return parse_numbers(value, "the list")


def _sample(value: Any) -> str:
    """`2000` rows, or `5%` of them; what these are is known when an atlas is open."""
    parse_sample(value, "the sample", lambda: 1)
    return str(value).strip()


def _target(value: Any) -> Any:
    """A name, or JSON of a mapping; what it means is known when the model is loaded."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise InputError(f'{value!r} is no JSON: write {{"token": " Paris"}}') from error


LAYERS = Parsed("layers", lambda value: parse_selection(value, "choice", random=False))
INDICES = Parsed("range", lambda value: parse_selection(value, "range", random=False))
QUERIES = Parsed("rows", lambda value: parse_selection(value, "queries"))
MEMORY = Parsed("size", lambda value: parse_bytes(value, "size"))
SHARDS = Parsed("N|auto", parse_shards)
COUNT = Parsed("N", lambda value: parse_count(value, "the number"))
WORKERS = Parsed("N", lambda value: parse_workers(value, "the number"))
SEED = Parsed("N", parse_seed)
SAMPLE = Parsed("rows", _sample)
NUMBERS = Parsed("numbers", _numbers)
TARGET = Parsed("target", _target)
WORD = Parsed("text", lambda value: parse_word(value, "it", "write a name"))
PLACE = Parsed("place", lambda value: str(parse_path(value, "it", "give a folder or a URL")) and value)
OUTPUT = Parsed("file", lambda value: parse_output(value, "the file"))
TABLE = Parsed("file", lambda value: parse_output(value, "the file", TABLE_ENDINGS))
FIGURE = Parsed("file", lambda value: parse_output(value, "the file", FIGURE_ENDINGS))
FOLDER = Parsed("folder", lambda value: parse_folder(value, "the folder"))


def storage_option(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    """`key=value` pairs for fsspec."""
    wrong = next((value for value in values if not value.partition("=")[0] or "=" not in value), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not key=value")
    return dict(value.split("=", 1) for value in values) or None
