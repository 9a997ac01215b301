"""Wrong values of every type, by names; made anew for each use, for some are used up or closed."""

from __future__ import annotations

import decimal
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

__all__ = ["TEXTS", "VALUES"]


class Unfriendly:
    """What raises when it is looked at."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


def _counting() -> Iterator[int]:
    yield from range(3)


def _cycle() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


def _closed() -> io.BytesIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None, "true": lambda: True, "false": lambda: False, "zero": lambda: 0, "one": lambda: 1,
    "minus one": lambda: -1, "huge": lambda: 10**30, "huge negative": lambda: -(10**30), "2**63": lambda: 2**63,
    "float": lambda: 2.5, "nan": lambda: float("nan"), "inf": lambda: float("inf"), "complex": lambda: 1 + 2j,
    "decimal": lambda: decimal.Decimal("1.5"), "numpy nan": lambda: np.float32("nan"), "int8": lambda: np.int8(-1),
    "numpy bool": lambda: np.bool_(True), "numpy date": lambda: np.datetime64("2020-01-01"),
    "empty": lambda: "", "blank": lambda: " \t", "word": lambda: "nonsense", "NUL": lambda: "a\0b",
    "surrogate": lambda: "a\ud800b", "escape": lambda: "\x1b[2J\x1b]0;x\x07", "newlines": lambda: "a\nb\r\nc",
    "dots": lambda: "../..", "root": lambda: "/", "device": lambda: "/dev/null", "long": lambda: "x" * 100_000,
    "digits": lambda: "9" * 5000, "range of digits": lambda: f"0:{'9' * 5000}", "superscript": lambda: "²",
    "arabic digit": lambda: "٣", "percent": lambda: "0%", "nan in words": lambda: "nan", "URL": lambda: "ftp://",
    "nowhere": lambda: "nowhere://x/y", "markup": lambda: "[/nope]", "bidi": lambda: "a\u202eb",
    "bytes": lambda: b"x", "bytearray": lambda: bytearray(b"\xff"), "path": lambda: Path("/proc/nowhere/at/all"),
    "path of a folder": lambda: Path(os.sep), "path with NUL": lambda: Path("a\0b"),
    "empty list": list, "list of none": lambda: [None], "list of nan": lambda: [float("nan")],
    "list of lists": lambda: [[0], [1, 2]], "nested": lambda: [[[[[]]]]], "cycle": _cycle, "tuple": tuple,
    "list of empty": lambda: [""], "list of surrogates": lambda: ["\ud800"], "list of huge": lambda: [10**30],
    "mixed": lambda: [0, "a", None], "set": lambda: {1, 2}, "frozenset": frozenset, "dict": dict,
    "dict of one": lambda: {"a": 1}, "dict by numbers": lambda: {1: 2}, "range": lambda: range(10**12),
    "slice": lambda: slice(None), "slice of words": lambda: slice("a", "b"), "slice by zero": lambda: slice(0, 5, 0),
    "generator": _counting, "function": lambda: len, "class": lambda: int,
    "object": object, "unfriendly": Unfriendly, "module": lambda: os, "file": lambda: io.BytesIO(b"x"),
    "closed file": _closed, "exception": lambda: ValueError("x"), "ellipsis": lambda: ...,
    "array": lambda: np.zeros((2, 2)), "scalar array": lambda: np.array(3), "empty array": lambda: np.zeros(0),
    "array of text": lambda: np.array(["a", "b"]), "array of objects": lambda: np.array([object()], dtype=object),
    "array of dates": lambda: np.array(["2020"], dtype="datetime64[D]"), "array of bools": lambda: np.array([True]),
    "array of nan": lambda: np.array([np.nan]), "array of records": lambda: np.zeros(2, dtype=[("a", "i4")]),
    "tensor": lambda: torch.zeros(2, 2), "meta tensor": lambda: torch.zeros(2, device="meta"),
    "float tensor": lambda: torch.tensor([0.5]), "dataset": xr.Dataset,
    "wrong dataset": lambda: xr.Dataset({"entropy": ("layer", [1.0])}, attrs={"question": "statistics"}),
    "data array": lambda: xr.DataArray(np.zeros((2, 2)), dims=("layer", "head")),
}  # fmt: skip

TEXTS: dict[str, str] = {
    name: value
    for name, make in VALUES.items()
    for value in [make()]
    if isinstance(value, str) and name != "NUL"  # no program can be given one
} | {
    "minus five": "-5", "zero as text": "0", "half": "0.5", "exponent": "1e9", "infinite": "inf", "list": "1,2,,3",
    "key without value": "key", "value without key": "=value", "json": '{"a": 1}', "option": "--nonsense",
    "comma": ",", "colon": ":", "step zero": "::0", "hundred thousand": "100000", "beyond 64 bits": str(2**70),
    "tilde": "~nobody/x", "dash": "-", "glob": "*",
}  # fmt: skip
"""What can be written on a command line."""
