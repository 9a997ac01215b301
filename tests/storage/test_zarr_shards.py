"""Shards as we lay them out: what zarr and our reader find in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from attlas.errors import CorruptAtlasError
from attlas.storage.zarr_shard_reader import ZarrShardReader
from attlas.storage.zarr_shards import encode, place_of, store_zarr_shard, zarr_shard_key

HEADS, TOKENS, INNER, FEATURES = 2, 16, 4, 3


def stored(
    store: Any, *, layers: int, span: int, used: int, dtype: str = "float32", name: str = "q"
) -> tuple[zarr.Array[Any], NDArray[Any]]:
    """An array of one block of tokens, written shard by shard, and its values with NaN or 0 behind the last token."""
    array = zarr.create_array(
        store, name=name, shape=(layers, HEADS, TOKENS, FEATURES), dtype=dtype, chunks=(1, 1, INNER, FEATURES),
        shards=(span, HEADS, TOKENS, FEATURES), compressors=[Crc32cCodec()], fill_value=7,
    )  # fmt: skip
    values = np.random.default_rng(ord(name)).integers(0, 99, array.shape).astype(dtype)
    values[:, :, used:] = 7
    for shard in range(-(-layers // span)):
        part = values[shard * span : (shard + 1) * span]
        key = zarr_shard_key(array, (shard, 0, 0, 0))
        store_zarr_shard(array, key, encode(part, inner=INNER, used=used, axis=2, layers=span, place=place_of("", key)))
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
    reader = ZarrShardReader(array, "")
    for layer in range(layers):
        if max(tokens) // INNER > (used - 1) // INNER:  # of these no chunk was written
            with pytest.raises(CorruptAtlasError, match="lacks rows that are committed"):
                reader.read(layer, None if heads is None else np.array(heads), np.array(tokens))
            continue
        found = reader.read(layer, None if heads is None else np.array(heads), np.array(tokens))
        expected = values[layer] if heads is None else values[layer][heads]
        np.testing.assert_array_equal(found, expected[:, tokens])
