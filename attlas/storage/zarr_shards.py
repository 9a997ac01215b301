"""One shard of an array as the bytes of a Zarr v3 `sharding_indexed` chunk, made with one copy.

zarr encodes a shard inner chunk by inner chunk, which for small chunks takes longer than the forward pass that filled
them. Ours are raw (bytes, crc32c), so a shard is its chunks, each with its checksum, and the index behind them.

Between the chunks and the index, where a reader of Zarr sees nothing, lies a seal: the checksums of all chunks, and a
digest of these, of the index and of the place that the shard was written for. The read that fetches the index tells
with it that the file is the one that was written here, for this atlas, and which chunks belong to it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.codecs.sharding import ShardingCodec, ShardingCodecIndexLocation
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

__all__ = [
    "ABSENT",
    "CRC",
    "SEAL",
    "chunks_fit",
    "encode",
    "joined",
    "place_of",
    "store_zarr_shard",
    "takes_raw_zarr_shards",
    "unsealed",
    "zarr_shard_key",
]

ABSENT = np.uint64(2**64 - 1)
CRC = 4
SEAL = 16
"""Bytes of a seal's digest, which stands behind the chunks' checksums."""


def place_of(identity: str, key: str) -> bytes:
    """What a seal is of: one file of one atlas."""
    return f"{identity} {key}".encode()


def seal(place: bytes, sums: NDArray[Any], index: NDArray[Any]) -> bytes:
    """The digest of a Zarr shard. sums: the chunks' checksums in the order of the index, 0 where a chunk is absent."""
    return hashlib.blake2b(place + sums.tobytes() + index.tobytes(), digest_size=SEAL).digest()


def unsealed(tail: NDArray[np.uint8], entries: int, place: bytes) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Index (entries, 2) and checksums (entries,) from the end of a Zarr shard; None where its seal is broken.

    tail: its last entries x 20 + SEAL + CRC bytes.
    """
    if len(tail) < entries * (CRC + 16) + SEAL + CRC:
        return None
    end = len(tail) - CRC
    raw_index = tail[end - entries * 16 : end]
    if google_crc32c.value(raw_index.tobytes()) != int.from_bytes(tail[end:].tobytes(), "little"):
        return None
    own = tail[end - entries * 16 - SEAL : end - entries * 16].tobytes()
    sums = tail[end - entries * (16 + CRC) - SEAL : end - entries * 16 - SEAL].view("<u4")
    index = raw_index.view("<u8").reshape(entries, 2)
    return (index, sums) if seal(place, sums, index) == own else None


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


def chunks_fit(shard: NDArray[np.uint8], index: NDArray[Any], sums: NDArray[Any]) -> bool:
    """Whether every chunk of a whole shard has the checksum that its seal tells."""
    for (offset, size), wanted in zip(index.tolist(), sums.tolist(), strict=True):
        if offset != int(ABSENT):
            body = shard[offset : offset + size]
            own = int.from_bytes(body[-CRC:].tobytes(), "little")
            if not google_crc32c.value(body[:-CRC].tobytes()) == own == wanted:
                return False
    return True


def encode(values: NDArray[Any], *, inner: int, used: int, axis: int, layers: int, place: bytes) -> NDArray[np.uint8]:
    """The bytes of a whole shard, uint8, sealed for its place, see `place_of`.

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
    places = entries * chunks
    shard = np.empty(count * (size + CRC) + places * (CRC + 16) + SEAL + CRC, dtype=np.uint8)
    body = shard[: count * (size + CRC)].reshape(before, present, size + CRC)
    body[:, :, :size] = raw[:, :present]
    flat = body.reshape(count, size + CRC)
    sums = np.array([google_crc32c.value(flat[i, :size]) for i in range(count)], dtype="<u4")
    flat[:, size:] = sums.view(np.uint8).reshape(count, CRC)
    index = np.full((entries, chunks, 2), ABSENT, dtype="<u8")
    index[:before, :present, 0] = (np.arange(count, dtype=np.uint64) * np.uint64(size + CRC)).reshape(before, present)
    index[:before, :present, 1] = size + CRC
    every = np.zeros((entries, chunks), dtype="<u4")
    every[:before, :present] = sums.reshape(before, present)
    shard[count * (size + CRC) :] = np.frombuffer(_ending(place, every, index), dtype=np.uint8)
    return shard


def _ending(place: bytes, sums: NDArray[Any], index: NDArray[Any]) -> bytes:
    """What stands behind the chunks: their checksums, the seal, the index and its checksum."""
    raw = index.tobytes()
    return sums.tobytes() + seal(place, sums, index) + raw + google_crc32c.value(raw).to_bytes(CRC, "little")


def joined(bodies: list[bytes], sums: NDArray[Any], index: NDArray[Any], place: bytes) -> NDArray[np.uint8]:
    """The bytes of a shard whose chunks are encoded already, each with its checksum behind it."""
    return np.frombuffer(b"".join([*bodies, _ending(place, sums, index)]), dtype=np.uint8)


def zarr_shard_key(array: zarr.Array[Any], coordinates: tuple[int, ...]) -> str:
    """Where an array keeps a shard; coordinates count shards on each dimension."""
    return f"{array.path}/{array.metadata.encode_chunk_key(coordinates)}"


def store_zarr_shard(array: zarr.Array[Any], key: str, shard: NDArray[np.uint8]) -> None:
    """Put the bytes of a shard where the array keeps it."""
    sync(array.store.set(key, default_buffer_prototype().buffer.from_array_like(shard)))
