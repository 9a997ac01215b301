"""What people give, read into values: one function for each sort of option, for Python and the command line alike.

Each takes the option's name, for its error: found, expected, remedy. Light: imports nothing heavy.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from attlas.errors import InputError
from attlas.readable import escaped

__all__ = [
    "FIGURE_ENDINGS",
    "LARGEST",
    "TABLE_ENDINGS",
    "is_integer",
    "parse_bytes",
    "parse_callback",
    "parse_choice",
    "parse_count",
    "parse_flag",
    "parse_folder",
    "parse_fraction",
    "parse_instance",
    "parse_mapping",
    "parse_names",
    "parse_numbers",
    "parse_output",
    "parse_path",
    "parse_sample",
    "parse_seed",
    "parse_share",
    "parse_shards",
    "parse_word",
    "parse_workers",
    "refuse",
    "shown",
]

T = TypeVar("T")

LARGEST = 2**63 - 1
"""The largest number that a store has a place for."""
FIGURE_ENDINGS = (".png", ".pdf", ".svg")
TABLE_ENDINGS = (".csv", ".json", ".parquet")
LONGEST_NAME = 255
"""Bytes of a file's name, on the file systems there are."""
LONGEST_PATH = 4095
"""Bytes of a whole path."""

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
    return escaped(" ".join(reprlib.repr(given).split()))


def refuse(given: object, field: str, remedy: str) -> InputError:
    """The error for an option that cannot be used as given."""
    return InputError(f"{field} is {shown(given)}: {remedy}")


