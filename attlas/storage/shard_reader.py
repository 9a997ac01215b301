"""Reading shards as `attlas.storage.shards` lays them out: only the chunks that are asked for, neighbours in one read.

zarr takes about a millisecond for each inner chunk of a sharded array, which is longer than the weights of a row take.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync

from attlas.errors import CorruptAtlasError
from attlas.storage.shards import ABSENT, CRC, takes_raw_shards

__all__ = ["ShardReader"]

Indices = NDArray[np.int64]

KEPT_INDEXES = 256


class ShardReader:
    """Rows of one array (layer, token), (layer, head, token) or (layer, head, token, feature).

    Indexes of shards are kept, KEPT_INDEXES of them at most; a committed shard does not change.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self.axis = 1 if array.ndim == 2 else 2
        self.raw = array.shards is not None and takes_raw_shards(array)
        self._indexes: OrderedDict[str, NDArray[np.int64]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"array": self.array}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, layer: int, heads: Indices | None, tokens: Indices) -> NDArray[Any]:
        """(heads, tokens, ...) of one layer, in the order asked for; an array without heads gives (tokens,).

        heads: places, None for all. tokens: places on the array's token axis, one or more. Raises CorruptAtlasError.
        """
        array, axis = self.array, self.axis
        inner = array.chunks[axis]
        kept, order = (None, None) if heads is None else np.unique(heads, return_inverse=True)
        low, high = int(tokens.min()), int(tokens.max()) + 1
        run = high - low == len(tokens) and (len(tokens) == 1 or bool((np.diff(tokens) == 1).all()))
        chunk_C = np.arange(low // inner, -(-high // inner)) if run else np.unique(tokens // inner)
        found = self._chunks(layer, kept, chunk_C)
        if run:
            found = found[:, low - int(chunk_C[0]) * inner : high - int(chunk_C[0]) * inner]
        else:
            found = found[:, np.searchsorted(chunk_C, tokens // inner) * inner + tokens % inner]
        if order is not None and not np.array_equal(order, np.arange(found.shape[0])):
            found = found[order]
        return np.ascontiguousarray(found if axis == 2 else found[0])

    def _chunks(self, layer: int, heads: Indices | None, chunk_C: Indices) -> NDArray[Any]:
        """(H, C x inner, ...) of whole inner chunks, ascending."""
        array, axis = self.array, self.axis
        inner, rest = array.chunks[axis], array.shape[axis + 1 :]
        if not self.raw:
            tokens = (chunk_C[:, None] * inner + np.arange(inner)).ravel()
            place = np.minimum(tokens, array.shape[axis] - 1)
            every: Any = (layer, place) if axis == 1 else (layer, slice(None) if heads is None else heads, place)
            values = np.asarray(array.oindex[every])
            return values if axis == 2 else values[None]
        assert array.shards is not None
        count = 1 if axis == 1 else array.shape[1] if heads is None else len(heads)
        values = np.empty((count, len(chunk_C), inner, *rest), dtype=array.dtype)
        a_shard = array.shards[axis] // inner
        for shard in np.unique(chunk_C // a_shard):
            inside = np.flatnonzero(chunk_C // a_shard == shard)
            part = values[:, inside[0] : inside[-1] + 1]
            self._fill(part, layer, heads, int(shard), chunk_C[inside] - int(shard) * a_shard)
        return values.reshape(count, -1, *rest)

    def _fill(self, out: NDArray[Any], layer: int, heads: Indices | None, shard: int, chunk_C: Indices) -> None:
        """Chunks of one shard into `out`, (H, C, inner, ...)."""
        assert self.array.shards is not None
        span = self.array.shards[0]
        place = [0] * self.array.ndim
        place[0], place[self.axis] = layer // span, shard
        key = f"{self.array.path}/{self.array.metadata.encode_chunk_key(tuple(place))}"
        index = self._index(key)
        if index is None:
            out[...] = self.array.fill_value
            return
        of_layer = index[layer % span]
        entry_HC2 = (of_layer if heads is None else of_layer[heads])[:, chunk_C]
        there_HC = entry_HC2[..., 1] > 0
        if not there_HC.all():
            out[~there_HC] = self.array.fill_value
        head_N, chunk_N = np.nonzero(there_HC)
        offset_N, size_N = entry_HC2[there_HC].T
        runs = np.flatnonzero(np.diff(offset_N) != size_N[:-1]) + 1
        edges = list(zip([0, *runs.tolist()], [*runs.tolist(), len(offset_N)], strict=True)) if len(offset_N) else []
        parts = [RangeByteRequest(int(offset_N[a]), int(offset_N[b - 1] + size_N[b - 1])) for a, b in edges]
        for (a, _), raw in zip(edges, self._get(key, parts), strict=True):
            if raw is None:
                raise CorruptAtlasError(f"a shard of {self.array.path} is gone: see attlas verify")
            at = 0
            while at < len(raw):
                size = int(size_N[a]) - CRC
                body, check = raw[at : at + size], raw[at + size : at + size + CRC]
                if google_crc32c.value(body) != int.from_bytes(check.tobytes(), "little"):
                    raise CorruptAtlasError(
                        f"a chunk of {self.array.path} is damaged: see attlas verify, and capture it again"
                    )
                out[head_N[a], chunk_N[a]] = body.view(self.array.dtype).reshape(out.shape[2:])
                at, a = at + size + CRC, a + 1

    def _index(self, key: str) -> NDArray[np.int64] | None:
        """(layers, heads or 1, chunks, 2): offset and size of every chunk, 0 and 0 where it was left out."""
        if key in self._indexes:
            return self._indexes[key]
        array = self.array
        assert array.shards is not None
        shape = (array.shards[0], *array.shards[1 : self.axis], array.shards[self.axis] // array.chunks[self.axis])
        tail = int(np.prod(shape, dtype=np.int64)) * 16 + CRC
        (raw,) = self._get(key, [SuffixByteRequest(tail)])
        index = None
        if raw is not None:
            if len(raw) < tail or google_crc32c.value(raw[:-CRC]) != int.from_bytes(raw[-CRC:].tobytes(), "little"):
                raise CorruptAtlasError(
                    f"the index of a shard of {array.path} is damaged: see attlas verify, and capture it again"
                )
            told = raw[:-CRC].view("<u8").reshape(shape[0], -1, shape[-1], 2)
            index = np.where(told[..., :1] == ABSENT, np.uint64(0), told).astype(np.int64)
        if index is None:  # not written yet
            return None
        self._indexes[key] = index
        while len(self._indexes) > KEPT_INDEXES:
            self._indexes.popitem(last=False)
        return index

    def _get(self, key: str, parts: list[Any]) -> list[NDArray[np.uint8] | None]:
        """Byte ranges of one file, all asked for at once; None where it is not there."""
        store, prototype = self.array.store, default_buffer_prototype()

        async def every() -> list[Buffer | None]:
            return await asyncio.gather(*(store.get(key, prototype, part) for part in parts))

        found = sync(every()) if parts else []
        return [None if one is None else np.asarray(one.as_numpy_array()).view(np.uint8) for one in found]
