"""Shards as we lay them out: what zarr reads from them, and what we read layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from attlas.errors import CorruptAtlasError
from attlas.storage.shard_reader import ShardReader
from attlas.storage.shards import encode, store_shard

HEADS, TOKENS, INNER, FEATURES = 2, 16, 4, 3


def stored(
    store: Any, *, layers: int, span: int, used: int, dtype: str = "float32"
) -> tuple[zarr.Array[Any], NDArray[Any]]:
    """An array of one block of tokens, written shard by shard, and its values with NaN or 0 behind the last token."""
    array = zarr.create_array(
        store, name="q", shape=(layers, HEADS, TOKENS, FEATURES), dtype=dtype, chunks=(1, 1, INNER, FEATURES),
        shards=(span, HEADS, TOKENS, FEATURES), compressors=[Crc32cCodec()], fill_value=7,
    )  # fmt: skip
    values = np.random.default_rng(0).integers(0, 99, array.shape).astype(dtype)
    values[:, :, used:] = 7
    for shard in range(-(-layers // span)):
        part = values[shard * span : (shard + 1) * span]
        store_shard(array, (shard, 0, 0, 0), encode(part, inner=INNER, used=used, axis=2, layers=span))
    return array, values


@settings(max_examples=100, deadline=None)
@given(
    layers=st.integers(1, 5), span=st.integers(1, 5), used=st.integers(1, TOKENS), dtype=st.sampled_from(["f4", "u2"]),
    heads=st.one_of(st.none(), st.lists(st.integers(0, HEADS - 1), min_size=1, max_size=4)),
    tokens=st.one_of(
        st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=9),
        st.integers(0, TOKENS - 1).flatmap(lambda a: st.integers(a, TOKENS - 1).map(lambda b: list(range(a, b + 1)))),
    ),
)  # fmt: skip
def test_zarr_and_the_reader_find_what_was_written(
    layers: int, span: int, used: int, dtype: str, heads: list[int] | None, tokens: list[int]
) -> None:
    array, values = stored(MemoryStore(), layers=layers, span=min(span, layers), used=used, dtype=dtype)
    np.testing.assert_array_equal(np.asarray(array[...]), values)
    reader = ShardReader(array)
    for layer in range(layers):
        found = reader.read(layer, None if heads is None else np.array(heads), np.array(tokens))
        expected = values[layer] if heads is None else values[layer][heads]
        np.testing.assert_array_equal(found, expected[:, tokens])


def test_rows_run_over_shards_and_arrays_without_heads_or_features_are_read_too() -> None:
    values = np.random.default_rng(0).integers(0, 99, (2, 24)).astype("i4")
    array = zarr.create_array(
        MemoryStore(), name="key_start", shape=values.shape, dtype="i4", chunks=(1, 4), shards=(2, 8),
        compressors=[Crc32cCodec()],
    )  # fmt: skip
    for shard in range(3):
        part = values[:, shard * 8 : (shard + 1) * 8]
        store_shard(array, (0, shard), encode(part, inner=4, used=8, axis=1, layers=2))
    reader = ShardReader(array)
    np.testing.assert_array_equal(reader.read(1, None, np.arange(5, 22)), values[1, 5:22])
    np.testing.assert_array_equal(reader.read(0, None, np.array([23, 2, 9])), values[0, [23, 2, 9]])


def test_a_shard_that_was_never_written_holds_the_fill_value() -> None:
    array = zarr.create_array(
        MemoryStore(), name="k", shape=(2, HEADS, TOKENS, FEATURES), dtype="f4", chunks=(1, 1, INNER, FEATURES),
        shards=(1, HEADS, TOKENS, FEATURES), compressors=[Crc32cCodec()], fill_value=7,
    )  # fmt: skip
    reader, rows = ShardReader(array), np.arange(TOKENS)
    np.testing.assert_array_equal(reader.read(1, None, rows), np.full((HEADS, TOKENS, FEATURES), 7))
    ones = np.ones((1, HEADS, TOKENS, FEATURES), dtype="f4")
    store_shard(array, (1, 0, 0, 0), encode(ones, inner=INNER, used=TOKENS, axis=2, layers=1))
    np.testing.assert_array_equal(reader.read(1, None, rows), ones[0])  # it has come meanwhile


class CountingStore(WrapperStore[Store]):
    """Counts what is asked of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gets, self.bytes = 0, 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        self.gets, self.bytes = self.gets + 1, self.bytes + (0 if value is None else len(value))
        return value


def test_neighbouring_chunks_are_one_read_and_an_index_is_read_once() -> None:
    array, _ = stored(MemoryStore(), layers=6, span=6, used=TOKENS)
    reader = ShardReader(zarr.open_array(CountingStore(array.store), path="q", mode="r+"))
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
    np.testing.assert_array_equal(ShardReader(array).read(1, None, rows), values[1])
    with pytest.raises(CorruptAtlasError, match="a chunk of q is damaged"):
        ShardReader(array).read(0, None, rows)
    raw[-9] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CorruptAtlasError, match="index of a shard of q is damaged"):
        ShardReader(array).read(1, None, rows)


def test_an_array_of_another_layout_is_read_by_zarr() -> None:
    values = np.random.default_rng(0).normal(size=(4, HEADS, TOKENS, FEATURES)).astype("f4")
    array = zarr.create_array(
        MemoryStore(), name="q", data=values, chunks=(1, 1, INNER, FEATURES), shards=(2, HEADS, 8, FEATURES)
    )
    np.testing.assert_array_equal(ShardReader(array).read(3, np.array([1, 0]), np.arange(3, 11)), values[3, ::-1, 3:11])
