"""Commit records: which packs are captured, and how each went.

Committing a pack is one write of one small object of its own, the pack's chunk of `packs/commit`, last of all: it is
there whole or not at all, and two writers never write one object. Which packs are committed is told by the names of
those objects, in one listing. Once every pack is, the records are published as arrays of one chunk each, `packs/state`
last, which need no listing and are what xarray shows; nothing changes them afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from attlas.engine.passage.documents import Pack
from attlas.errors import CorruptAtlasError
from attlas.storage.array_spec import ArraySpec, column
from attlas.storage.digests import checked, digest_of, read_columns, read_parts

__all__ = ["COMMITTED", "FAILED", "PENDING", "PackRecord", "Records", "pack_arrays", "read_states"]

PENDING, COMMITTED, FAILED = 0, 1, 2
COMMIT, FAILURE, STATE, DIGESTS = "packs/commit", "packs/failure", "packs/state", "packs/digests"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRecord:
    """How a pack went. tile_bytes, chunk_tokens: with which it was run, 0 where that is not known, or a pack whole."""

    attempt: int
    error: str = ""
    seconds: float = 0.0
    bytes: int = 0
    tile_bytes: int = 0
    chunk_tokens: int = 0


NONE: Mapping[str, Any] = asdict(PackRecord(attempt=0))
"""What is told of a pack that has no record."""

PUBLISHED: Mapping[str, tuple[str, str, str]] = {
    "attempt": ("int32", "how often the pack was run", "1"),
    "error": ("str", "why the pack failed, empty where it did not", "1"),
    "seconds": ("float64", "time the capture of the pack took", "s"),
    "bytes": ("int64", "bytes handed to the store for the pack", "byte"),
    "tile_bytes": ("int64", "size of a score tile, smaller where memory ran out", "byte"),
    "chunk_tokens": ("int64", "most tokens in a forward pass, 0: whole packs", "token"),
}
"""Field of a record -> dtype, long name and units of its array."""
LATER = frozenset({STATE, DIGESTS, *(f"packs/{name}" for name in PUBLISHED)})
"""Arrays that are made empty, and filled once every pack is committed."""
assert list(PUBLISHED) == [field.name for field in fields(PackRecord)]


def pack_arrays(packs: Sequence[Pack]) -> Iterator[ArraySpec]:
    """What an atlas has in `packs/` but for the packs' token ranges; nothing is recorded yet."""
    count = len(packs)
    for path, what in ((COMMIT, "record of the pack, JSON, once it is committed"), (FAILURE, "and where it failed")):
        yield ArraySpec(
            path=path, dims=("pack",), shape=(count,), dtype="str", chunks=(1,), fill="",
            attributes={"long_name": what},
        )  # fmt: skip
    flags: dict[str, Any] = {"flag_values": [PENDING, COMMITTED, FAILED], "flag_meanings": "pending committed failed"}
    yield column(
        STATE, "pack", "int8", np.zeros(count), "told once all packs are committed, see packs/commit before", **flags
    )
    yield column(DIGESTS, "table", "str", [""], "JSON: digest of each of these records, once they are told")
    for name, (dtype, long_name, units) in PUBLISHED.items():
        empty = np.full(count, "", dtype=object) if dtype == "str" else np.zeros(count)
        yield column(f"packs/{name}", "pack", dtype, empty, long_name, **({} if dtype == "str" else {"units": units}))


def read_states(root: zarr.Group, published: NDArray[Any]) -> NDArray[np.int8]:
    """The state of every pack, by at most two listings. published: what `packs/state` holds."""
    if bool((published == COMMITTED).all()):
        return published
    states = np.zeros(len(published), dtype=np.int8)
    states[_recorded(root, FAILURE)] = FAILED
    states[_recorded(root, COMMIT)] = COMMITTED
    return states


