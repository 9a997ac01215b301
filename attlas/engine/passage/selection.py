"""What people write to choose layers, heads, query rows: one grammar. Values and pure functions; needs no torch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError
from attlas.parse import is_integer, refuse, shown

__all__ = ["Selection", "describe_indices", "parse_selection"]

Indices = NDArray[np.int64]

FORMS = "write ranges (7, 10:20, :50, -16:), last:512, stride:16 or random:1000, with commas between"
FORMS_OF_INDICES = "write ranges (7, 4:8, :2, -1), last:4 or stride:2, with commas between"
DESCRIBED_MOST = 8
MOST_ITEMS = 1_000_000
"""Of a sequence; a slice may be as long as it likes."""
DIGITS = "[0-9]{1,18}"
"""Of a number, such that a store has a place for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Some of a row of things, by a text that `parse_selection` has checked.

    >>> parse_selection("0:4,last:2", "queries").places("doc-0", 10)
    array([0, 1, 2, 3, 8, 9])
    """

    spec: str

    def __str__(self) -> str:
        return self.spec

    def places(self, document: str, length: int, *, seed: int = 0) -> Indices:
        """Places of the chosen rows in a document of `length` tokens, ascending, each once.

        `random:` draws by the seed and the document's id alone: neither the order of documents nor packs matter.
        Raises InputError where the document has none of them.
        """
        chosen = [_read(part).places(document, length, seed) for part in self.spec.split(",")]
        places = np.unique(np.concatenate(chosen)).astype(np.int64)
        if places.size == 0:
            raise InputError(
                f"document {document!r} has {length} tokens and none of the queries {self.spec}: "
                "choose others, or leave the document out"
            )
        return places

    def parts_of(self, have: Sequence[int]) -> dict[str, set[int]]:
        """part -> which of the labels `have`, ascending, it chooses; of 0, 1, 2, ... the same as of places.

        A number is a label, a negative one counts from the end; a range takes the labels in it.
        """
        return {part: _read(part).labels(have) for part in self.spec.split(",")}

    def choose(self, have: Sequence[int], what: str, owner: str = "the model") -> tuple[int, ...]:
        """The chosen labels, in the order of `have`; raises InputError where a part chooses none."""
        parts = self.parts_of(have)
        empty = next((part for part, chosen in parts.items() if not chosen), None)
        if empty is not None:
            nothing = f"no {what} is in {empty}" if ":" in empty else f"there is no {what} {empty}"
            raise InputError(f"{nothing}: {owner} has {describe_indices(have)}")
        chosen = set[int]().union(*parts.values())
        return tuple(label for label in have if label in chosen)


def parse_selection(given: Any, field: str, *, random: bool = True) -> Selection:
    """Read a choice: ranges as in Python, `last:n`, `stride:n`, `random:n`, joined by commas.

    >>> parse_selection(slice(2, 5), "layers").spec
    '2:5'
    >>> parse_selection([0, -1], "layers").choose(range(12), "layer")
    (0, 11)

    given: such a text, an integer, a slice, a range, or a sequence or array of integers and slices; or a Selection.
    random: whether `random:` has a meaning here. Raises InputError where it has another form.
    """
    forms = FORMS if random else FORMS_OF_INDICES
    text = given.spec if isinstance(given, Selection) else _text(given)
    if text is None:
        raise refuse(given, field, forms)
    if not text and not isinstance(given, str):
        raise refuse(given, field, "nothing is chosen: leave it out to take all")
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        try:
            word = _read(part).word
        except InputError as error:
            raise InputError(f"{field}: {error}: {forms}") from error
        if word == "random" and not random:
            raise refuse(given, field, forms)
    return Selection(spec=",".join(parts))


def describe_indices(have: Sequence[int]) -> str:
    """`0 to 11`, or `0, 3, 7`."""
    if list(have) == list(range(have[0], have[-1] + 1)):
        return f"{have[0]} to {have[-1]}"
    shown = ", ".join(map(str, have[:DESCRIBED_MOST]))
    return shown + (f", ... {have[-1]} ({len(have)} in all)" if len(have) > DESCRIBED_MOST else "")


def _text(given: Any) -> str | None:
    """A choice as text, "" where it is empty; None where it is none."""
    if isinstance(given, str):
        return given
    if is_integer(given) or isinstance(given, slice):
        return _item(given)
    if isinstance(given, np.ndarray) and (given.ndim != 1 or given.dtype.kind not in "iu"):
        return None
    if isinstance(given, Collection) and not isinstance(given, bytes | bytearray | Mapping):
        if isinstance(given, Sequence) and len(given[:MOST_ITEMS]) == MOST_ITEMS:
            return None
        items = [_item(one) for one in given]
        return None if None in items else ",".join(item for item in items if item is not None)
    return None


def _item(given: object) -> str | None:
    if is_integer(given):
        return str(given)
    if isinstance(given, slice):
        bounds = [given.start, given.stop, *([] if given.step is None else [given.step])]
        if all(one is None or is_integer(one) for one in bounds):
            return ":".join("" if one is None else str(int(one)) for one in bounds)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One part of a choice. word: "range", "last", "stride" or "random". bounds: of a range. count: of the others."""

    word: str
    bounds: slice = field(default_factory=lambda: slice(None))
    count: int = 0

    def places(self, document: str, length: int, seed: int) -> Indices:
        if self.word == "last":
            return np.arange(max(0, length - self.count), length)
        if self.word == "stride":
            return np.arange(0, length, self.count)
        if self.word == "random":
            generator = np.random.default_rng([seed, zlib.crc32(document.encode())])
            return generator.choice(length, min(self.count, length), replace=False)
        return np.arange(length)[self.bounds]

    def labels(self, have: Sequence[int]) -> set[int]:
        if self.word != "range":
            return {have[place] for place in self.places("", len(have), 0)}
        start, stop, step = self.bounds.start, self.bounds.stop, self.bounds.step
        if step is not None and step < 0:
            return {have[place] for place in self.places("", len(have), 0)}

        def label(bound: int) -> int:
            """A bound counted from the end, as the label that lies there."""
            return bound if bound >= 0 else (have[bound] if bound >= -len(have) else 0)

        low = 0 if start is None else label(start)
        high = have[-1] + 1 if stop is None else label(stop)
        chosen = range(low, high, step or 1)
        return {one for one in have if one in chosen}


def _read(part: str) -> _Part:
    word, _, count = part.partition(":")
    if word in {"last", "stride", "random"}:
        if not re.fullmatch(DIGITS, count) or not int(count):
            raise InputError(f"{shown(part)} is no choice, {word}: wants a number from 1")
        return _Part(word=word, count=int(count))
    if not re.fullmatch(rf"[+-]?{DIGITS}|\s*([+-]?{DIGITS})?\s*(:\s*([+-]?{DIGITS})?\s*){{1,2}}", part):
        raise InputError(f"{shown(part)} is no choice")
    numbers = [int(number) if number.strip() else None for number in part.split(":")]
    if numbers[2:] == [0]:
        raise InputError(f"{part!r} is no choice, a step of 0 goes nowhere")
    if len(numbers) == 1 and numbers[0] is not None:
        numbers = [numbers[0], numbers[0] + 1 or None]
    start, stop, step = (*numbers, None)[:3]
    if start is not None and stop is not None and (start < 0) == (stop < 0) and (stop - start) * (step or 1) <= 0:
        raise InputError(f"{part!r} is no choice, there is nothing between its ends")
    return _Part(word="range", bounds=slice(start, stop, step))
