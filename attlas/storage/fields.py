"""What the user said of the documents, a column a field: `documents/<name>`, its name as it is in an attribute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import zarr

from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.storage.array_spec import ArraySpec, column

__all__ = ["field_arrays", "field_name"]

OURS = {"document", "document_id", "pack", "state"}
OURS_OF_AXES = ("row_size", "token_start", "truncated_from", "first_position")
LONGEST_NAME = 200


def field_arrays(documents: Sequence[Document], axes: Iterable[str]) -> Iterator[ArraySpec]:
    """Columns int64, float64 (NaN for none), bool, or text ("" for none) of what is not of one of these types alone.

    axes: the documents' token axes. Raises InputError where a field has the name of a column of ours.
    """
    ours = OURS | {f"{'' if axis == 'text' else f'{axis}_'}{name}" for axis in axes for name in OURS_OF_AXES}
    for name in dict.fromkeys(name for document in documents for name in document.fields):
        if name in ours:
            raise InputError(f"the field {name!r} has the name of a column of the atlas: rename it")
        dtype, values = _typed([document.fields.get(name) for document in documents])
        yield column(f"documents/{_path(name)}", "document", dtype, values, "by the user", field=name)


def field_name(array: zarr.Array[Any]) -> str:
    """The name of a column of the documents."""
    return str(array.attrs.get("field", array.basename))


def _typed(values: list[Any]) -> tuple[str, list[Any]]:
    if all(isinstance(value, bool) for value in values):
        return "bool", values
    if any(isinstance(value, str | bool) for value in values) or all(value is None for value in values):
        return "str", [_told(value) for value in values]
    if all(isinstance(value, int) for value in values):
        return "int64", values
    return "float64", [float("nan") if value is None else float(value) for value in values]


def _told(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _path(name: str) -> str:
    """A name as zarr and every file system take it, no two alike."""
    path = quote(name, safe="").replace(".", "%2E")
    if path.startswith("__"):
        path = f"%5F{path[1:]}"
    return path if len(path) <= LONGEST_NAME else f"{path[:160]}%{hashlib.sha256(name.encode()).hexdigest()[:32]}"