class Records:
    """The commit records of an atlas, to be read and added to."""

    def __init__(self, root: zarr.Group) -> None:
        self.root = root

    def states(self) -> NDArray[np.int8]:
        return read_states(self.root, read_columns(self.root, {STATE: ...})[STATE])

    def commit(self, pack: int, record: PackRecord) -> None:
        self._put(COMMIT, pack, record)

    def fail(self, pack: int, record: PackRecord) -> None:
        self._put(FAILURE, pack, record)

    def sound(self) -> set[int]:
        """The packs that are committed, and whose record is the one that was written there."""
        found = read_columns(self.root, {STATE: ...})[STATE]
        if bool((found == COMMITTED).all()):
            return set(range(len(found)))
        places = [int(place) for place in np.flatnonzero(read_states(self.root, found) == COMMITTED)]
        return set(places) - set(self.damaged(places))

    def damaged(self, places: Sequence[int]) -> dict[int, str]:
        """Of committed packs, those whose record is not the one that was written there, with what is wrong.

        The records themselves are looked at, also where the arrays of a finished atlas tell the same.
        """
        wrong: dict[int, str] = {}
        with suppress(CorruptAtlasError):
            self._told(COMMIT, places)  # all at once, which most often is all
            return wrong
        for place in places:
            try:
                self._told(COMMIT, [place])
            except CorruptAtlasError as error:
                wrong[place] = str(error)
        return wrong

    def table(self) -> dict[str, NDArray[Any]]:
        """The state of every pack and every field of its record, one array each."""
        found = read_columns(self.root, dict.fromkeys([STATE, DIGESTS, *(f"packs/{name}" for name in PUBLISHED)], ...))
        states = read_states(self.root, found[STATE])
        digests = _parsed(DIGESTS, str(found[DIGESTS][0])) if str(found[DIGESTS][0]) else {}
        if not digests or not bool((found[STATE] == COMMITTED).all()):
            return {"state": states} | self._gathered(states)
        table = {name: np.asarray(found[f"packs/{name}"], dtype=_dtype(name)) for name in PUBLISHED}
        return {"state": states} | {
            name: checked(f"packs/{name}", values, str(digests.get(name))) for name, values in table.items()
        }

    def digest(self, packs: NDArray[np.bool_]) -> str:
        """Of the records of some packs, which change where one of them is captured again."""
        columns = [values[packs] for _, values in sorted(self.table().items())]
        return " ".join([digest_of(np.flatnonzero(packs)), *map(digest_of, columns)])

    def publish(self) -> None:
        """Write the records of a finished atlas as arrays, unless they are there; waits for packs still pending."""
        published = read_columns(self.root, {STATE: ...})[STATE]
        states = read_states(self.root, published)
        if bool((published == COMMITTED).all()) or not bool((states == COMMITTED).all()):
            return
        table = self._gathered(states)
        for name, values in table.items():
            self._array(f"packs/{name}")[...] = values
        digests = json.dumps({name: digest_of(values) for name, values in table.items()})
        self._array(DIGESTS)[...] = np.array([digests], dtype=object)
        self._array(STATE)[...] = states

    def _gathered(self, states: NDArray[np.int8]) -> dict[str, NDArray[Any]]:
        found: dict[int, dict[str, Any]] = {}
        for path, state in ((FAILURE, FAILED), (COMMIT, COMMITTED)):
            found |= self._told(path, [int(place) for place in np.flatnonzero(states == state)])
        return {
            name: np.array([found.get(pack, NONE)[name] for pack in range(len(states))], dtype=_dtype(name))
            for name in PUBLISHED
        }

    def _told(self, path: str, places: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The records of packs; raises CorruptAtlasError where one is not of this pack and this atlas."""
        found = {}
        texts = read_parts(self.root, {f"{place}": (path, slice(place, place + 1)) for place in places})
        for place, text in zip(places, texts.values(), strict=True):
            told = found[place] = _parsed(f"{path} of pack {place}", str(text[0]))
            if (told.get("pack"), told.get("atlas")) != (place, self._identity) or set(NONE) - set(told):
                raise CorruptAtlasError(
                    f"{path} of pack {place} is not the record that was written there: put the file back, or "
                    "capture the pack again"
                )
        return found

    @property
    def _identity(self) -> str:
        return str(self.root.attrs.get("identity", ""))

    def _put(self, path: str, pack: int, record: PackRecord) -> None:
        told = {"pack": pack, "atlas": self._identity} | asdict(record)
        self._array(path)[pack : pack + 1] = np.array([json.dumps(told)], dtype=object)

    def _array(self, path: str) -> zarr.Array[Any]:
        array = self.root[path]
        assert isinstance(array, zarr.Array)
        return array


def _recorded(root: zarr.Group, path: str) -> list[int]:
    """The packs that have a record in an array: the names of its chunks. What a killed write left has another name."""

    async def names() -> list[str]:
        return [name.rstrip("/") async for name in root.store.list_dir(f"{path}/c")]

    return [int(name) for name in sync(names()) if name.isdigit()]


def _dtype(field: str) -> Any:
    dtype = PUBLISHED[field][0]
    return object if dtype == "str" else dtype


def _parsed(what: str, text: str) -> dict[str, Any]:
    """A record from its JSON; raises CorruptAtlasError."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CorruptAtlasError(f"{what} is damaged: see attlas verify, and capture the pack again") from error
    if not isinstance(found, dict):
        raise CorruptAtlasError(f"{what} is damaged: see attlas verify, and capture the pack again")
    return found