def parse_count(given: Any, field: str, *, least: int = 1, most: int = LARGEST) -> int:
    """An integer from `least` to `most`, as a number or as text; raises InputError.

    >>> parse_count("12", "max_tokens")
    12
    """
    number: int | None = None
    if is_integer(given) or (isinstance(given, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", given)):
        number = int(given)
    if number is None or not least <= number <= most:
        limit = "" if most == LARGEST and (number is None or number < least) else f" and at most {most:,}"
        raise refuse(given, field, f"give a whole number, {least} or more{limit}")
    return number


def parse_seed(given: Any, field: str = "seed") -> int:
    """A seed that every generator of random numbers takes: 0 to 2^32 - 1; raises InputError."""
    return parse_count(given, field, least=0, most=2**32 - 1)


def parse_workers(given: Any, field: str = "workers") -> int:
    """Threads or processes at work, 1 to 1,024: more would be started before anything is known of the machine."""
    return parse_count(given, field, most=1024)


def parse_bytes(given: Any, field: str) -> int:
    """`6GB`, `512MiB`, `1000`, 1000 -> bytes, at least one; raises InputError.

    >>> parse_bytes("1.5kB", "memory")
    1500
    """
    size = int(given) if is_integer(given) else 0
    if isinstance(given, str):
        match = re.fullmatch(r"([0-9]{1,19}(?:\.[0-9]{1,19})?)\s*([KMGT]I?)?B?", given.strip().upper())
        size = 0 if match is None else int(float(match.group(1)) * SIZES[match.group(2) or ""])
    if not 1 <= size <= LARGEST:
        raise refuse(given, field, "it is no size of memory: write 6GB, 512MiB or a number of bytes")
    return size


def parse_shards(given: Any, field: str = "shards") -> int | None:
    """`4`, 4 -> 4; `auto`, None -> None, as few as fit; raises InputError."""
    if given is None or (isinstance(given, str) and given.strip().lower() == "auto"):
        return None
    try:
        return parse_workers(given, field)
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
    numbers = list(given) if several and not isinstance(given, str | bytes | range) else []
    good = [isinstance(one, Real) and not isinstance(one, bool) and low < float(one) <= high for one in numbers]
    if not numbers or not all(good):
        raise refuse(given, field, f"give numbers above {low:g} and up to {high:g} in a list, such as [0.5, 0.9]")
    return tuple(float(one) for one in numbers)


def parse_sample(given: Any, field: str, rows: Callable[[], int], *, least: int = 4) -> int | None:
    """`2000`, "2000", or "5%" of what `rows` tells, as a number of rows; None for all. Raises InputError.

    >>> parse_sample("5%", "sample", lambda: 1000), parse_sample(60, "sample", lambda: 1000)
    (50, 60)
    """
    if given is None:
        return None
    if isinstance(given, str):
        match = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%\s*", given)
        if match is not None and 0 < float(match.group(1)) <= 100:
            return max(least, round(float(match.group(1)) / 100 * rows()))
    try:
        return parse_count(given, field, least=least)
    except InputError as error:
        raise refuse(
            given, field, f"give a number of rows, {least} or more, a share such as 5%, or none for all"
        ) from error


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
    """One name, or some in a sequence or array; raises InputError.

    >>> parse_names("entropy", "names"), parse_names(["entropy", "gini"], "names")
    (('entropy',), ('entropy', 'gini'))
    """
    if isinstance(given, str):
        given = (given,)
    if hasattr(given, "tolist") and not hasattr(given, "detach"):  # an array; a tensor holds no names
        given = given.tolist()
    several = isinstance(given, Sequence) and not isinstance(given, bytes | range)
    if not several or not given or not all(isinstance(one, str) and one for one in given):
        raise refuse(given, field, 'give a name, or names in a list, such as ["entropy"]')
    return tuple(given)


def parse_word(given: Any, field: str, remedy: str) -> str:
    """A str with something in it, of characters that exist; `remedy` says what it is for. Raises InputError."""
    if not (isinstance(given, str) and given.strip() and _encodes(given, str.encode)) or "\0" in given:
        raise refuse(given, field, remedy)
    return given


def parse_path(given: Any, field: str, remedy: str) -> Path:
    """A path that a file system can have, from a str or a Path; raises InputError.

    >>> parse_path("a/b.csv", "path", "give a file's name")
    PosixPath('a/b.csv')
    """
    if not isinstance(given, str | Path) or not str(given).strip():
        raise refuse(given, field, remedy)
    text = str(given)
    if "\0" in text or not _encodes(text, os.fsencode):
        raise refuse(text, field, f"no file has such a name, {remedy}")
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts):
        raise refuse(text, field, f"no file has so long a name, {remedy}")
    return Path(text)


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


def parse_output(given: Any, field: str, endings: Sequence[str] = ()) -> Path:
    """A file to be written, in a folder that is there; raises InputError. endings: one of which its name has.

    >>> parse_output("heads.csv", "path", [".csv", ".json"]).name
    'heads.csv'
    """
    named = " or ".join([", ".join(endings[:-1]), endings[-1]]) if len(endings) > 1 else "".join(endings)
    path = parse_path(given, field, f"give a file's name{f', which ends in {named}' if endings else ''}")
    if endings and path.suffix not in endings:
        raise refuse(str(path), field, f"give a file's name that ends in {named}")
    if not path.parent.is_dir():
        raise refuse(str(path), field, f"there is no folder {path.parent}: make it, or choose another")
    if path.is_dir():
        raise refuse(str(path), field, "it is a folder: give a file's name")
    return path


def parse_folder(given: Any, field: str) -> Path:
    """A folder that is there, to write in; raises InputError.

    >>> parse_folder("/proc/nowhere", "folder")
    Traceback (most recent call last):
        ...
    attlas.errors.InputError: folder is '/proc/nowhere': there is no such folder: make it, or choose another
    """
    path = parse_path(given, field, "give a folder's name")
    if not path.is_dir():
        raise refuse(str(path), field, "there is no such folder: make it, or choose another")
    return path


def _encodes(text: str, encode: Callable[[str], bytes]) -> bool:
    """Whether it has no half of a surrogate pair; in a file's name one stands for a byte that is not UTF-8."""
    try:
        encode(text)
    except UnicodeEncodeError:
        return False
    return True
