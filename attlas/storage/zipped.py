"""An atlas in a .zip file, read where it lies: zipped as its content, or as one folder that holds it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore, ZipStore

from attlas.errors import CorruptAtlasError, InputError

__all__ = ["ZippedStore"]


class ZippedStore(WrapperStore[ZipStore]):
    """prefix: the folder inside that holds the atlas, with its slash; empty where the content itself was zipped."""

    def __init__(self, store: ZipStore, *, prefix: str) -> None:
        super().__init__(store)
        self.prefix = prefix

    @classmethod
    def at(cls, path: Path) -> ZippedStore:
        """Raises CorruptAtlasError where the file's own directory cannot be read."""
        path = path.absolute()
        try:
            with zipfile.ZipFile(path) as opened:
                names = opened.namelist()
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise CorruptAtlasError(f"{path} is no whole zip file ({error}): fetch or zip it again") from error
        roots = [name for name in names if name.count("/") == 1 and name.endswith("/zarr.json")]
        inside = "zarr.json" not in names and len(roots) == 1
        store = ZipStore(path, mode="r")
        store._sync_open()
        return cls(store, prefix=roots[0].removesuffix("zarr.json") if inside else "")

    def _with_store(self, store: ZipStore) -> ZippedStore:
        return ZippedStore(store, prefix=self.prefix)

    def with_read_only(self, read_only: bool = False) -> ZippedStore:
        if not read_only:
            raise InputError(f"{self._store.path} is read-only: unzip it to write into it")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            return await super().get(self.prefix + key, prototype, byte_range)
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise CorruptAtlasError(
                f"{key} in {self._store.path} is damaged ({error}): fetch or zip it again"
            ) from error

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return await super().exists(self.prefix + key)

    async def list(self) -> AsyncIterator[str]:
        async for name in self.list_prefix(""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for name in super().list_prefix(self.prefix + prefix):
            if not name.endswith("/"):  # a folder's own entry is no key
                yield name.removeprefix(self.prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in super().list_dir((self.prefix + prefix).rstrip("/")):
            yield name

    async def is_empty(self, prefix: str) -> bool:
        async for _ in self.list_prefix(prefix):
            return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "prefix": self.prefix}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_store"], prefix=state["prefix"])  # type: ignore[misc]
