"""A store that takes its time, as an object store does, and counts what it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from zarr.abc.store import Store
from zarr.storage import MemoryStore, WrapperStore

__all__ = ["SlowStore"]


class SlowStore(WrapperStore[Store]):
    """asked: every request so far, as (verb, key). A copy made by zarr counts in the same list."""

    def __init__(self, store: Store | None = None, *, seconds: float = 0.0, asked: list[tuple[str, str]] | None = None):
        super().__init__(MemoryStore() if store is None else store)
        self.seconds, self.asked = seconds, [] if asked is None else asked

    def _with_store(self, store: Store) -> SlowStore:
        return SlowStore(store, seconds=self.seconds, asked=self.asked)

    async def _ask(self, verb: str, key: str) -> None:
        self.asked.append((verb, key))
        await asyncio.sleep(self.seconds)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        await self._ask("get", key)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        raise AssertionError("requests that are not counted")

    async def exists(self, key: str) -> bool:
        await self._ask("exists", key)
        return await super().exists(key)

    async def set(self, key: str, value: Any) -> None:
        await self._ask("set", key)
        await super().set(key, value)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        await self._ask("list", prefix)
        async for name in super().list_dir(prefix):
            yield name
