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
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore, MemoryStore

from attlas.errors import CorruptAtlasError
from attlas.storage.shards import encode, load_layer, store_shard

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


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 7), span=st.integers(1, 7), used=st.integers(1, TOKENS), dtype=st.sampled_from(["f4", "u2"])
)
def test_zarr_and_the_reader_of_layers_find_what_was_written(layers: int, span: int, used: int, dtype: str) -> None:
    array, values = stored(MemoryStore(), layers=layers, span=min(span, layers), used=used, dtype=dtype)
    np.testing.assert_array_equal(np.asarray(array[...]), values)
    for layer in range(layers):
        np.testing.assert_array_equal(load_layer(array, layer, 0, axis=2), values[layer])


def test_a_shard_that_was_never_written_holds_the_fill_value() -> None:
    array, _ = stored(MemoryStore(), layers=2, span=1, used=5)
    wider = zarr.create_array(
        MemoryStore(), name="k", shape=array.shape, dtype="f4", chunks=array.chunks, shards=array.shards,
        compressors=[Crc32cCodec()], fill_value=7,
    )  # fmt: skip
    np.testing.assert_array_equal(load_layer(wider, 1, 0, axis=2), np.full((HEADS, TOKENS, FEATURES), 7))


def test_of_several_layers_only_one_is_read(tmp_path: Path) -> None:
    array, values = stored(LocalStore(tmp_path), layers=6, span=6, used=TOKENS)
    (file,) = (path for path in (tmp_path / "q" / "c").rglob("*") if path.is_file())
    raw = bytearray(file.read_bytes())
    raw[5] ^= 1  # of layer 0
    file.write_bytes(raw)
    np.testing.assert_array_equal(load_layer(array, 1, 0, axis=2), values[1])
    with pytest.raises(CorruptAtlasError, match="a chunk of q is damaged"):
        load_layer(array, 0, 0, axis=2)
    raw[-9] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CorruptAtlasError, match="index of a shard of q is damaged"):
        load_layer(array, 1, 0, axis=2)


def test_an_array_of_another_layout_is_read_by_zarr() -> None:
    values = np.random.default_rng(0).normal(size=(4, HEADS, TOKENS, FEATURES)).astype("f4")
    array = zarr.create_array(
        MemoryStore(), name="q", data=values, chunks=(1, 1, INNER, FEATURES), shards=(2, HEADS, 8, FEATURES)
    )
    np.testing.assert_array_equal(load_layer(array, 3, 1, axis=2), values[3, :, 8:])
