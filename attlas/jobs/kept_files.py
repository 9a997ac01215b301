"""The files of a kept answer: what was written is noted, and what is read is held against it before it is decoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from attlas.errors import CorruptAtlasError

__all__ = ["CheckedStore", "NotingStore", "is_signed", "signed"]


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record, as JSON gives it back, with the digest of all that it says."""
    plain = json.loads(json.dumps(dict(record)))
    return plain | {"digest": _digest(json.dumps(plain, sort_keys=True).encode())}


def is_signed(record: Any) -> bool:
    """Whether a record is one that `signed` made."""
    if not isinstance(record, dict) or "digest" not in record:
        return False
    return bool(signed({key: value for key, value in record.items() if key != "digest"}) == record)


class NotingStore(WrapperStore[Store]):
    """Notes the digest of every file that is put into a store. noted: key -> digest, shared with its copies."""

    def __init__(self, store: Store, noted: dict[str, str]) -> None:
        super().__init__(store)
        self.noted = noted

    def _with_store(self, store: Store) -> NotingStore:
        return NotingStore(store, self.noted)

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self.noted[key] = _digest(value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self.noted.pop(key, None)


class CheckedStore(WrapperStore[Store]):
    """Reads files whose digests are known. known: key -> digest; another file is as good as not there.

    Raises CorruptAtlasError where a file is gone, or is not the one that was written.
    """

    def __init__(self, store: Store, known: Mapping[str, str]) -> None:
        super().__init__(store)
        self.known = known

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(store, self.known)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        assert byte_range is None  # an answer's arrays have no Zarr shards: their files are read whole
        if key not in self.known:
            return None
        content = await super().get(key, prototype)
        if content is None:
            raise CorruptAtlasError(f"{key} is gone")
        if _digest(content.to_bytes()) != self.known[key]:
            raise CorruptAtlasError(f"{key} is not what was written there")
        return content


def _digest(content: bytes) -> str:
    """Of faults, which do not aim: two files are taken for one in 2**64 cases."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()
