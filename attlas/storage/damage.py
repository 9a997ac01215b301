"""What is wrong with the bytes of one array of an atlas: each of its files against its seal, its digest or checksum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from attlas.errors import CorruptAtlasError, first_line
from attlas.storage.atlas import Atlas
from attlas.storage.commits import COMMITTED
from attlas.storage.digests import BROKEN, read_columns
from attlas.storage.lazy import LazyAttention
from attlas.storage.zarr_shard_reader import ZarrShardReader, ZarrShardReaders
from attlas.storage.zarr_shards import CRC, SEAL, chunks_fit, place_of, takes_raw_zarr_shards, unsealed, zarr_shard_key

__all__ = ["committed_packs", "damage_of", "dims_of", "pack_range"]


def damage_of(atlas: Atlas, array: zarr.Array[Any], readers: ZarrShardReaders) -> tuple[int, list[str]]:
    """Bytes that were read of an array, as far as packs are committed, and a line for each thing that is wrong."""
    if takes_raw_zarr_shards(array):
        return _sealed(atlas, readers[array.path])
    if array.path in atlas.attrs["digests"]:
        return _column(atlas, array.path)
    return _map_files(atlas, array) if array.shards is not None else _plain(atlas, array)


def dims_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    return tuple(str(dim) for dim in array.metadata.dimension_names or ())  # type: ignore[union-attr]


def pack_range(atlas: Atlas, dim: str, pack: int) -> tuple[int, int]:
    prefix = dim.removesuffix("token")
    return tuple(int(atlas.packs[f"{prefix}{name}"].values[pack]) for name in ("token_start", "token_stop"))  # type: ignore[return-value]


def _sealed(atlas: Atlas, reader: ZarrShardReader) -> tuple[int, list[str]]:
    """Bytes read of an array of sealed Zarr shards, and what is wrong with them."""
    array, read = reader.array, 0
    problems: list[str] = []
    assert array.shards is not None
    dims, step = dims_of(array), array.shards[reader.axis]
    if dims[0] == "pack":
        asked = [(pack, 0, array.shape[1]) for pack in committed_packs(atlas)]
    else:
        ranges = [pack_range(atlas, dims[reader.axis], pack) for pack in committed_packs(atlas)]
        asked = [(layer, begin, stop) for layer in range(array.shape[0]) for begin, stop in ranges]
    for layer, begin, stop in asked:
        for start in range(begin // step * step, stop, step):
            places = np.arange(max(start, begin), min(start + step, stop))
            try:
                read += reader.read(layer, None, places).nbytes
            except CorruptAtlasError as error:
                problems.append(str(error))
    return read, list(dict.fromkeys(problems))


def _column(atlas: Atlas, path: str) -> tuple[int, list[str]]:
    try:
        return read_columns(atlas.root, {path: ...})[path].nbytes, []
    except CorruptAtlasError as error:
        return 0, [str(error)]


def _plain(atlas: Atlas, array: zarr.Array[Any]) -> tuple[int, list[str]]:
    """An array that has neither seals nor digests: zarr compares the chunks' own checksums."""
    read = 0
    problems: list[str] = []
    for region in _committed_regions(atlas, array):
        try:
            read += np.asarray(array[region]).nbytes
        except BROKEN as error:
            problems.append(f"{array.path}, from {[part.start for part in region]}: {first_line(error)}")
    return read, problems


def _map_files(atlas: Atlas, array: zarr.Array[Any]) -> tuple[int, list[str]]:
    """The Zarr shards of a document's map against their seals; one that is not there may hold no weight but zero."""
    document = array.attrs.get("document_id")
    if document not in atlas:
        return 0, []
    assert array.shards is not None
    kind, read = array.path.partition("/")[0], 0
    problems: list[str] = []
    attention = LazyAttention(atlas.rows(kind, list(atlas.documents["document_id"].values).index(document)))
    entries = int(np.prod([a // b for a, b in zip(array.shards, array.chunks, strict=True)]))
    for region in _committed_regions(atlas, array):
        place = tuple(part.start // size for part, size in zip(region, array.shards, strict=True))
        key = zarr_shard_key(array, place)
        buffer = sync(array.store.get(key, default_buffer_prototype()))
        try:
            if buffer is None:
                weights = attention.compute([np.arange(part.start, part.stop) for part in region])
                if weights.astype(array.dtype).any():
                    problems.append(f"{key} is committed and not there: put it back, or capture it again")
                continue
            raw = np.frombuffer(buffer.to_bytes(), dtype=np.uint8)
            found = unsealed(raw[-(entries * (16 + CRC) + SEAL + CRC) :], entries, place_of(atlas.identity, key))
            if found is None or not chunks_fit(raw, *found):
                problems.append(f"{key} is damaged, or is not the file that was written there: capture it again")
            read += len(raw)
        except CorruptAtlasError as error:
            problems.append(f"{key}: {error}")
    return read, problems


def _committed_regions(atlas: Atlas, array: zarr.Array[Any]) -> Iterator[tuple[slice, ...]]:
    """The shards of an array that hold something of a committed pack; of an array about no pack, all of them."""
    shape, size = array.shape, array.shards or array.chunks
    dims, committed = dims_of(array), committed_packs(atlas)
    ranges: dict[int, list[tuple[int, int]]] = {}
    if array.path.split("/")[0] in atlas.kinds:
        for place, dim in enumerate(dims):
            if dim.endswith("token"):
                ranges[place] = [pack_range(atlas, dim, pack) for pack in committed]
            elif dim == "pack":
                ranges[place] = [(pack, pack + 1) for pack in committed]
        if "/maps/" in array.path and array.attrs.get("document_id", next(iter(atlas), None)) not in atlas:
            return
    for corner in itertools.product(*(range(0, n, step) for n, step in zip(shape, size, strict=True))):
        region = tuple(slice(c, min(c + step, n)) for c, step, n in zip(corner, size, shape, strict=True))
        if all(any(begin < region[i].stop and end > region[i].start for begin, end in r) for i, r in ranges.items()):
            yield region


def committed_packs(atlas: Atlas) -> list[int]:
    return [int(i) for i in np.flatnonzero(atlas.packs["state"].values == COMMITTED)]
