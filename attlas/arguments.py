"""What a public function is given, checked: each says what it found, what it expected, and what to write. Light."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

from attlas.errors import InputError

__all__ = [
    "found",
    "parse_callback",
    "parse_instance",
    "parse_mapping",
    "parse_names",
    "parse_share",
    "parse_whole",
]

T = TypeVar("T")
SHOWN = 60


def found(value: object) -> str:
    """A value in a few words, on one line.

    >>> found([1.5]), found(None), found("x" * 100)
    ('the list [1.5]', 'None', "the str 'xxx...")
    """
    if value is None:
        return "None"
    text = " ".join(repr(value).split())
    return f"the {type(value).__name__} {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"


def parse_whole(name: str, value: object, *, least: int = 0) -> int:
    """A whole number of at least `least`; numpy's too, but no bool, and no float."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {found(value)}: give a whole number from {least}")
    return int(value)


def parse_share(name: str, value: object) -> float:
    """A number above 0 and below 1."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < 1:
        raise InputError(f"{name} is {found(value)}: give a number between 0 and 1, such as 0.3")
    return float(value)


def parse_names(name: str, value: object) -> tuple[str, ...]:
    """A sequence of str, which one str alone is not."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise InputError(f'{name} is {found(value)}: give names in a list, such as ["entropy"]')
    return tuple(value)


def parse_callback(name: str, value: object) -> Callable[..., Any] | None:
    """A function, or None."""
    if value is not None and not callable(value):
        raise InputError(f"{name} is {found(value)}: give a function, or leave it out")
    return value


def parse_mapping(name: str, value: object) -> Mapping[str, Any] | None:
    """A mapping by names, or None."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f'{name} is {found(value)}: give a dict, such as {{"endpoint_url": ...}}')
    return value


def parse_instance(name: str, value: object, kind: type[T], remedy: str) -> T:
    """A value of a class; `remedy` says where one comes from."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {found(value)}: {remedy}")
    return value
