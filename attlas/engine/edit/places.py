"""Which queries or keys of a document an edit is of: positions, tokens by their text, or a named property."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.engine.passage.selection import Selection, parse_selection
from attlas.errors import InputError
from attlas.parse import parse_names, refuse

__all__ = ["PROPERTIES", "Places", "TokenText", "parse_places"]

Indices = NDArray[np.int64]
TokenText = Callable[[Sequence[int]], Sequence[str]]
"""Token ids -> the text of each."""

PROPERTIES = ("special", "not_special", "first", "not_first")
"""Of a token: a special token of the tokenizer, the document's first, and the opposites."""

FORMS = 'give positions (7, "10:20", "last:16"), {"tokens": ["Paris"]}, or one of ' + ", ".join(PROPERTIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Places in a document, by one of the three.

    positions: as `parse_selection` reads them. tokens: texts, each of one token, whatever spaces are around it.
    property: one of PROPERTIES.
    """

    positions: Selection | None = None
    tokens: tuple[str, ...] = ()
    property: str = ""

    def to_json(self) -> Any:
        if self.positions is not None:
            return self.positions.spec
        return {"tokens": list(self.tokens)} if self.tokens else self.property

    def within(
        self, document: str, ids_T: Indices, special_T: NDArray[np.bool_], text: TokenText | None
    ) -> NDArray[np.bool_]:
        """Which tokens (T,) of a whole document these are; raises InputError where the positions are not there."""
        inside_T = np.zeros(len(ids_T), dtype=bool)
        if self.positions is not None:
            inside_T[list(self.positions.choose(range(len(ids_T)), "token", f"document {document!r}"))] = True
        elif self.tokens:
            if text is None:
                raise InputError(
                    f"tokens {', '.join(self.tokens)} cannot be looked up without a tokenizer: give positions"
                )
            known, place_T = np.unique(ids_T, return_inverse=True)
            texts = [one.strip() for one in text(known.tolist())]
            inside_T = np.array([one in self.tokens for one in texts], dtype=bool)[place_T]
        elif self.property in ("special", "not_special"):
            inside_T = special_T == (self.property == "special")
        else:
            inside_T[:1] = True
            inside_T = inside_T if self.property == "first" else ~inside_T
        return inside_T


def parse_places(given: Any, field: str) -> Places | None:
    """Read where an edit holds; None for everywhere. Raises InputError."""
    if given is None or isinstance(given, Places):
        return given
    if isinstance(given, str) and given in PROPERTIES:
        return Places(property=given)
    if isinstance(given, Mapping):
        if set(given) != {"tokens"}:
            raise refuse(dict(given), field, FORMS)
        texts = tuple(one.strip() for one in parse_names(given["tokens"], f"{field}'s tokens"))
        if not all(texts):
            raise refuse(dict(given), field, "a text of spaces alone names no token: give its positions")
        return Places(tokens=texts)
    try:
        return Places(positions=parse_selection(given, field, random=False))
    except InputError as error:
        raise refuse(given, field, FORMS) from error
