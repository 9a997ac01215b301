"""Shards of maps as we lay them out: zarr reads back what was written, and nothing is written for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, MemoryStore

from attlas.storage import zarr_map_shards as map_shards
from attlas.storage.zarr_map_shards import write_map_rows

HEADS, SHARD, CHUNK = 3, 8, 4


def made(store: Any, queries: int, keys: int, dtype: str = "float16", *, ours: bool = True) -> zarr.Array[Any]:
    codecs = [BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=2), Crc32cCodec()]
    return zarr.create_array(
        store, name="attention", shape=(2, HEADS, queries, keys), dtype=dtype, chunks=(1, 1, CHUNK, CHUNK),
        shards=(1, 1, SHARD, SHARD), compressors=codecs if ours else "auto", fill_value=0,
    )  # fmt: skip


def weights(queries: int, keys: int, dtype: str) -> NDArray[Any]:
    """Causal weights of every head."""
    a_HQK = np.random.default_rng(0).uniform(0.1, 1, (HEADS, queries, keys))
    return np.tril(a_HQK).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    queries=st.integers(1, 20), keys=st.integers(1, 20), dtype=st.sampled_from(["float16", "float32"]),
    ours=st.booleans(),
)  # fmt: skip
def test_zarr_reads_what_was_written(queries: int, keys: int, dtype: str, ours: bool) -> None:
    array, a_HQK = made(MemoryStore(), queries, keys, dtype, ours=ours), weights(queries, keys, dtype)
    for start in range(0, queries, SHARD):
        written = write_map_rows(array, 1, start, a_HQK[:, start : start + SHARD], "atlas")
        assert bool(written) == ours
    np.testing.assert_array_equal(np.asarray(array[1]), a_HQK)
    assert not np.asarray(array[0]).any()


def test_what_lies_above_the_diagonal_takes_no_room(tmp_path: Path) -> None:
    array, a_HQK = made(LocalStore(tmp_path), 16, 16), weights(16, 16, "float16")
    parts = [write_map_rows(array, 0, start, a_HQK[:, start : start + SHARD], "atlas") for start in (0, SHARD)]
    size = sum(sum(part.values()) for part in parts)
    files = [path for path in (tmp_path / "attention" / "c").rglob("*") if path.is_file()]
    assert len(files) == HEADS * 3  # of four shards of 8 x 8 one holds nothing
    assert sum(path.stat().st_size for path in files) == size


def test_a_flipped_bit_is_noticed_by_zarr(tmp_path: Path) -> None:
    array = made(LocalStore(tmp_path), 8, 8)
    write_map_rows(array, 0, 0, weights(8, 8, "float16"), "atlas")
    file = tmp_path / "attention" / "c" / "0" / "0" / "0" / "0"
    raw = bytearray(file.read_bytes())
    raw[20] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="checksum"):
        np.asarray(array[0, 0])


def test_our_own_arrays_take_the_short_way() -> None:
    assert map_shards._codec(made(MemoryStore(), 8, 8)) is not None
    assert map_shards._codec(made(MemoryStore(), 8, 8, ours=False)) is None
