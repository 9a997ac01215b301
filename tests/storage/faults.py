"""Damage done to a store on purpose, seeded; and all that attlas tells of an atlas, as numbers to be compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from attlas import analysis
from attlas.storage import Atlas, open_atlas

__all__ = ["FAULTS", "Fault", "damaged", "readings", "snapshot", "store_of"]

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is done to a store. other: the second file of a swap or a copy. place: byte, or length kept."""

    what: str
    key: str
    other: str = ""
    place: int = 0


def snapshot(store: MemoryStore) -> Files:
    """Every file of a store in memory."""

    async def every() -> Files:
        keys = [key async for key in store.list()]
        found: Files = {}
        for key in keys:
            buffer = await store.get(key, default_buffer_prototype())
            assert buffer is not None
            found[key] = buffer.to_bytes()
        return found

    files: Files = sync(every())
    return files


def store_of(files: Mapping[str, bytes]) -> MemoryStore:
    """A store in memory that holds these files."""
    prototype = default_buffer_prototype()
    return MemoryStore({key: prototype.buffer.from_bytes(value) for key, value in files.items()})


def _flip(rng: np.random.Generator, files: Files, key: str) -> Fault:
    return Fault(what="flip", key=key, place=int(rng.integers(8 * len(files[key]))))


def _truncate(rng: np.random.Generator, files: Files, key: str) -> Fault:
    return Fault(what="truncate", key=key, place=int(rng.integers(len(files[key]))))


def _delete(_rng: np.random.Generator, _files: Files, key: str) -> Fault:
    return Fault(what="delete", key=key)


def _append(rng: np.random.Generator, _files: Files, key: str) -> Fault:
    return Fault(what="append", key=key, place=int(rng.integers(1, 100)))


def _folder(key: str) -> str:
    return key.rpartition("/c/")[0] if "/c/" in key else key.rpartition("/")[0]


def _others(files: Files, key: str, near: bool) -> list[str]:
    """Files to exchange with: of the same array, or of as many bytes anywhere, else any of the same name."""
    mine = [other for other in files if other != key and (_folder(other) == _folder(key)) == near]
    same = [other for other in mine if len(files[other]) == len(files[key])]
    return same or [other for other in mine if other.rpartition("/")[2] == key.rpartition("/")[2]] or mine


def _swap(near: bool) -> Callable[[np.random.Generator, Files, str], Fault | None]:
    def make(rng: np.random.Generator, files: Files, key: str) -> Fault | None:
        others = _others(files, key, near)
        return Fault(what="swap", key=key, other=others[int(rng.integers(len(others)))]) if others else None

    return make


def _copy(rng: np.random.Generator, files: Files, key: str) -> Fault | None:
    others = _others(files, key, bool(rng.integers(2)))
    return Fault(what="copy", key=key, other=others[int(rng.integers(len(others)))]) if others else None


FAULTS: dict[str, Callable[[np.random.Generator, Files, str], Fault | None]] = {
    "flip": _flip,
    "truncate": _truncate,
    "delete": _delete,
    "append": _append,
    "swap within": _swap(True),
    "swap between": _swap(False),
    "copy": _copy,
}


def damaged(files: Files, fault: Fault) -> Files:
    """The files after a fault."""
    changed = dict(files)
    value = bytearray(files[fault.key])
    if fault.what == "flip":
        value[fault.place // 8] ^= 1 << fault.place % 8
        changed[fault.key] = bytes(value)
    elif fault.what == "truncate":
        changed[fault.key] = bytes(value[: fault.place])
    elif fault.what == "append":
        changed[fault.key] = bytes(value) + bytes(range(fault.place))
    elif fault.what == "delete":
        del changed[fault.key]
    elif fault.what == "swap":
        changed[fault.key], changed[fault.other] = files[fault.other], files[fault.key]
    else:
        changed[fault.key] = files[fault.other]
    return changed


def readings(atlas: Atlas) -> dict[str, Any]:
    """Everything that attlas tells of an atlas: documents, packs, tokens, weights, row statistics, statistics."""
    found: dict[str, Any] = {"ids": list(atlas), "keep": atlas.keep, "model": str(atlas.model)}
    for table in ("documents", "packs"):
        columns = getattr(atlas, table).variables
        found |= {f"{table}/{column}": np.asarray(values.values) for column, values in columns.items()}
    for document in atlas:
        page = atlas[document]
        for name, variable in page.variables.items():
            found[f"{document}/{name!s}"] = np.asarray(variable.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = analysis.statistics(atlas, save=False, workers=1)
    for name, variable in answer.variables.items():
        found[f"statistics/{name!s}"] = np.asarray(variable.values)
    if atlas.keep != "statistics":
        document = next(iter(atlas))
        opened = xr.open_dataset(atlas.root.store, engine="attlas", document=document)  # type: ignore[arg-type]
        found["engine/attention"] = np.asarray(opened.attention.values)
    return found


def reopen(files: Mapping[str, bytes]) -> Atlas:
    return open_atlas(store_of(files))


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first reading that is not as expected; "" where all are."""
    if found.keys() != expected.keys():
        return f"readings {sorted(set(found) ^ set(expected))[:3]}"
    return next((name for name in expected if not _same(found[name], expected[name])), "")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype.kind == other.dtype.kind and _equal(one, other)
    return bool(one == other)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
