"""Reads of a store that run at once, and all end before anything is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

__all__ = ["together"]

T = TypeVar("T")


async def together(reads: Iterable[Awaitable[T]]) -> list[T]:
    """What the reads return, in their order; raises what the first that fails raises, when all have ended: one that is
    left running is torn down with the process, and writes a traceback of its own to stderr."""
    found: list[T] = []
    for one in await asyncio.gather(*reads, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found
