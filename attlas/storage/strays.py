"""Files in a store that nothing of the atlas names: what killed processes were writing, and what others put there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import zarr
from zarr.core.sync import sync

from attlas.storage.digests import ROOT
from attlas.storage.lease import LEASE
from attlas.storage.occupant import LEFT_OVER

__all__ = ["Strays", "find_strays", "remove_strays"]

BESIDE = ("analysis/", "overview/")
"""Answers and overviews come and go beside a writer, and are looked after by who writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """Keys. partial: files whose writer was killed. unnamed: files that are at no place of the atlas. lease: whether
    somebody holds the right to write, or was killed with it."""

    partial: tuple[str, ...]
    unnamed: tuple[str, ...]
    lease: bool

    def notes(self) -> list[str]:
        """What is worth knowing of them."""
        notes = []
        if self.partial:
            notes.append(
                f"{len(self.partial)} files were being written when their process was killed, such as "
                f"{self.partial[0]}: --resume removes them"
            )
        if self.unnamed:
            notes.append(
                f"{len(self.unnamed)} files are not of this atlas, such as {self.unnamed[0]}: nothing reads them"
            )
        if self.lease:
            notes.append(f"{LEASE} is there: a capture writes the atlas, or was killed, and --resume goes on with it")
        return notes


def find_strays(root: zarr.Group) -> Strays:
    """Look through all names in the store, once."""

    async def every() -> list[str]:
        return [key async for key in root.store.list()]

    keys, grids = sorted(sync(every())), _grids(root)
    mine = [key for key in keys if not key.startswith(BESIDE)]
    partial = tuple(key for key in mine if LEFT_OVER.search(key))
    unnamed = tuple(key for key in mine if key not in {ROOT, LEASE, *partial} and not _is_named(key, grids))
    return Strays(partial=partial, unnamed=unnamed, lease=LEASE in keys)


def remove_strays(root: zarr.Group) -> None:
    """Remove the files that killed processes were writing; what others put there stays."""

    async def every() -> None:
        for key in find.partial:
            await root.store.delete(key)

    find = find_strays(root)
    sync(every())


def _grids(root: zarr.Group) -> dict[str, tuple[int, ...]]:
    """Path of every node -> how many files an array may have on each dimension; () for a group."""
    consolidated = root.metadata.consolidated_metadata
    grids = {}
    for path, told in ({} if consolidated is None else consolidated.flattened_metadata).items():
        metadata: Any = told
        shape = getattr(metadata, "shape", ())
        steps = metadata.chunk_grid.chunk_shape if shape else ()
        grids[path] = tuple(-(-size // step) for size, step in zip(shape, steps, strict=True))
    return grids


def _is_named(key: str, grids: dict[str, tuple[int, ...]]) -> bool:
    folder, _, name = key.rpartition("/")
    if name == ROOT:
        return folder in grids
    path, _, place = key.partition("/c/")
    parts, grid = place.split("/"), grids.get(path, ())
    return (
        bool(grid)
        and len(parts) == len(grid)
        and all(part.isdecimal() and int(part) < count for part, count in zip(parts, grid, strict=True))
    )
