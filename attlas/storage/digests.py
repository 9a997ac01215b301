"""Digests of what is written when an atlas is made: its metadata, and the columns whose values are known then.

What is read is held against them: a flipped digit of a score rule, a file put in the place of another, and a chunk
that is gone, for which zarr gives the fill value, are then errors and never numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.core.sync import sync
from zarr.storage import StorePath

from attlas.errors import CorruptAtlasError, first_line
from attlas.storage.column_chunks import read_chunks, takes_chunks
from attlas.storage.together import together

__all__ = ["ROOT", "checked", "column_digests", "digest_of", "read_columns", "read_parts", "read_root", "with_digest"]

SIZE, ROOT_SIZE = 8, 16
ROOT = "zarr.json"
UNSEALED = "0" * 2 * ROOT_SIZE
"""Stands in the place of the metadata's digest while it is computed."""
BROKEN = (ValueError, RuntimeError, MemoryError)
"""What zarr and its codecs raise over bytes that are not what they should be."""


def digest_of(values: NDArray[Any]) -> str:
    """A short digest of an array's dtype, shape and values; texts by their characters."""
    hashed = hashlib.blake2b(f"{values.shape}".encode(), digest_size=SIZE)
    if values.dtype.kind in "OUT":
        texts = [str(text).encode("utf-8", "surrogatepass") for text in values.ravel()]
        hashed.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
        hashed.update(b"".join(texts))
    else:
        hashed.update(values.dtype.newbyteorder("<").str.encode())
        hashed.update(np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()


def column_digests(values: NDArray[Any], rows: int) -> list[str]:
    """The digest of every `rows` places of the first axis, which a chunk of the store holds."""
    return [digest_of(values[begin : begin + rows]) for begin in range(0, max(len(values), 1), rows)]


def checked(path: str, values: NDArray[Any], wanted: str) -> NDArray[Any]:
    """Values whose digest is the wanted one; raises CorruptAtlasError."""
    if digest_of(values) != wanted:
        raise CorruptAtlasError(
            f"{path} is damaged, lost or not what was written there: put the file back, or capture it again; "
            "attlas verify lists all that is wrong"
        )
    return values


def read_columns(root: zarr.Group, parts: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Columns of the store, or parts of them, all asked for at once, each held against its digest.

    parts: path -> a slice of the first axis, or ... for the whole array. Raises CorruptAtlasError.
    """
    return read_parts(root, {path: (path, part) for path, part in parts.items()})


def read_parts(root: zarr.Group, parts: Mapping[str, tuple[str, Any]]) -> dict[str, NDArray[Any]]:
    """As `read_columns`, several parts of one column too: name -> (path, part)."""
    digests: Any = root.attrs.get("digests", {})
    group = root._async_group

    async def one(path: str, part: Any) -> NDArray[Any]:
        try:
            array = await group.getitem(path)
        except KeyError as error:
            raise CorruptAtlasError(f"the atlas has no {path}: see attlas verify") from error
        assert isinstance(array, zarr.AsyncArray)
        wanted, rows = digests.get(path), array.chunks[0]
        begin, stop, _ = (slice(None) if part is ... else part).indices(array.shape[0])
        if wanted is not None and len(wanted) != max(1, -(-array.shape[0] // rows)):
            raise CorruptAtlasError(
                f"{path} tells of {array.shape[0]:,} rows, and has digests of {len(wanted):,} chunks: the metadata in "
                "zarr.json are damaged; put the file back from a copy"
            )
        low, high = begin // rows * rows, min(-(-stop // rows) * rows, array.shape[0])
        if takes_chunks(array) and high > low:
            values = await read_chunks(path, array, low // rows, -(-high // rows))
        else:
            values = np.asarray(await _decoded(path, array, slice(low, high)))
        if wanted is None:
            return values[begin - low : stop - low]
        for chunk in range(low // rows, -(-high // rows)):
            checked(path, values[chunk * rows - low : (chunk + 1) * rows - low], wanted[chunk])
        return values[begin - low : stop - low]

    async def every() -> list[NDArray[Any]]:
        return await together(one(path, part) for path, part in parts.values())

    return dict(zip(parts, sync(every()), strict=True))


async def _decoded(path: str, array: Any, part: Any) -> Any:
    try:
        return await array.getitem(part)
    except BROKEN as error:
        raise CorruptAtlasError(
            f"{path} cannot be read ({first_line(error)}): it is damaged; see attlas verify, and capture it again"
        ) from error


def with_digest(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A root's metadata with their digest among the attributes: that of the file which `json.dumps` makes of them."""
    plain = dict(metadata)
    plain["attributes"] = plain["attributes"] | {"digest": UNSEALED}
    digest = _root_digest(json.dumps(plain).encode())
    return plain | {"attributes": plain["attributes"] | {"digest": digest}}


def read_root(store: Store) -> zarr.Group | None:
    """The root group by one read, its metadata held against their digest; None where no group lies there.

    A group without a digest was never finished, and has no attribute `digest`. Raises CorruptAtlasError.
    """
    raw = _raw_root(store)
    if raw is None:
        return None
    metadata = _parsed_root(raw)
    if metadata.get("node_type") != "group":
        return None
    attributes = metadata.get("attributes")
    if not isinstance(attributes, dict) or "digest" not in attributes:
        known = GroupMetadata(attributes=attributes if isinstance(attributes, dict) else {}, zarr_format=3)
    elif attributes["digest"] != _root_digest(raw.replace(_told(attributes["digest"]), _told(UNSEALED), 1)):
        raise CorruptAtlasError(
            "the metadata in zarr.json do not fit their digest: put the file back from a copy, or make the atlas "
            "again with --overwrite"
        )
    else:  # what we wrote
        known = GroupMetadata.from_dict(metadata)
    return zarr.Group(zarr.core.group.AsyncGroup(metadata=known, store_path=StorePath(store)))


def members(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Path and metadata of everything that a root's consolidated metadata holds."""
    yield from (metadata.get("consolidated_metadata") or {}).get("metadata", {}).items()


def _raw_root(store: Store) -> bytes | None:
    buffer = sync(store.get(ROOT, default_buffer_prototype()))
    return None if buffer is None else buffer.to_bytes()


def _parsed_root(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptAtlasError(
            f"zarr.json is damaged ({first_line(error)}): put it back from a copy, or make the atlas again with "
            "--overwrite"
        ) from error
    return found if isinstance(found, dict) else {}


def _told(digest: Any) -> bytes:
    """How a digest stands in the file."""
    return b'"digest": ' + json.dumps(digest).encode()


def _root_digest(unsealed: bytes) -> str:
    """The digest of the file's bytes, with UNSEALED in its own place."""
    return hashlib.blake2b(unsealed, digest_size=ROOT_SIZE).hexdigest()
