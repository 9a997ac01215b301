"""How far a capture is, as values that a progress bar or a log can show. Light: imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress", "ShardShare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardShare:
    """One shard's part so far.

    layers: [start, stop) over all stacks of the model. state: "placing", "loading", "ready" or "stopped". busy: share
    of the time since its replica was ready that it was at work. bytes: written. peak_memory: of the process, and
    device_memory: of its GPU, in bytes; 0 before the first pack.
    """

    replica: int
    shard: int
    layers: tuple[int, int]
    node: str
    device: str
    state: str
    busy: float
    bytes: int
    peak_memory: int
    device_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Packs and tokens committed, and of the running pack of one process the layers done.

    seconds: since the first pack began. packs_now, tokens_now: committed since then, so without those of a capture that
    is resumed. failed: packs recorded as failed. shards: on a cluster, every shard of every replica.
    """

    packs: int
    packs_done: int
    tokens: int
    tokens_done: int
    layers: int = 0
    layers_done: int = 0
    seconds: float = 0.0
    packs_now: int = 0
    tokens_now: int = 0
    bytes: int = 0
    retries: int = 0
    losses: int = 0
    failed: int = 0
    shards: tuple[ShardShare, ...] = ()
