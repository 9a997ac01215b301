"""Reading Zarr shards as `zarr_shards` lays them out: only the chunks that are asked for, neighbours in one read.

zarr takes about a millisecond for each inner chunk of a sharded array, which is longer than the weights of a row take.
A reading is a generator that yields the byte ranges it needs next and is sent their bytes, so that several arrays are
read in as few trips to the store as one.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from attlas.errors import CorruptAtlasError
from attlas.storage.consolidated import array_at
from attlas.storage.together import together
from attlas.storage.zarr_shards import ABSENT, CRC, SEAL, place_of, takes_raw_zarr_shards, unsealed

__all__ = ["KeptChunks", "Reading", "ZarrShardReader", "ZarrShardReaders"]

Indices = NDArray[np.int64]
Raw = NDArray[np.uint8]
Reading = Generator[list[tuple[str, ByteRequest]], list[Raw | None], NDArray[Any]]
"""Yields (key, byte range) pairs, is sent the bytes of each, None where the key is not there, and returns the array."""

KEPT_INDEXES = 256
KEPT_BYTES = 128 * 2**20
KEPT_PART = 4
"""What is read at once and is more than this part of KEPT_BYTES is not kept: it would drive all else out."""
AT_ONCE_BYTES = 32 * 2**20
"""Shards of one array are read side by side up to so much."""
FEW_RANGES = 16
"""So many are read from a local disk one after the other, sooner than threads for them are woken."""


class KeptChunks:
    """The chunks that were read last, up to a number of bytes, by the key of their shard and their offset in it.

    One for an open atlas: rows and tiles of one head ask for the same keys. Safe to use from several threads.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], Raw] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"most_bytes": self.most_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def find(self, shard: str, offset: int) -> Raw | None:
        with self._lock:
            found = self._chunks.get((shard, offset))
            if found is not None:
                self._chunks.move_to_end((shard, offset))
            return found

    def keep(self, shard: str, offset: int, chunk: Raw) -> None:
        """Keep a chunk; nobody may write into it afterwards."""
        with self._lock:
            if (shard, offset) not in self._chunks:
                self._chunks[shard, offset] = chunk
                self.bytes += chunk.nbytes
            while self.bytes > self.most_bytes:
                self.bytes -= self._chunks.popitem(last=False)[1].nbytes


def _side_by_side(
    readings: Sequence[Reading],
) -> Generator[list[tuple[str, ByteRequest]], list[Raw | None], list[NDArray[Any]]]:
    """Several readings as one, which asks at one time for what each of them needs then; returns their arrays."""
    results: dict[int, NDArray[Any]] = {}
    sent: dict[int, list[Raw | None] | None] = dict.fromkeys(range(len(readings)))
    while True:
        wanted: dict[int, list[tuple[str, ByteRequest]]] = {}
        for i, raw in sent.items():
            try:
                wanted[i] = next(readings[i]) if raw is None else readings[i].send(raw)
            except StopIteration as ended:
                results[i] = ended.value
        if not wanted:
            return [results[i] for i in range(len(readings))]
        fetched = iter((yield [one for wants in wanted.values() for one in wants]))
        sent = {i: [next(fetched) for _ in wants] for i, wants in wanted.items()}


def _read_together(store: Store, readings: Sequence[Reading]) -> list[NDArray[Any]]:
    """What the readings return; what they need at one time is fetched from the store at one time."""
    together = _side_by_side(readings)
    try:
        wants = next(together)
        while True:
            wants = together.send(_fetch(store, wants))
    except StopIteration as ended:
        found: list[NDArray[Any]] = ended.value
        return found


def _fetch(store: Store, wants: Sequence[tuple[str, ByteRequest]]) -> list[Raw | None]:
    prototype = default_buffer_prototype()

    async def every() -> list[Buffer | None]:
        return await together(store.get(key, prototype, part) for key, part in wants)

    if len(wants) <= FEW_RANGES and isinstance(store, LocalStore | MemoryStore):
        found = [store.get_sync(key, prototype=prototype, byte_range=part) for key, part in wants]
    else:
        found = sync(every())
    return [None if one is None else np.asarray(one.as_numpy_array()).view(np.uint8) for one in found]


