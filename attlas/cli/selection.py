"""Selections as people type them: `0,4:8,-1` for layers, `10:20`, `:50`, `7`, `last:16` for positions."""

from __future__ import annotations

import click

from attlas.engine.passage.selection import parse_bytes, parse_queries
from attlas.errors import InputError

__all__ = ["INDICES", "LAYERS", "MEMORY", "QUERIES", "SHARDS", "Indices", "Layers", "Memory", "Queries", "Shards"]


class Layers(click.ParamType[list[int]]):
    """`0,4:8,-1` -> [0, 4, 5, 6, 7, -1]; a range leaves its end out, as in Python."""

    name = "layers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        chosen: list[int] = []
        for part in str(value).split(","):
            start, colon, stop = part.strip().partition(":")
            try:
                if colon:
                    found = list(range(int(start), int(stop)))
                    if not found:
                        raise ValueError
                    chosen += found
                else:
                    chosen.append(int(start))
            except ValueError:
                self.fail(f"{part.strip()!r} is no index or range of them: write 3, or 0,4:8, or -1", param, ctx)
        return chosen


class Indices(click.ParamType[slice]):
    """`7` -> slice(7, 8); `10:20`, `:50`, `::4` -> a slice; `last:16` -> slice(-16, None)."""

    name = "range"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> slice:
        if isinstance(value, slice):
            return value
        text = str(value).strip()
        try:
            if text.startswith("last:"):
                return slice(-int(text.removeprefix("last:")), None)
            parts = [int(part) if part else None for part in text.split(":")]
            if len(parts) == 1 and parts[0] is not None:
                return slice(parts[0], parts[0] + 1 or None)
            if 2 <= len(parts) <= 3:
                return slice(*parts)
        except ValueError:
            self.fail(f"{text!r} is no range: write 7, 10:20, :50 or last:16", param, ctx)
        return self.fail(f"{text!r} is no range: write 7, 10:20, :50 or last:16", param, ctx)


class Queries(click.ParamType[str]):
    """A selection of query rows, checked and handed on as it is."""

    name = "rows"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_queries(str(value)).spec
        except InputError as error:
            self.fail(str(error), param, ctx)


class Memory(click.ParamType[int]):
    """`6GB`, `512MiB` -> bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


class Shards(click.ParamType[int | None]):
    """`4` -> 4; `auto` -> None."""

    name = "N|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        text = str(value).strip().lower()
        if text == "auto" or value is None:
            return None
        if not text.isdigit() or int(text) < 1:
            self.fail(f"{text!r} is no number of shards: write 1, 4, or auto", param, ctx)
        return int(text)


LAYERS = Layers()
QUERIES = Queries()
INDICES = Indices()
MEMORY = Memory()
SHARDS = Shards()
