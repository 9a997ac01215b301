"""Chunks of the small columns of an atlas, read and decoded whole; their size is looked at before they take any memory.

A damaged chunk may say of itself that it has gigabytes, or billions of texts: it is refused by what it says.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numcodecs import VLenUTF8, blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, VLenUTF8Codec
from zarr.core.buffer import default_buffer_prototype

from attlas.errors import CorruptAtlasError, first_line
from attlas.storage.together import together

__all__ = ["read_chunks", "takes_chunks"]

CRC = 4
TEXT_BYTES, TEXT_RATIO = 64 * 2**20, 1000
"""Texts of one chunk may take so many bytes, and so many times what they take in the store."""


def takes_chunks(array: Any) -> bool:
    """Whether an array is stored as `ArraySpec` stores what has no Zarr shards, cut along its first axis alone."""
    codecs = [type(codec) for codec in getattr(array.metadata, "codecs", ())]
    packed = [codec for codec in codecs[1:] if codec is not BloscCodec]
    return (
        codecs[:1] in ([BytesCodec], [VLenUTF8Codec])
        and packed == [Crc32cCodec]
        and len(codecs) <= 3
        and tuple(array.chunks[1:]) == tuple(array.shape[1:])
        and (codecs[0] is VLenUTF8Codec or array.dtype.byteorder in "=<|")
    )


async def read_chunks(path: str, array: Any, first: int, stop: int) -> NDArray[Any]:
    """The chunks first:stop of the first axis, one behind the other, cut at the array's end; a chunk that is not there
    has the fill value. Raises CorruptAtlasError."""

    async def one(number: int) -> NDArray[Any]:
        key = f"{path}/{array.metadata.encode_chunk_key((number, *[0] * (len(array.shape) - 1)))}"
        raw = await array.store_path.store.get(key, default_buffer_prototype())
        rows = min(array.chunks[0], array.shape[0] - number * array.chunks[0])
        if raw is None:
            return np.full((rows, *array.shape[1:]), array.metadata.fill_value, dtype=array.dtype)
        try:
            return _decoded(array, raw.to_bytes())[:rows]
        except (ValueError, RuntimeError) as error:  # of the codecs
            raise CorruptAtlasError(
                f"{path} cannot be read ({first_line(error)}): it is damaged; see attlas verify, and capture it again"
            ) from error

    return np.concatenate(await together(one(number) for number in range(first, stop)))


def _is_text(array: Any) -> bool:
    return isinstance(array.metadata.codecs[0], VLenUTF8Codec)


def _decoded(array: Any, raw: bytes) -> NDArray[Any]:
    """A whole chunk from its bytes; raises ValueError or RuntimeError."""
    body, check = memoryview(raw)[:-CRC], raw[-CRC:]
    if len(raw) <= CRC or google_crc32c.value(bytes(body)) != int.from_bytes(check, "little"):
        raise ValueError("its checksum is wrong")
    shape = tuple(array.chunks)
    items = int(np.prod(shape, dtype=np.int64))
    packed = any(isinstance(codec, BloscCodec) for codec in array.metadata.codecs)
    size = int.from_bytes(body[4:8], "little") if packed else len(body)  # blosc's header
    if _is_text(array):
        fits = 4 * items + 4 <= size <= max(TEXT_BYTES, TEXT_RATIO * len(raw))
    else:
        fits = size == items * array.dtype.itemsize
    if not fits:
        raise ValueError(f"{size:,} bytes are told of {items:,} items")
    content = blosc.decompress(bytes(body)) if packed else bytes(body)
    if not _is_text(array):
        return np.frombuffer(content, dtype=array.dtype).reshape(shape)
    if int.from_bytes(content[:4], "little") != items:
        raise ValueError(f"it tells of another number of texts than {items:,}")
    texts: NDArray[Any] = np.asarray(VLenUTF8().decode(content)).astype(array.dtype).reshape(shape)
    return texts
