"""Overviews kept in the store: the coarse levels of a document's maps, from which a viewer zooms.

`overview/<kind>-<document>-<hash>` names the place of one, `overview/<kind>-<document>-<hash>.<levels>`, and is written
when all of it is there: an unfinished one is never read. The hash is of the atlas's identity and of the record of the
document's pack, so that an overview falls with what it was made of. docs/store.md has the layout.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from attlas.storage.array_spec import ArraySpec
from attlas.storage.atlas import Atlas
from attlas.storage.commits import Records

__all__ = [
    "FOLDER",
    "POOLS",
    "SIDE",
    "STORED_SIDE",
    "Overview",
    "OverviewWriter",
    "find_overview",
    "overview_bytes",
    "stored_levels",
]

Bytes = NDArray[np.uint8]

FOLDER = "overview"
REVISION = 1
"""Counted up whenever an overview of the same document would come out differently."""
POOLS = ("max", "mass")
SIDE = 256
"""Blocks along a side of a chunk."""
STORED_SIDE = 1024
"""Levels of at most so many blocks along a side are stored."""


def stored_levels(queries: int, keys: int, side: int = STORED_SIDE) -> tuple[int, ...]:
    """The levels that are stored of a map of this size, up to the one of at most SIDE blocks; none where level 0 is it.

    >>> stored_levels(8192, 8192), stored_levels(131_072, 131_072), stored_levels(300, 20), stored_levels(200, 200)
    ((3, 4, 5), (7, 8, 9), (1,), ())
    """
    longest = max(queries, keys)
    top = (max(1, -(-longest // SIDE)) - 1).bit_length()
    first = (max(1, -(-longest // side)) - 1).bit_length()
    return tuple(range(max(1, first), top + 1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overview:
    """A finished overview of one document and kind. levels: those that it holds. heads: of the atlas, without the mean.

    Arrays: pool and level -> (layer, head, row, column) uint8, the codes of docs/server.md, the mean of the heads last.
    """

    place: str
    levels: tuple[int, ...]
    heads: int
    arrays: Mapping[tuple[str, int], zarr.Array[Any]] = field(repr=False)

    def codes(self, pool: str, level: int, layer: int, head: int | None, rows: slice, columns: slice) -> Bytes | None:
        """Blocks (rows, columns) of the head at a place, or of the mean where it is None; with a warning, None where
        they are damaged."""
        return self._read(pool, level, (layer, self.heads if head is None else head, rows, columns))

    def of_layer(self, pool: str, level: int, layer: int) -> Bytes | None:
        """Blocks (head, row, column) of all heads of the layer at a place."""
        return self._read(pool, level, (layer, slice(0, self.heads)))

    def _read(self, pool: str, level: int, at: Any) -> Bytes | None:
        try:
            return np.asarray(self.arrays[pool, level][at])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            warnings.warn(f"{self.place} is damaged, and left out: make it again with attlas overview", stacklevel=2)
            del error
            return None


def find_overview(atlas: Atlas, document: str, kind: str) -> Overview | None:
    """The overview that the atlas keeps of a document and kind, as they were committed; None where there is none."""
    name = _name(atlas, document, kind)
    told = _read(atlas.root.store, name)
    if told is None:
        return None
    try:
        group = zarr.open_group(atlas.root.store, path=told["place"], mode="r", zarr_format=3, use_consolidated=False)
        arrays: dict[tuple[str, int], Any] = {
            (pool, level): group[f"{pool}/{level}"] for pool in POOLS for level in told["levels"]
        }
    except (KeyError, OSError, ValueError):
        warnings.warn(f"{name} is damaged, and left out: make it again with attlas overview", stacklevel=2)
        return None
    return Overview(place=told["place"], levels=tuple(told["levels"]), heads=int(told["heads"]), arrays=arrays)


def overview_bytes(atlas: Atlas) -> int:
    """What the overviews of an atlas take in its store, unfinished ones too."""
    return int(sync(atlas.root.store.getsize_prefix(f"{FOLDER}/")))


class OverviewWriter:
    """Writes an overview layer by layer, and publishes it; what an earlier one wrote of it stays.

    levels: of `stored_levels`. Raises OSError, PermissionError, ValueError where the store cannot be written.
    """

    def __init__(self, atlas: Atlas, document: str, kind: str, levels: tuple[int, ...]) -> None:
        self.levels, self._document, self._kind = levels, document, kind
        store = atlas.root.store
        self._store = store.with_read_only(False) if store.read_only else store
        self._name = _name(atlas, document, kind)
        self.place = f"{self._name}.{levels[0]}-{levels[-1]}"
        self._layers = atlas.layers(kind)
        self._heads = len(atlas.column(f"{kind}/head"))
        self._index = atlas.committed_index(document)
        rows = atlas.rows(kind, self._index)
        self._remove_older()
        group = zarr.open_group(self._store, path=self.place, mode="a", zarr_format=3, use_consolidated=False)
        self._arrays: dict[tuple[str, int], zarr.Array[Any]] = {}
        for pool in POOLS:
            for level in levels:
                shape = [-(-size // (1 << level)) for size in (rows.queries, rows.keys)]
                path = f"{pool}/{level}"
                made: Any = group[path] if path in group else self._spec(path, shape, pool, 1 << level).create(group)
                self._arrays[pool, level] = made

    def _spec(self, path: str, shape: list[int], pool: str, block: int) -> ArraySpec:
        tall, wide = (-(-size // SIDE) * SIDE for size in shape)
        return ArraySpec(
            path=path, dims=("layer", "head", "row", "column"), dtype="uint8", packed=True,
            shape=(len(self._layers), self._heads + 1, *shape), chunks=(1, 1, SIDE, SIDE),
            shards=(1, self._heads + 1, tall, wide),
            attributes={"long_name": f"{pool} of blocks of {block} x {block} weights, on a logarithmic scale"},
        )  # fmt: skip

    @property
    def missing(self) -> tuple[int, ...]:
        """The places of the layers that are not written yet."""
        return tuple(i for i in range(len(self._layers)) if not sync(self._store.exists(self._mark(i))))

    def write(self, layer: int, codes: Mapping[tuple[str, int], Bytes]) -> None:
        """A layer by its place: pool and level -> (head, row, column), the mean of the heads last."""
        for key, array in self._arrays.items():
            array[layer] = codes[key]
        _put(self._store, self._mark(layer), {"layer": int(self._layers[layer])})

    def publish(self) -> None:
        """Name it, in one step, as finished."""
        told = {
            "document": self._document, "kind": self._kind, "place": self.place, "levels": list(self.levels),
            "heads": self._heads,
        }  # fmt: skip
        _put(self._store, f"{self._name}/zarr.json", told | {"digest": _digest(told)})
        self._remove_older()

    def _mark(self, layer: int) -> str:
        return f"{self.place}/done-{layer}/zarr.json"

    def _remove_older(self) -> None:
        """Of the same document and kind, what no reader finds any more, and what was to have other levels."""
        published = _read(self._store, self._name)
        keep = {self._name, self.place, published and published["place"]}

        async def remove() -> None:
            names = [name async for name in self._store.list_dir(FOLDER)]
            for name in names:
                if name.startswith(f"{self._kind}-{self._index}-") and f"{FOLDER}/{name}" not in keep:
                    await self._store.delete_dir(f"{FOLDER}/{name}")

        sync(remove())


def _name(atlas: Atlas, document: str, kind: str) -> str:
    index = atlas.committed_index(document)
    pack = int(atlas.column("documents/pack")[index])
    mask = np.zeros(len(atlas.states), np.bool_)
    mask[pack] = True
    told = {"revision": REVISION, "atlas": atlas.identity, "pack": Records(atlas.root).digest(mask)}
    return f"{FOLDER}/{kind}-{index}-{_digest(told)}"


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _put(store: Store, key: str, attributes: Mapping[str, Any]) -> None:
    group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(json.dumps(group).encode())))


def _read(store: Store, name: str) -> dict[str, Any] | None:
    """What the object that publishes an overview says; None where there is none, or not as it was written."""
    try:
        content = sync(store.get(f"{name}/zarr.json", default_buffer_prototype()))
        told = {} if content is None else json.loads(content.to_bytes())["attributes"]
        digest = told.pop("digest", None)
    except (NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return told if digest is not None and digest == _digest(told) else None
