"""What people write to choose: query rows, heads, sizes of memory. Values and pure functions; needs no torch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["QuerySelection", "choose_indices", "describe_indices", "parse_bytes", "parse_queries"]

Indices = NDArray[np.int64]

SIZES = {"": 1} | {f"{unit}": 1000**power for power, unit in enumerate("KMGT", 1)}
SIZES |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGT", 1)}
FORMS = "write ranges (7, 10:20, :50, -16:), last:512, stride:16 or random:1000, with commas between"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySelection:
    """Query rows to keep of every document, by a text that `parse_queries` has checked; `seed` is for `random:`."""

    spec: str
    seed: int = 0

    def places(self, document: str, length: int) -> Indices:
        """Places of the kept rows in a document of `length` tokens, ascending, each once.

        `random:` draws by the seed and the document's id alone: neither the order of documents nor packs matter.
        Raises InputError where the document has none of them.
        """
        chosen = [_part(part)(document, length, self.seed) for part in self.spec.split(",")]
        places = np.unique(np.concatenate(chosen)).astype(np.int64)
        if places.size == 0:
            raise InputError(
                f"document {document!r} has {length} tokens and none of the queries {self.spec}: "
                "choose others, or leave the document out"
            )
        return places


def parse_queries(spec: str | Sequence[int], seed: int = 0) -> QuerySelection:
    """Read a selection of query rows: ranges as in Python, `last:n`, `stride:n`, `random:n`, joined by commas.

    >>> parse_queries("0:4,last:2").places("doc-0", 10)
    array([0, 1, 2, 3, 8, 9])

    Numbers alone may be given as a sequence. Raises InputError where the text has another form.
    """
    text = spec if isinstance(spec, str) else ",".join(str(int(place)) for place in spec)
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        _part(part)
    return QuerySelection(spec=",".join(parts), seed=seed)


def parse_bytes(text: str) -> int:
    """`6GB`, `512MiB`, `1000` -> bytes; raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None:
        raise InputError(f"{text!r} is no size of memory: write 6GB, 512MiB or a number of bytes")
    number, unit = match.groups()
    return int(float(number) * SIZES[unit or ""])


def choose_indices(have: Sequence[int], wanted: Sequence[int], what: str) -> tuple[int, ...]:
    """The wanted ones of `have`, in their order there; negative ones count from the end. Raises InputError."""
    if not wanted:
        raise InputError(f"no {what} is chosen: leave the choice out to keep all")
    chosen = set()
    for index in wanted:
        found = index if index >= 0 else (have[index] if -len(have) <= index else None)
        if found not in have:
            raise InputError(f"there is no {what} {index}: the model has {describe_indices(have)}")
        chosen.add(found)
    return tuple(index for index in have if index in chosen)


def describe_indices(have: Sequence[int]) -> str:
    """`0 to 11`, or `0, 3, 7`."""
    if list(have) == list(range(have[0], have[-1] + 1)):
        return f"{have[0]} to {have[-1]}"
    return ", ".join(map(str, have))


Choice = Callable[[str, int, int], Indices]


def _part(part: str) -> Choice:
    """One part of a selection as a function of document id, length and seed."""
    word, _, count = part.partition(":")
    if word in {"last", "stride", "random"}:
        if not re.fullmatch(r"[1-9]\d*", count):
            raise InputError(f"{part!r} is no choice of queries: {word}: wants a number from 1; {FORMS}")
        return {"last": _last, "stride": _stride, "random": _random}[word](int(count))
    try:
        numbers = [int(number) if number.strip() else None for number in part.split(":")]
    except ValueError as error:
        raise InputError(f"{part!r} is no choice of queries: {FORMS}") from error
    if len(numbers) == 1 and numbers[0] is not None:
        place = numbers[0]
        numbers = [place, place + 1 or None]
    if not 2 <= len(numbers) <= 3 or numbers[2:] == [0]:
        raise InputError(f"{part!r} is no choice of queries: {FORMS}")
    return lambda _document, length, _seed: np.arange(length)[slice(*numbers)]


def _last(count: int) -> Choice:
    return lambda _document, length, _seed: np.arange(max(0, length - count), length)


def _stride(step: int) -> Choice:
    return lambda _document, length, _seed: np.arange(0, length, step)


def _random(count: int) -> Choice:
    def draw(document: str, length: int, seed: int) -> Indices:
        generator = np.random.default_rng([seed, zlib.crc32(document.encode())])
        return generator.choice(length, min(count, length), replace=False)

    return draw
