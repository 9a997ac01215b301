"""What people give, read into values: one function for each sort of option, for Python and the command line alike.

Each takes the option's name, for its error: found, expected, remedy. Light: imports nothing heavy.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

from attlas.errors import InputError

__all__ = [
    "is_integer",
    "parse_bytes",
    "parse_callback",
    "parse_choice",
    "parse_count",
    "parse_flag",
    "parse_fraction",
    "parse_instance",
    "parse_mapping",
    "parse_names",
    "parse_numbers",
    "parse_share",
    "parse_shards",
    "refuse",
    "shown",
]

T = TypeVar("T")

SIZES = {"": 1} | {f"{unit}": 1000**power for power, unit in enumerate("KMGT", 1)}
SIZES |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGT", 1)}


def is_integer(given: object) -> bool:
    """Whether it is a whole number of any integer type; True and False are not."""
    return isinstance(given, Integral) and not isinstance(given, bool)


def shown(given: object) -> str:
    """A value in a few words, on one line.

    >>> shown("x" * 100), shown([1.5])
    ("'xxxxxxxxxxxx...xxxxxxxxxxxxx'", '[1.5]')
    """
    return " ".join(reprlib.repr(given).split())


def refuse(given: object, field: str, remedy: str) -> InputError:
    """The error for an option that cannot be used as given."""
    return InputError(f"{field} is {shown(given)}: {remedy}")


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


def parse_numbers(given: Any, field: str, *, low: float = 0.0, high: float = 1.0) -> tuple[float, ...]:
    """Numbers above `low` and up to `high`, in a sequence or array; raises InputError.

    >>> parse_numbers([0.5, 0.9], "levels")
    (0.5, 0.9)
    """
    several = isinstance(given, Sequence) or (hasattr(given, "__array__") and getattr(given, "ndim", 0) == 1)
    numbers = list(given) if several and not isinstance(given, str | bytes) else []
    good = [isinstance(one, Real) and not isinstance(one, bool) and low < float(one) <= high for one in numbers]
    if not numbers or not all(good):
        raise refuse(given, field, f"give numbers above {low:g} and up to {high:g} in a list, such as [0.5, 0.9]")
    return tuple(float(one) for one in numbers)


def parse_share(given: Any, field: str) -> float:
    """A number above 0 and below 1; raises InputError."""
    if not isinstance(given, Real) or isinstance(given, bool) or not 0 < float(given) < 1:
        raise refuse(given, field, "give a share between 0 and 1")
    return float(given)


def parse_fraction(given: Any, field: str) -> float:
    """A number from 0 to 1, both of them too; raises InputError."""
    if not isinstance(given, Real) or isinstance(given, bool) or not 0 <= float(given) <= 1:
        raise refuse(given, field, "give a number from 0 to 1")
    return float(given)


def parse_names(given: Any, field: str) -> tuple[str, ...]:
    """A sequence of str, which one str alone is not; raises InputError."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise refuse(given, field, 'give names in a list, such as ["entropy"]')
    return tuple(given)


def parse_callback(given: Any, field: str) -> Callable[..., Any] | None:
    """A function, or None; raises InputError."""
    if given is not None and not callable(given):
        raise refuse(given, field, "give a function, or leave it out")
    return given


def parse_mapping(given: Any, field: str) -> Mapping[str, Any] | None:
    """A mapping by names, or None; raises InputError."""
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
        raise refuse(given, field, 'give a dict, such as {"endpoint_url": ...}')
    return given


def parse_instance(given: Any, field: str, kind: type[T], remedy: str) -> T:
    """A value of a class; `remedy` says where one comes from. Raises InputError."""
    if not isinstance(given, kind):
        raise refuse(given, field, remedy)
    return given
