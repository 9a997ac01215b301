"""Selections and sizes as people type them: click's types around the library's own readers, which Python uses too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from attlas.engine.passage.selection import parse_selection
from attlas.errors import InputError
from attlas.parse import parse_bytes, parse_shards

__all__ = ["INDICES", "LAYERS", "MEMORY", "OUTPUT", "QUERIES", "SHARDS", "Parsed"]


class Parsed(click.ParamType[Any]):
    """A value that `read` makes of a text, or of itself; its InputError becomes click's. name: the metavar."""

    def __init__(self, name: str, read: Callable[[Any], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(value)
        except InputError as error:
            self._refuse(error, param, ctx)

    def _refuse(self, error: InputError, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        self.fail(str(error), param, ctx)


LAYERS = Parsed("layers", lambda value: parse_selection(value, "choice", random=False))
INDICES = Parsed("range", lambda value: parse_selection(value, "range", random=False))
QUERIES = Parsed("rows", lambda value: parse_selection(value, "queries"))
MEMORY = Parsed("size", lambda value: parse_bytes(value, "size"))
SHARDS = Parsed("N|auto", parse_shards)


class Output(click.Path):
    """A file to be written: its folder is there, which is told before anything is computed."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{str(path)!r}: there is no folder {str(path.parent)!r}: make it first", param, ctx)
        return path


OUTPUT = Output()