class ZarrShardReader:
    """Rows of one array (layer, token), (layer, head, token) or (layer, head, token, feature); of one (pack, layer,
    ...) too, whose packs stand for layers and layers for tokens.

    Indexes of shards are kept, KEPT_INDEXES of them at most; a committed shard does not change. cache: what keeps
    chunks too; None: they are read again each time.
    """

    def __init__(self, array: zarr.Array[Any], identity: str, cache: KeptChunks | None = None) -> None:
        self.array, self.identity, self.cache = array, identity, cache
        names: Any = getattr(array.metadata, "dimension_names", None) or ("",)
        self.axis = 1 if array.ndim == 2 or names[0] == "pack" else 2
        self.shape, self.chunks, self.dtype = array.shape, array.chunks, array.dtype  # zarr works them out each time
        self.shards = array.shards or array.chunks
        self.raw = array.shards is not None and takes_raw_zarr_shards(array)
        self.bfloat16 = array.attrs.get("attlas_dtype") == "bfloat16"
        self._indexes: OrderedDict[str, tuple[NDArray[np.int64], NDArray[Any]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"array": self.array, "identity": self.identity, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, layer: int, heads: Indices | None, tokens: Indices) -> NDArray[Any]:
        """(heads, tokens, ...) of one layer, in the order asked for; an array without heads gives (tokens,).

        heads: places, None for all. tokens: places on the array's token axis, one or more. Raises CorruptAtlasError.
        """
        return _read_together(self.array.store, [self.reading(layer, heads, tokens)])[0]

    def tensor(self, values: NDArray[Any]) -> torch.Tensor:
        """What was read, in the dtype the model computed in; shares its memory."""
        if self.bfloat16:
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)

    def reading(self, layer: int, heads: Indices | None, tokens: Indices) -> Reading:
        """`read` as one of several readings, fetched together."""
        axis, inner = self.axis, self.chunks[self.axis]
        kept, order = (heads, None) if heads is None or len(heads) == 1 else np.unique(heads, return_inverse=True)
        low, high = int(tokens.min()), int(tokens.max()) + 1
        run = high - low == len(tokens) and (len(tokens) == 1 or bool((np.diff(tokens) == 1).all()))
        chunk_C = np.arange(low // inner, -(-high // inner)) if run else np.unique(tokens // inner)
        found = yield from self._inner_chunks(layer, kept, chunk_C)
        if run:
            found = found[:, low - int(chunk_C[0]) * inner : high - int(chunk_C[0]) * inner]
        else:
            found = found[:, np.searchsorted(chunk_C, tokens // inner) * inner + tokens % inner]
        if order is not None and not np.array_equal(order, np.arange(found.shape[0])):
            found = found[order]
        return np.ascontiguousarray(found if axis == 2 else found[0])

    def _inner_chunks(self, layer: int, heads: Indices | None, chunk_C: Indices) -> Reading:
        """(H, C x inner, ...) of whole inner chunks, ascending."""
        array, axis = self.array, self.axis
        inner, rest = self.chunks[axis], self.shape[axis + 1 :]
        if not self.raw:
            tokens = (chunk_C[:, None] * inner + np.arange(inner)).ravel()
            place = np.minimum(tokens, self.shape[axis] - 1)
            every: Any = (layer, place) if axis == 1 else (layer, slice(None) if heads is None else heads, place)
            values = np.asarray(array.oindex[every])
            return values if axis == 2 else values[None]
        count = 1 if axis == 1 else self.shape[1] if heads is None else len(heads)
        values = np.empty((count, len(chunk_C), inner, *rest), dtype=self.dtype)
        a_shard = self.shards[axis] // inner
        shard_C = chunk_C // a_shard
        edges = [0, *(np.flatnonzero(np.diff(shard_C)) + 1).tolist(), len(chunk_C)]
        fills = [
            self._fill(values[:, a:b], layer, heads, int(shard_C[a]), chunk_C[a:b] - shard_C[a] * a_shard)
            for a, b in itertools.pairwise(edges)
        ]
        at_once = max(1, AT_ONCE_BYTES * len(fills) // max(values.nbytes, 1))
        for begin in range(0, len(fills), at_once):
            yield from _side_by_side(fills[begin : begin + at_once])
        return values.reshape(count, -1, *rest)

    def _fill(self, out: NDArray[Any], layer: int, heads: Indices | None, shard: int, chunk_C: Indices) -> Reading:
        """Chunks of one shard into `out`, (H, C, inner, ...), which is returned."""
        span = self.shards[0]
        place = [0] * len(self.shape)
        place[0], place[self.axis] = layer // span, shard
        key = f"{self.array.path}/{self.array.metadata.encode_chunk_key(tuple(place))}"
        index, sums = yield from self._index(key)
        every = slice(None) if heads is None else heads
        entry_HC2 = index[layer % span][every][:, chunk_C]
        wanted_HC = entry_HC2[..., 1] > 0
        if not wanted_HC.all():
            raise CorruptAtlasError(f"{key} lacks rows that are committed: see attlas verify, and capture it again")
        if self.cache is not None:
            for head, offsets in enumerate(entry_HC2[..., 0].tolist()):
                for place_C, offset in enumerate(offsets):
                    known = self.cache.find(key, offset)
                    if known is not None:
                        out[head, place_C] = known.view(self.dtype).reshape(out.shape[2:])
                        wanted_HC[head, place_C] = False
        head_N, chunk_N = np.nonzero(wanted_HC)
        if not len(head_N):
            return out
        (offset_N, size_N), sum_N = entry_HC2[wanted_HC].T, sums[layer % span][every][:, chunk_C][wanted_HC]
        edges = [0, *(np.flatnonzero(np.diff(offset_N) != size_N[:-1]) + 1).tolist(), len(offset_N)]
        runs = list(itertools.pairwise(edges))
        cache = self.cache
        if cache is not None and KEPT_PART * int(size_N.sum()) > cache.most_bytes:
            cache = None
        raws = yield [(key, RangeByteRequest(int(offset_N[a]), int(offset_N[b - 1] + size_N[b - 1]))) for a, b in runs]
        for (a, b), raw in zip(runs, raws, strict=True):
            if raw is None:
                raise self._gone(key)
            for n in range(a, b):
                at = int(offset_N[n] - offset_N[a])
                chunk = self._checked(key, raw[at : at + int(size_N[n])], int(sum_N[n]))
                out[head_N[n], chunk_N[n]] = chunk.view(self.dtype).reshape(out.shape[2:])
                if cache is not None:
                    cache.keep(key, int(offset_N[n]), chunk if b - a == 1 else chunk.copy())
        return out

    def _checked(self, key: str, raw: Raw, wanted: int) -> Raw:
        """A chunk without its checksum, which must be right, and the one that the seal tells."""
        body, check = raw[:-CRC], raw[-CRC:]
        if len(raw) < CRC or not google_crc32c.value(body) == int.from_bytes(check.tobytes(), "little") == wanted:
            raise CorruptAtlasError(f"a chunk of {key} is damaged: see attlas verify, and capture it again")
        return body

    def _gone(self, key: str) -> CorruptAtlasError:
        return CorruptAtlasError(
            f"{key} is committed and not there: put it back, or capture it again; attlas verify lists all that is lost"
        )

    def _index(
        self, key: str
    ) -> Generator[list[tuple[str, ByteRequest]], list[Raw | None], tuple[NDArray[np.int64], NDArray[Any]]]:
        """(layers, heads or 1, chunks, 2): offset and size of every chunk, 0 and 0 where it was left out; and the
        chunks' checksums (layers, heads or 1, chunks)."""
        if key in self._indexes:
            return self._indexes[key]
        shards = self.shards
        shape = (shards[0], *shards[1 : self.axis], shards[self.axis] // self.chunks[self.axis])
        entries = int(np.prod(shape, dtype=np.int64))
        (raw,) = yield [(key, SuffixByteRequest(entries * (16 + CRC) + SEAL + CRC))]
        if raw is None:
            raise self._gone(key)
        found = unsealed(raw, entries, place_of(self.identity, key))
        if found is None:
            raise CorruptAtlasError(
                f"{key} is damaged, or is not the file that was written there: see attlas verify, and capture it again"
            )
        told, sums = found[0].reshape(shape[0], -1, shape[-1], 2), found[1].reshape(shape[0], -1, shape[-1])
        index = np.where(told[..., :1] == ABSENT, np.uint64(0), told).astype(np.int64)
        self._indexes[key] = index, sums
        while len(self._indexes) > KEPT_INDEXES:
            self._indexes.popitem(last=False)
        return index, sums


class ZarrShardReaders:
    """The readers of an atlas's arrays by path, each opened once. cache: what they keep chunks in, if they do."""

    def __init__(self, root: zarr.Group, cache: KeptChunks | None = None) -> None:
        self.root, self.cache = root, cache
        self._readers: dict[str, ZarrShardReader] = {}

    def __getitem__(self, path: str) -> ZarrShardReader:
        if path not in self._readers:
            array = array_at(self.root, path)
            self._readers[path] = ZarrShardReader(array, str(self.root.attrs.get("identity", "")), self.cache)
        return self._readers[path]

    def read(self, layer: int, places: Mapping[str, tuple[Indices | None, Indices]]) -> list[torch.Tensor]:
        """Rows of one layer of several arrays, fetched together. places: path -> (heads, tokens), as of one reader."""
        readers = [self[path] for path in places]
        readings = [
            reader.reading(layer, heads, tokens)
            for reader, (heads, tokens) in zip(readers, places.values(), strict=True)
        ]
        found = _read_together(self.root.store, readings)
        return [reader.tensor(values) for reader, values in zip(readers, found, strict=True)]
