"""The shard reader: which bytes it asks for, in how many trips, and what it keeps."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from attlas.errors import CorruptAtlasError
from attlas.storage import zarr_shard_reader as shard_reader
from attlas.storage.zarr_shard_reader import KeptChunks, ZarrShardReader, ZarrShardReaders
from attlas.storage.zarr_shards import CRC, encode, place_of, store_zarr_shard, zarr_shard_key
from tests.storage.test_zarr_shards import FEATURES, HEADS, INNER, TOKENS, stored


def put(array: zarr.Array[Any], coordinates: tuple[int, ...], values: Any, **layout: int) -> None:
    """Write one Zarr shard, sealed for its place in an atlas without a name."""
    key = zarr_shard_key(array, coordinates)
    store_zarr_shard(array, key, encode(values, **layout, place=place_of("", key)))


def test_rows_run_over_shards_and_arrays_without_heads_or_features_are_read_too() -> None:
    values = np.random.default_rng(0).integers(0, 99, (2, 24)).astype("i4")
    array = zarr.create_array(
        MemoryStore(), name="key_start", shape=values.shape, dtype="i4", chunks=(1, 4), shards=(2, 8),
        compressors=[Crc32cCodec()],
    )  # fmt: skip
    for shard in range(3):
        part = values[:, shard * 8 : (shard + 1) * 8]
        put(array, (0, shard), part, inner=4, used=8, axis=1, layers=2)
    reader = ZarrShardReader(array, "")
    np.testing.assert_array_equal(reader.read(1, None, np.arange(5, 22)), values[1, 5:22])
    np.testing.assert_array_equal(reader.read(0, None, np.array([23, 2, 9])), values[0, [23, 2, 9]])


def test_a_shard_that_is_not_there_is_an_error_and_never_the_fill_value() -> None:
    array = zarr.create_array(
        MemoryStore(), name="k", shape=(2, HEADS, TOKENS, FEATURES), dtype="f4", chunks=(1, 1, INNER, FEATURES),
        shards=(1, HEADS, TOKENS, FEATURES), compressors=[Crc32cCodec()], fill_value=7,
    )  # fmt: skip
    reader, rows = ZarrShardReader(array, ""), np.arange(TOKENS)
    with pytest.raises(CorruptAtlasError, match="k/c/1/0/0/0 is committed and not there"):
        reader.read(1, None, rows)
    ones = np.ones((1, HEADS, TOKENS, FEATURES), dtype="f4")
    put(array, (1, 0, 0, 0), ones, inner=INNER, used=TOKENS, axis=2, layers=1)
    np.testing.assert_array_equal(reader.read(1, None, rows), ones[0])  # it has come meanwhile


class CountingStore(WrapperStore[Store]):
    """Counts what is asked of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gets, self.bytes, self.trips, self.together = 0, 0, 0, 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.trips += self.together == 0
        self.together += 1
        await asyncio.sleep(0.01)  # whatever is asked for now is asked for together
        self.together -= 1
        value = await super().get(key, prototype, byte_range)
        self.gets, self.bytes = self.gets + 1, self.bytes + (0 if value is None else len(value))
        return value


def test_neighbouring_chunks_are_one_read_and_an_index_is_read_once() -> None:
    array, _ = stored(MemoryStore(), layers=6, span=6, used=TOKENS)
    reader = ZarrShardReader(zarr.open_array(CountingStore(array.store), path="q", mode="r+"), "")
    store = reader.array.store
    assert isinstance(store, CountingStore)
    before = store.gets
    reader.read(2, np.array([1]), np.arange(TOKENS))
    assert store.gets == before + 2
    body = TOKENS * FEATURES * 4 + TOKENS // INNER * 4
    before, size = store.gets, store.bytes
    reader.read(3, np.array([0]), np.arange(TOKENS))
    reader.read(3, None, np.arange(TOKENS))
    assert (store.gets, store.bytes) == (before + 2, size + body + 2 * body)


def test_of_several_layers_only_one_is_read(tmp_path: Path) -> None:
    array, values = stored(LocalStore(tmp_path), layers=6, span=6, used=TOKENS)
    (file,) = (path for path in (tmp_path / "q" / "c").rglob("*") if path.is_file())
    raw, rows = bytearray(file.read_bytes()), np.arange(TOKENS)
    raw[5] ^= 1  # of layer 0
    file.write_bytes(raw)
    np.testing.assert_array_equal(ZarrShardReader(array, "").read(1, None, rows), values[1])
    with pytest.raises(CorruptAtlasError, match="a chunk of q/c/0/0/0/0 is damaged"):
        ZarrShardReader(array, "").read(0, None, rows)
    raw[-9] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CorruptAtlasError, match="q/c/0/0/0/0 is damaged, or is not the file that was written there"):
        ZarrShardReader(array, "").read(1, None, rows)


