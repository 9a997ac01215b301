"""Shards of materialised maps as the bytes zarr reads: compressed chunks, each with its checksum, and the index.

zarr encodes the chunks of a shard one by one in Python's event loop, which takes longer than eager attention itself.
Chunks that hold nothing, above the diagonal, are left out, and so are shards without any chunk.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.codecs.sharding import ShardingCodec, ShardingCodecIndexLocation

from attlas.storage.zarr_shards import ABSENT, CRC, joined, place_of, store_zarr_shard, zarr_shard_key

__all__ = ["write_map_rows"]

THREADS = min(4, os.cpu_count() or 1)
SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


def write_map_rows(
    array: zarr.Array[Any], layer: int, start: int, a_HQK: NDArray[Any], identity: str
) -> dict[str, int]:
    """Write rows of one layer's maps, all heads and keys, beginning at a shard's first row; returns each file's bytes.

    a_HQK: in the array's dtype; rows to the shard's end, or to the array's. Several heads at once.
    """
    codec = _codec(array)
    if codec is None:  # rewritten by somebody with other codecs: zarr knows them
        array[layer, :, start : start + a_HQK.shape[1]] = a_HQK
        return {}
    assert array.shards is not None
    shards_K, row = range(-(-a_HQK.shape[2] // array.shards[3])), start // array.shards[2]

    def one(head: int) -> dict[str, int]:
        sizes = {}
        for k in shards_K:
            key = zarr_shard_key(array, (layer, head, row, k))
            part = a_HQK[head, :, k * array.shards[3] : (k + 1) * array.shards[3]]  # type: ignore[index]
            shard = _encode(array, codec, part, place_of(identity, key))
            if shard is not None:
                store_zarr_shard(array, key, shard)
                sizes[key] = len(shard)
        return sizes

    with ThreadPoolExecutor(THREADS) as pool:
        return {key: size for sizes in pool.map(one, range(a_HQK.shape[0])) for key, size in sizes.items()}


def _encode(array: zarr.Array[Any], codec: Blosc, a_QK: NDArray[Any], place: bytes) -> NDArray[np.uint8] | None:
    """One head's shard; None where every weight of it is zero."""
    assert array.shards is not None
    (height, width), shape = array.chunks[2:], array.shards[2:]
    index = np.full((shape[0] // height, shape[1] // width, 2), ABSENT, dtype="<u8")
    sums = np.zeros(index.shape[:2], dtype="<u4")
    bodies: list[bytes] = []
    at = 0
    for i in range(-(-a_QK.shape[0] // height)):
        for j in range(-(-a_QK.shape[1] // width)):
            part = a_QK[i * height : (i + 1) * height, j * width : (j + 1) * width]
            if not part.any():
                continue
            chunk = np.zeros((height, width), dtype=array.dtype) if part.shape != (height, width) else part
            if chunk is not part:
                chunk[: part.shape[0], : part.shape[1]] = part
            body = codec.encode(np.ascontiguousarray(chunk))
            sums[i, j] = google_crc32c.value(bytes(body))
            bodies += [body, int(sums[i, j]).to_bytes(CRC, "little")]
            index[i, j] = at, len(body) + CRC
            at += len(body) + CRC
    if not bodies:
        return None
    return joined(bodies, sums, index, place)


def _codec(array: zarr.Array[Any]) -> Blosc | None:
    """The compressor of an array of maps as `schema.map_arrays` makes it; None for any other."""
    codecs: Any = getattr(array.metadata, "codecs", ())
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return None
    inner, index = codecs[0].codecs, codecs[0].index_codecs
    if (
        codecs[0].index_location != ShardingCodecIndexLocation.end
        or [type(codec) for codec in inner] != [BytesCodec, BloscCodec, Crc32cCodec]
        or [type(codec) for codec in index] != [BytesCodec, Crc32cCodec]
        or array.dtype.byteorder not in "=<|"
    ):
        return None
    blosc: Any = inner[1]
    return Blosc(
        cname=blosc.cname.value, clevel=blosc.clevel, shuffle=SHUFFLES[blosc.shuffle.value], blocksize=blosc.blocksize
    )
