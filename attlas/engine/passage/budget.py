"""What each process of a capture may take: an option value of `capture`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from attlas.parse import parse_bytes, parse_count, parse_workers

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Of each process. memory: in bytes. chunk_tokens: the most query tokens in a forward pass. threads: torch's, on a
    CPU. offload: bytes of weights kept in memory, the rest is read from disk. None: no limit, or the default."""

    memory: int | None = None
    chunk_tokens: int | None = None
    threads: int | None = None
    offload: int | None = None

    @classmethod
    def of(cls, *, memory: Any = None, chunk_tokens: Any = None, threads: Any = None, offload: Any = None) -> Self:
        """Read each as given; raises InputError."""
        return cls(
            memory=None if memory is None else parse_bytes(memory, "memory"),
            chunk_tokens=None if chunk_tokens is None else parse_count(chunk_tokens, "chunk_tokens"),
            threads=None if threads is None else parse_workers(threads, "threads"),
            offload=None if offload is None else parse_bytes(offload, "offload"),
        )