def test_an_array_of_another_layout_is_read_by_zarr() -> None:
    values = np.random.default_rng(0).normal(size=(4, HEADS, TOKENS, FEATURES)).astype("f4")
    array = zarr.create_array(
        MemoryStore(), name="q", data=values, chunks=(1, 1, INNER, FEATURES), shards=(2, HEADS, 8, FEATURES)
    )
    np.testing.assert_array_equal(
        ZarrShardReader(array, "").read(3, np.array([1, 0]), np.arange(3, 11)), values[3, ::-1, 3:11]
    )


def test_several_arrays_are_read_in_as_few_trips_as_one() -> None:
    inner = MemoryStore()
    values = {name: stored(inner, layers=4, span=2, used=TOKENS, name=name)[1] for name in ("q", "k")}
    store = CountingStore(inner)
    readers = ZarrShardReaders(zarr.open_group(store, mode="r+"))
    assert readers["q"].raw
    assert readers["k"].raw
    q, k = (None, np.arange(3, 9)), (np.array([1]), np.array([0, 15]))
    for layer, trips in ((2, 2), (3, 1)):  # the index first, and then kept
        before = store.trips
        found = readers.read(layer, {"q": q, "k": k})
        assert store.trips - before == trips
        np.testing.assert_array_equal(found[0].numpy(), values["q"][layer][:, 3:9])
        np.testing.assert_array_equal(found[1].numpy(), values["k"][layer][[1]][:, [0, 15]])


@pytest.mark.parametrize(("at_once", "trips"), [(32 * 2**20, 2), (2 * 8 * 4, 4), (1, 8)])
def test_shards_of_a_long_array_are_read_together(monkeypatch: pytest.MonkeyPatch, at_once: int, trips: int) -> None:
    monkeypatch.setattr(shard_reader, "AT_ONCE_BYTES", at_once)
    values = np.random.default_rng(0).integers(0, 99, (1, 32)).astype("i4")
    store = CountingStore(MemoryStore())
    array = zarr.create_array(
        store, name="key_start", shape=values.shape, dtype="i4", chunks=(1, 4), shards=(1, 8),
        compressors=[Crc32cCodec()],
    )  # fmt: skip
    for shard in range(4):
        part = values[:, shard * 8 : (shard + 1) * 8]
        put(array, (0, shard), part, inner=4, used=8, axis=1, layers=1)
    before = store.trips
    np.testing.assert_array_equal(ZarrShardReader(array, "").read(0, None, np.arange(1, 31)), values[0, 1:31])
    assert store.trips - before == trips


def test_bfloat16_comes_back_as_torch_has_it() -> None:
    array, values = stored(MemoryStore(), layers=1, span=1, used=TOKENS, dtype="u2")
    array.attrs["attlas_dtype"] = "bfloat16"
    root = zarr.open_group(array.store, mode="r")
    (found,) = ZarrShardReaders(root).read(0, {"q": (None, np.arange(TOKENS))})
    assert found.dtype == torch.bfloat16
    np.testing.assert_array_equal(found.view(torch.int16).numpy(), values[0].astype("i2"))


def test_chunks_are_kept_up_to_a_number_of_bytes_and_not_pickled() -> None:
    inner = MemoryStore()
    _, values = stored(inner, layers=2, span=2, used=TOKENS)
    a_chunk = INNER * FEATURES * 4
    store, cache = CountingStore(inner), KeptChunks(most_bytes=4 * (a_chunk + CRC))
    reader = ZarrShardReaders(zarr.open_group(store, mode="r+"), cache)["q"]

    def read(layer: int, head: int, tokens: NDArray[np.int64]) -> int:
        """How much was asked of the store for it."""
        before = store.gets
        np.testing.assert_array_equal(reader.read(layer, np.array([head]), tokens), values[layer][[head]][:, tokens])
        return store.gets - before

    every = np.arange(TOKENS)
    chunks = [every[begin : begin + INNER] for begin in range(0, TOKENS, INNER)]  # four
    assert [read(0, 0, chunk) for chunk in chunks] == [2, 1, 1, 1]  # the index first
    assert read(0, 0, every[5:9]) == read(0, 0, every) == 0
    assert cache.bytes == 4 * a_chunk
    assert read(1, 1, every) == read(1, 1, every) == 1  # too much at once to drive all else out
    assert read(0, 0, every) == 0
    assert read(1, 1, chunks[2]) == 1
    assert cache.bytes == 4 * a_chunk
    assert read(0, 0, every[INNER:]) == 0
    assert read(0, 0, every) == 1  # its first chunk had to go, and is read alone
    again = pickle.loads(pickle.dumps(cache))
    assert (again.bytes, again.most_bytes) == (0, cache.most_bytes)


def test_what_is_read_may_be_written_into_without_harm_to_what_is_kept() -> None:
    array, values = stored(MemoryStore(), layers=1, span=1, used=TOKENS)
    reader = ZarrShardReader(array, "", KeptChunks())
    for _ in range(3):
        found = reader.read(0, None, np.arange(INNER))
        np.testing.assert_array_equal(found, values[0][:, :INNER])
        found[...] = -1
