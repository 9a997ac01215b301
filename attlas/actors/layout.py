"""How a model is spread: an option value of `capture`. Needs no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from attlas.errors import InputError
from attlas.parse import parse_shards, parse_word, parse_workers

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """shards: of one replica; None for as few as fit the cluster's devices. replicas: whole pipelines. address: of a
    running Ray cluster; None for a private one."""

    shards: int | None = 1
    replicas: int = 1
    address: str | None = None

    @classmethod
    def of(cls, *, shards: Any = 1, replicas: Any = 1, address: Any = None) -> Self:
        """Read each as given; raises InputError."""
        if address is not None:
            address = parse_word(address, "address", "give auto, host:6379, or None for a private cluster")
        return cls(shards=parse_shards(shards), replicas=parse_workers(replicas, "replicas"), address=address)

    @property
    def in_this_process(self) -> bool:
        """Whether no cluster is needed."""
        return self.shards == 1 and self.replicas == 1 and self.address is None

    def check_reaches(self, store: object) -> None:
        """Raise InputError where the store lies where no shard reaches it."""
        if not self.in_this_process and str(store).startswith("memory://"):
            raise InputError(f"{store} lies in this process's memory, which no shard reaches: give a folder or a URL")
