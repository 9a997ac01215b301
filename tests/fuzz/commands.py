"""The public doors of the command line, found by walking its tree: every command, argument and option."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from attlas.cli import main

__all__ = ["Command", "commands", "prepare"]


LEAST_TOKENS = 64
"""Of each document, so that `bench` and the statistics of long rows have something to measure."""


SIZES = {"--rounds", "--tokens", "--folder", "--keep", "--shards", "--replicas", "--documents"}
"""What makes a benchmark small, and `--folder`, which keeps it out of the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """words: of the command itself. arguments: each with a good value. options: their longest names. made: what a run
    that fails may not leave behind."""

    words: tuple[str, ...]
    arguments: Mapping[str, str]
    needed: Mapping[str, str]
    options: tuple[str, ...]
    flags: tuple[str, ...]
    made: Path

    def line(self, name: str, value: str) -> list[str]:
        """The command with one argument or option of this value, and the others good."""
        line = list(self.words)
        for option, good in self.needed.items():
            line += [option, good] if option != name else []
        line += [name, value] if name in self.options else []
        return [*line, *(value if argument == name else good for argument, good in self.arguments.items())]


def prepare(folder: Path) -> dict[str, str]:
    """Good values by the name of an argument or option; makes what they name in the folder."""
    import attlas

    text = "one two three, one two three. " * 16
    (folder / "text.txt").write_text(text)
    pairs = {"id": "pair", "text": text, "other": text.replace("one", "two", 1), "right": "o", "wrong": "t"}
    (folder / "pairs.jsonl").write_text(json.dumps(pairs) + "\n")
    atlas = attlas.capture("demo", [text, f"and two, {text}"], folder / "a.zarr", ids=["a", "b"])
    attlas.capture("demo", text, folder / "graded.zarr", ids=["a"], gradients="loss")
    assert min(atlas[one].sizes["query"] for one in atlas) >= LEAST_TOKENS
    return {
        "model": "demo", "inputs": str(folder / "text.txt"), "pairs": str(folder / "pairs.jsonl"),
        "store": str(folder / "a.zarr"), "graded": str(folder / "graded.zarr"), "--gradients": "loss",
        "--store": str(folder / "never.zarr"), "--layer": "0", "--head": "0", "--tokens": "64", "--document": "a",
        "--rounds": "1", "--keep": "statistics", "--shards": "1", "--replicas": "1", "--documents": "2",
        "picture": "map", "other_store": str(folder / "a.zarr"), "--other-document": "b",
        "--folder": str(folder), "stores": str(folder / "a.zarr"), "--port": "0",
        "--output": str(folder / "out.html"), "--text": "a text", "--other": "b text", "--right": "a", "--wrong": "b",
        "--rate": "0.1", "--by": "delete",
    }  # fmt: skip


def commands(good: Mapping[str, str], folder: Path) -> list[Command]:
    return list(_walk(main, (), good, folder))


def _walk(group: click.Group, words: tuple[str, ...], good: Mapping[str, str], folder: Path) -> Iterator[Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from _walk(found, (*words, name), good, folder)
        elif found is not None:
            yield _command(found, (*words, name), good, folder)


def _command(found: click.Command, words: tuple[str, ...], good: Mapping[str, str], folder: Path) -> Command:
    arguments = [one for one in found.params if isinstance(one, click.Argument)]
    options = [one for one in found.params if isinstance(one, click.Option)]
    names = {max(one.opts, key=len): one for one in options}
    asked = {"--store", "--layer", "--head", "--document"} & set(names)  # --document: the atlas holds two
    if words[0] not in {"query", "graph", "plot", "compare", "export", "received", "rollout"}:
        asked -= {"--document"}
    asked |= {"--other-document"} & set(names)
    asked |= {name for name, one in names.items() if one.required}
    asked |= {"--rate"} & set(names)  # the model has no dropout of its own
    asked |= {"--port"} & set(names)  # the usual one may be taken
    asked |= SIZES & set(names) if words[0] == "bench" else set()
    good = {**good, "--head": "0.0"} if words[0] == "export" else good
    good = {**good, "store": good["graded"]} if words[0] == "relevance" else good
    good = {**good, "inputs": good["pairs"]} if words[0] in ("patch", "counterfactual") else good
    return Command(
        words=words,
        arguments={one.name or "": good[one.name or ""] for one in arguments},
        needed={name: good[name] for name in asked},
        options=tuple(name for name, one in names.items() if not one.is_flag),
        flags=tuple(name for name, one in names.items() if one.is_flag),
        made=folder / "never.zarr",
    )
