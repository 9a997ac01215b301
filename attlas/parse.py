"""What people give, read into values: one function for each sort of option, for Python and the command line alike.

Each takes the option's name, for its error: found, expected, remedy. Light: imports nothing heavy.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from attlas.errors import InputError

__all__ = ["is_integer", "parse_bytes", "parse_choice", "parse_count", "parse_flag", "parse_shards", "refuse"]

SIZES = {"": 1} | {f"{unit}": 1000**power for power, unit in enumerate("KMGT", 1)}
SIZES |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGT", 1)}


def is_integer(given: object) -> bool:
    """Whether it is a whole number of any integer type; True and False are not."""
    return isinstance(given, Integral) and not isinstance(given, bool)


def refuse(given: object, field: str, remedy: str) -> InputError:
    """The error for an option that cannot be used as given."""
    return InputError(f"{field} is {reprlib.repr(given)}: {remedy}")


def parse_count(given: Any, field: str, *, least: int = 1) -> int:
    """An integer of at least `least`, as a number or as text; raises InputError.

    >>> parse_count("12", "max_tokens")
    12
    """
    number: int | None = None
    if is_integer(given) or (isinstance(given, str) and re.fullmatch(r"\s*[+-]?\d+\s*", given)):
        number = int(given)
    if number is None or number < least:
        raise refuse(given, field, f"give a whole number, {least} or more")
    return number


def parse_bytes(given: Any, field: str) -> int:
    """`6GB`, `512MiB`, `1000`, 1000 -> bytes, at least one; raises InputError.

    >>> parse_bytes("1.5kB", "memory")
    1500
    """
    size = int(given) if is_integer(given) else 0
    if isinstance(given, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", given.strip().upper())
        size = 0 if match is None else int(float(match.group(1)) * SIZES[match.group(2) or ""])
    if size < 1:
        raise refuse(given, field, "it is no size of memory: write 6GB, 512MiB or a number of bytes")
    return size


def parse_shards(given: Any, field: str = "shards") -> int | None:
    """`4`, 4 -> 4; `auto`, None -> None, as few as fit; raises InputError."""
    if given is None or (isinstance(given, str) and given.strip().lower() == "auto"):
        return None
    try:
        return parse_count(given, field)
    except InputError as error:
        raise refuse(given, field, "it is no number of shards: write 1, 4, or auto") from error


def parse_choice(given: Any, field: str, choices: Sequence[str]) -> str:
    """One of some words; raises InputError.

    >>> parse_choice("factors", "keep", ["statistics", "factors"])
    'factors'
    """
    if not (isinstance(given, str) and given in choices):
        raise refuse(given, field, f"choose one of {', '.join(choices)}")
    return given


def parse_flag(given: Any, field: str) -> bool:
    """True or False; raises InputError."""
    if not isinstance(given, bool):
        raise refuse(given, field, "give True or False")
    return given
