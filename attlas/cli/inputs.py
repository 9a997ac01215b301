"""What a command is given to capture: files, and - for standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from attlas.engine.passage.files import check_names, read_bytes, read_file
from attlas.engine.passage.raw import RawDocument

__all__ = ["read_inputs"]


def read_inputs(paths: Sequence[str]) -> tuple[RawDocument, ...]:
    """Every document of every input in order, each with an id; see `read_file`. "-" is standard input, a text or JSON
    Lines. Raises InputError naming file and line."""
    return check_names([document for path in paths for document in _read(path)])


def _read(path: str) -> list[RawDocument]:
    if path == "-":
        return read_bytes(sys.stdin.buffer.read(), path, name="stdin", guess=True)
    return read_file(path)
