"""How far a long piece of work is, as values that a progress bar or a log can show. Light: imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CaptureProgress", "Progress", "Report", "ShardShare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """what: the unit of work, such as "pack" or "block". done, total: units. before: of those done, what an earlier run
    did. seconds: since this run began."""

    what: str
    done: int
    total: int
    before: int = 0
    seconds: float = 0.0

    @property
    def done_now(self) -> int:
        """Units that this run did."""
        return self.done - self.before

    @property
    def running(self) -> float:
        """Share of the unit at work that is done; 0 where it is not known."""
        return 0.0

    @property
    def units(self) -> float:
        """Units done, with the part of the one at work."""
        return min(self.done + self.running, self.total)

    @property
    def seconds_left(self) -> float | None:
        """At this run's pace so far; None before anything is done."""
        now = self.units - self.before
        return (self.total - self.units) * self.seconds / now if now > 0 else None


Report = Callable[[Progress], None]
"""What a long piece of work tells its progress to, from time to time and at its end."""


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
class CaptureProgress(Progress):
    """Of a capture, whose unit is a pack.

    tokens, tokens_done, tokens_before: of all packs, of the committed ones, and of those by an earlier run. layers,
    layers_done: of the running pack of one process. failed: packs recorded as failed. retries: packs run again. losses:
    pipelines lost. shards: on a cluster, every shard of every replica.
    """

    what: str = "pack"
    tokens: int
    tokens_done: int
    tokens_before: int = 0
    layers: int = 0
    layers_done: int = 0
    bytes: int = 0
    retries: int = 0
    losses: int = 0
    failed: int = 0
    shards: tuple[ShardShare, ...] = ()

    @property
    def tokens_now(self) -> int:
        """Tokens that this run committed."""
        return self.tokens_done - self.tokens_before

    @property
    def running(self) -> float:
        return self.layers_done / self.layers if self.layers and self.done < self.total else 0.0
