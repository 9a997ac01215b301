"""Reading what a capture is given: text files, JSONL files, standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attlas.errors import InputError

__all__ = ["Inputs", "read_inputs"]

FIELDS = {"id", "text", "source", "target"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """ids[i] names texts[i], a text or a (source, target) pair."""

    ids: tuple[str, ...]
    texts: tuple[str | tuple[str, str], ...]


def read_inputs(paths: Sequence[str]) -> Inputs:
    """Read every input in order; "-" is standard input.

    A text file is one document, named for the file. A .jsonl file has one document a line: {"id", "text"} or {"id",
    "source", "target"}; an id left out is the file's name and the line. Raises InputError naming file and line.
    """
    found = [document for path in paths for document in _read(path)]
    seen: dict[str, str] = {}
    for name, _, where in found:
        if name in seen:
            raise InputError(f"{where}: the id {name!r} is taken by {seen[name]}: ids must differ")
        seen[name] = where
    return Inputs(ids=tuple(name for name, _, _ in found), texts=tuple(text for _, text, _ in found))


def _read(path: str) -> Iterator[tuple[str, Any, str]]:
    """(id, text or pair, where) for each document of one input."""
    if path == "-":
        raw, name = sys.stdin.buffer.read(), "stdin"
    else:
        file = Path(path)
        if file.is_dir():
            raise InputError(f"{path} is a folder: name the files in it")
        if not file.exists():
            raise InputError(f"there is no file {path}: give text files, .jsonl files, or - for standard input")
        raw, name = file.read_bytes(), file.stem
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; convert it, for example with iconv"
        ) from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: give it a text")
    if path.endswith(".jsonl") or (path == "-" and all(line.lstrip().startswith("{") for line in lines)):
        yield from _json_lines(path, name, text)
    else:
        yield name, text, path


def _json_lines(path: str, name: str, text: str) -> Iterator[tuple[str, Any, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield (*_document(line, where, f"{name}-{number}"), where)


def _document(line: str, where: str, default: str) -> tuple[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(fields, dict):
        raise InputError(f'{where} is not an object: write {{"id": ..., "text": ...}}')
    unknown = sorted(set(fields) - FIELDS)
    if unknown:
        raise InputError(f"{where} has the unknown field {unknown[0]!r}: use id, text, or id, source, target")
    if ("text" in fields) == ("source" in fields or "target" in fields):
        raise InputError(f"{where} needs either text, or source and target")
    for field in ("text",) if "text" in fields else ("source", "target"):
        if not isinstance(fields.get(field), str):
            raise InputError(f"{where}: {field} must be a string")
        if not fields[field].strip():
            raise InputError(f"{where}: {field} is empty: remove the line, or give it a text")
    name = str(fields.get("id", default))
    return name, fields["text"] if "text" in fields else (fields["source"], fields["target"])
