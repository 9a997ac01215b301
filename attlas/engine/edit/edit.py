"""An edit: which weights of the running model are changed, and how. A value; light, needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from attlas.engine.edit.places import Places, parse_places
from attlas.engine.passage.selection import Selection, parse_selection
from attlas.errors import InputError
from attlas.parse import is_integer, parse_choice, parse_count, parse_fraction, parse_seed, refuse, shown

__all__ = ["ACTIONS", "Edit", "parse_edits"]

ACTIONS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "knock_out": (frozenset(), frozenset({"renormalise"})),
    "zero": (frozenset(), frozenset()),
    "scale": (frozenset({"factor"}), frozenset()),
    "uniform": (frozenset(), frozenset()),
    "temperature": (frozenset({"temperature"}), frozenset()),
    "noise": (frozenset({"size"}), frozenset({"on", "seed"})),
    "drop_top": (frozenset(), frozenset({"top", "share", "renormalise"})),
    "drop_random": (frozenset(), frozenset({"top", "share", "renormalise", "seed", "match"})),
    "swap": (frozenset({"other"}), frozenset()),
    "set": (frozenset({"values"}), frozenset()),
    "patch": (frozenset({"values"}), frozenset()),
    "mean": (frozenset(), frozenset({"values"})),
}
"""What may be done -> the parameters it needs, and those it may have."""
OF_A_HEAD = ("temperature", "uniform", "swap", "patch", "mean")
"""Whole rows: these have no keys."""
RENORMALISE = ("rest", "scores", "none")
KINDS = ("self", "encoder", "decoder", "cross")
MOST_OFFSETS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit:
    """A change of some attention weights, made inside the model while it runs.

    >>> edit = attlas.Edit(do="knock_out", layer=1, head=0, query="10:", key="first")
    >>> attlas.Edit.from_json(edit.to_json()).to_json() == edit.to_json()
    True

    Where: kind (of an encoder-decoder), layer, head (the model's indices, as `parse_selection` reads them), query, key
    (positions in the document; {"tokens": ["Paris"]}; or "special", "not_special", "first", "not_first"), offset (key
    less query: 0 the token itself, -1 the one before). None: everywhere. What, `do`:

    - "knock_out": weights become 0. renormalise: "rest" (default) scales what is left of a row to the sum it had;
      "scores" takes the keys out of the softmax, which differs where a sink logit takes part; "none" leaves the rest
      alone. A row with nothing left gives 0.
    - "zero": all become 0, the rest of the row stays; without keys, the head's output. "scale": times `factor`.
    - "uniform": a row's weight spread evenly over the keys that it sees. "temperature": scores, sinks too, divided by
      `temperature`.
    - "noise": normal, of standard deviation `size`, added `on` "scores" (default) or "weights", there never below 0 and
      the row's sum kept; the same by `seed`, layer, head, query and key, however the text is cut.
    - "drop_top": the `top` largest of a row, or the largest `share` of those it sees, become 0. "drop_random", in
      random order by `seed`: with match "mass" (default) as much weight as "drop_top" would drop, the last one in
      part; with "count" as many weights. renormalise as above, but for "scores" of "drop_random".
    - "swap": the head's weights are those of the head `other`, and the other way round.
    - "set": `values` (layers, heads, queries, keys), as many as are chosen, or of length 1 to be used for all.
    - "patch": the head's output becomes `values` (layers, heads, queries, features). "mean": the same of every query,
      (layers, heads, 1, features), such as its mean over a corpus, see `experiments.mean_outputs`.

    Several edits are made in the order in which they are given. Raises InputError for what has no meaning.
    """

    do: str
    kind: str | None = None
    layer: Any = None
    head: Any = None
    query: Any = None
    key: Any = None
    offset: Any = None
    factor: float | None = None
    temperature: float | None = None
    size: float | None = None
    on: str | None = None
    seed: int | None = None
    top: int | None = None
    share: float | None = None
    renormalise: str | None = None
    match: str | None = None
    other: int | None = None
    values: Any = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "do", parse_choice(self.do, "do", tuple(ACTIONS)))
        needs, may = ACTIONS[self.do]
        given = {name for name in _parameters() if getattr(self, name) is not None}
        for name in sorted(needs - given):
            raise InputError(f"an edit that does {self.do} needs {name}")
        for name in sorted(given - needs - may):
            also = ", ".join(sorted(needs | may)) or "no parameter"
            raise InputError(f"an edit that does {self.do} takes no {name}: it takes {also}")
        if self.kind is not None:
            put(self, "kind", parse_choice(self.kind, "kind", KINDS))
        for name in ("layer", "head"):
            if getattr(self, name) is not None:
                put(self, name, parse_selection(getattr(self, name), name, random=False))
        put(self, "query", parse_places(self.query, "query"))
        put(self, "key", parse_places(self.key, "key"))
        put(self, "offset", _parse_offsets(self.offset))
        if self.do in OF_A_HEAD and (self.key is not None or self.offset is not None):
            raise InputError(f"an edit that does {self.do} is of whole rows: leave key and offset out")
        self._parse_parameters()

    def _parse_parameters(self) -> None:
        put, do = object.__setattr__, self.do
        for name, low in (("factor", None), ("temperature", 0.0), ("size", 0.0)):
            value = getattr(self, name)
            if value is not None:
                put(self, name, _parse_number(value, name, low))
        if do == "noise":
            put(self, "on", parse_choice("scores" if self.on is None else self.on, "on", ("scores", "weights")))
        if do in ("noise", "drop_random"):
            put(self, "seed", parse_seed(0 if self.seed is None else self.seed))
        if do in ("knock_out", "drop_top", "drop_random"):
            given = "rest" if self.renormalise is None else self.renormalise
            forms = tuple(one for one in RENORMALISE if one != "scores" or do != "drop_random")
            put(self, "renormalise", parse_choice(given, "renormalise", forms))
        if do in ("drop_top", "drop_random"):
            if (self.top is None) == (self.share is None):
                raise InputError(f"an edit that does {do} needs one of top=1 and share=0.1")
            put(self, "top", None if self.top is None else parse_count(self.top, "top"))
            put(self, "share", None if self.share is None else parse_fraction(self.share, "share"))
        if do == "drop_random":
            given = "mass" if self.match is None else self.match
            put(self, "match", parse_choice(given, "match", ("mass", "count")))
        if do == "swap":
            if self.head is None or self.head.spec.count(",") or ":" in self.head.spec:
                raise InputError("an edit that does swap is of one head: give head=2, other=5")
            put(self, "other", parse_count(self.other, "other", least=0))
        if self.values is not None:
            put(self, "values", _parse_values(self.values))
            if do == "mean" and self.values.shape[2] != 1:
                raise refuse(self.values.shape, "values' shape", "give (layers, heads, 1, features), one mean a head")

    def to_json(self) -> str:
        """The edit as one line of JSON, from which `from_json` makes it again; values as nested lists."""
        told: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, Selection):
                value = value.spec
            elif isinstance(value, Places):
                value = value.to_json()
            elif isinstance(value, np.ndarray):
                value = value.tolist()
            told[field.name] = list(value) if isinstance(value, tuple) else value
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> Edit:
        """Raises InputError where the text is no edit."""
        try:
            given = json.loads(text)
        except (TypeError, ValueError) as error:
            raise refuse(text, "an edit", 'give JSON, such as {"do": "zero", "layer": 3, "head": 5}') from error
        return _of_mapping(given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __str__(self) -> str:
        """`knock_out of layer 1, head 0, query 10:, key first`."""
        where = []
        for name in ("kind", "layer", "head", "query", "key", "offset"):
            value = getattr(self, name)
            if value is not None:
                text = value.to_json() if isinstance(value, Places) else value
                where.append(f"{name} {','.join(map(str, text)) if isinstance(text, tuple) else text}")
        what = [
            f"{name}={getattr(self, name)}" for name in _parameters()
            if name != "values" and getattr(self, name) is not None
        ]  # fmt: skip
        return " ".join([self.do, *what]) + " of " + (", ".join(where) or "every weight")


def parse_edits(given: Any) -> tuple[Edit, ...]:
    """One edit or several: values, mappings, or JSON of one or a list. Raises InputError."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise refuse(given, "edits", 'give JSON, such as {"do": "zero", "layer": 3, "head": 5}') from error
    if isinstance(given, Edit | Mapping):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise refuse(given, "edits", "give attlas.Edit values, or a list of them")
    return tuple(one if isinstance(one, Edit) else _of_mapping(one) for one in given)


def _of_mapping(given: Any) -> Edit:
    if not isinstance(given, Mapping):
        raise refuse(given, "an edit", 'give a mapping, such as {"do": "zero", "layer": 3, "head": 5}')
    known = {field.name for field in fields(Edit)}
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InputError(f"an edit has no {shown(unknown)}: it has {', '.join(sorted(known))}")
    if "do" not in given:
        raise InputError(f"an edit says what it does: give do, one of {', '.join(ACTIONS)}")
    return Edit(**given)


def _parameters() -> tuple[str, ...]:
    where = {"do", "kind", "layer", "head", "query", "key", "offset"}
    return tuple(field.name for field in fields(Edit) if field.name not in where)


def _parse_offsets(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    several = [given] if is_integer(given) else given[:MOST_OFFSETS] if isinstance(given, Sequence) else given
    if (
        not isinstance(several, Sequence)
        or isinstance(several, str)
        or not all(map(is_integer, several))
        or not several
    ):
        raise refuse(given, "offset", "give whole numbers, key less query: -1 for the token before")
    return tuple(sorted({int(one) for one in several}))


def _parse_number(given: Any, field: str, low: float | None) -> float:
    good = isinstance(given, int | float | np.number) and not isinstance(given, bool) and np.isfinite(given)
    if not good or (low is not None and given <= low):
        raise refuse(given, field, "give a number" + ("" if low is None else " above 0"))
    return float(given)


def _parse_values(given: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    try:
        values = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise refuse(given, "values", "give an array of numbers, of four dimensions") from error
    if values.ndim != 4 or 0 in values.shape or not np.isfinite(values).all():
        raise refuse(values.shape, "values' shape", "give finite numbers (layers, heads, queries, keys or features)")
    return values
