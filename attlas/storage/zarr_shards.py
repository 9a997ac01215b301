"""One shard of an array as the bytes of a Zarr v3 `sharding_indexed` chunk, made with one copy.

zarr encodes a shard inner chunk by inner chunk, which for small chunks takes longer than the forward pass that filled
them. Ours are raw (bytes, crc32c), so a shard is its chunks, each with its checksum, and the index behind them.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.codecs.sharding import ShardingCodec, ShardingCodecIndexLocation
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

__all__ = ["ABSENT", "CRC", "encode", "store_zarr_shard", "takes_raw_zarr_shards"]

ABSENT = np.uint64(2**64 - 1)
CRC = 4


def takes_raw_zarr_shards(array: zarr.Array[Any]) -> bool:
    """Whether the array's shards are laid out as `encode` lays them out."""
    codecs: Any = getattr(array.metadata, "codecs", ())
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return False
    inner, index = codecs[0].codecs, codecs[0].index_codecs
    return (
        codecs[0].index_location == ShardingCodecIndexLocation.end
        and all([type(codec) for codec in chain] == [BytesCodec, Crc32cCodec] for chain in (inner, index))
        and array.dtype.byteorder in "=<|"
    )


def encode(values: NDArray[Any], *, inner: int, used: int, axis: int, layers: int) -> NDArray[np.uint8]:
    """The bytes of a whole shard, uint8.

    values: the shard, contiguous. inner: tokens in an inner chunk, which has one index on every dimension before the
    token axis `axis` and all of those after. used: tokens that hold something; chunks beyond them are left out.
    layers: of a whole shard; the last shard of an array holds fewer, and has no chunks of the others.
    """
    before = int(np.prod(values.shape[:axis], dtype=np.int64))
    chunks, present = values.shape[axis] // inner, -(-used // inner)
    size = values[(0,) * axis + (slice(0, inner),)].nbytes
    raw = np.ascontiguousarray(values).reshape(before, chunks, -1).view(np.uint8)
    count = before * present
    entries = before // values.shape[0] * layers
    shard = np.empty(count * (size + CRC) + entries * chunks * 16 + CRC, dtype=np.uint8)
    body = shard[: count * (size + CRC)].reshape(before, present, size + CRC)
    body[:, :, :size] = raw[:, :present]
    flat = body.reshape(count, size + CRC)
    sums = np.array([google_crc32c.value(flat[i, :size]) for i in range(count)], dtype="<u4")
    flat[:, size:] = sums.view(np.uint8).reshape(count, CRC)
    index = np.full((entries, chunks, 2), ABSENT, dtype="<u8")
    index[:before, :present, 0] = (np.arange(count, dtype=np.uint64) * np.uint64(size + CRC)).reshape(before, present)
    index[:before, :present, 1] = size + CRC
    tail = shard[count * (size + CRC) :]
    tail[:-CRC] = index.reshape(-1).view(np.uint8)
    tail[-CRC:] = np.array([google_crc32c.value(tail[:-CRC])], dtype="<u4").view(np.uint8)
    return shard


def store_zarr_shard(array: zarr.Array[Any], coordinates: tuple[int, ...], shard: NDArray[np.uint8]) -> None:
    """Put the bytes of a shard where the array keeps it; coordinates count shards on each dimension."""
    key = f"{array.path}/{array.metadata.encode_chunk_key(coordinates)}"
    sync(array.store.set(key, default_buffer_prototype().buffer.from_array_like(shard)))
