"""Packs on their way over the replicas: which waits, which runs where, what happens when something breaks.

One loop in the driver. A replica has at most `window` chunks on their way, so that all its shards work at once and
hidden states in memory stay few; chunks of the next pack follow those of the one before without a gap. What fails with
a replica runs again from its start; what becomes of a pack that
breaks is decided by `attlas.engine.passage.retry`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from attlas.actors.log import log_event
from attlas.actors.replica import Replica
from attlas.actors.worker import PackKey, PackReport, PackWork
from attlas.engine.passage.documents import Pack
from attlas.engine.passage.headroom import Headroom
from attlas.engine.passage.retry import Trial, after_error, after_loss, describe_error
from attlas.errors import AttlasError, ClusterError, first_line
from attlas.progress import ShardShare

__all__ = ["PackQueue", "PackStore", "Tally"]

PATIENCE = 600.0
"""Seconds to wait for room on the cluster while no replica can work."""
STARTS = 20
"""How often a replica may be started anew."""


class PackStore(Protocol):
    """The driver's side of the store; attlas.storage.AtlasWriter is one."""

    def commit(self, pack: Pack, *, seconds: float, attempt: int, size: int, room: Headroom | None) -> None: ...

    def fail(self, pack: Pack, *, attempt: int, error: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has happened so far."""

    packs: int = 0
    bytes: int = 0
    retries: int = 0
    losses: int = 0
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Task:
    """One pack that is not committed."""

    pack: Pack
    trial: Trial

    @property
    def key(self) -> PackKey:
        return (self.pack.index, self.trial.attempt)


@dataclass(slots=True, eq=False)
class _Active:
    """A pack in a replica."""

    task: _Task
    steps: Iterator[tuple[int, int]]
    begun: float
    waiting: int = 0
    all_sent: bool = False
    flushing: list[Any] = field(default_factory=list)
    next_step: tuple[int, int] | None = None


class _Lane:
    """A replica at work: its packs, the reports it owes, and what its shards have done."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.active: list[_Active] = []
        self.owed: dict[Any, tuple[_Active, int]] = {}
        self.chunks = 0
        self.ready_at = time.monotonic()
        self.seconds = [0.0] * replica.shards
        self.bytes = [0] * replica.shards
        self.peak = [0] * replica.shards
        self.device = [0] * replica.shards

    def forget(self, active: _Active) -> None:
        """Strike a pack out, with every report it owes."""
        last = self.replica.shards - 1
        gone = [ref for ref, (one, _) in self.owed.items() if one is active]
        self.chunks -= sum(self.owed[ref][1] == last for ref in gone)
        for ref in gone:
            del self.owed[ref]
        self.active.remove(active)


class PackQueue:
    """Runs packs over replicas until every one is committed or recorded as failed.

    work: the passages of a pack under given tile and chunk sizes. name: of a pack, for messages. tell: called now and
    then, and after every pack.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        store: PackStore,
        *,
        work: Callable[[Pack, Headroom], PackWork],
        name: Callable[[Pack], str],
        tell: Callable[[], None],
        window: int | None = None,
    ) -> None:
        self.lanes = [_Lane(replica) for replica in replicas]
        self.store, self.work, self.name, self.tell = store, work, name, tell
        self.window = window or replicas[0].shards + 1
        self.waiting: deque[_Task] = deque()
        self.tally = Tally()
        self._stuck_since: float | None = None

    def run(self, packs: Sequence[Pack], room: Headroom) -> Tally:
        """Raises ClusterError where the cluster has no place for any replica for PATIENCE seconds."""
        self.waiting.extend(_Task(pack=pack, trial=Trial(room=room)) for pack in packs)
        while self.waiting or any(lane.active for lane in self.lanes):
            for lane in self.lanes:
                self._advance(lane)
                if lane.replica.state == "ready":
                    self._guarded(lane, None, self._feed, lane)
            self._check_places()
            owed = [ref for lane in self.lanes for ref in lane.owed]
            owed += [ref for lane in self.lanes for active in lane.active for ref in active.flushing]
            if not owed:
                time.sleep(0.05)
                self.tell()
                continue
            done, _ = ray.wait(owed, num_returns=len(owed), timeout=0)
            if not done:
                done, _ = ray.wait(owed, num_returns=1, timeout=0.2)
            for ref in done:
                self._take(ref)
            self.tell()
        return self.tally

    def shares(self) -> tuple[ShardShare, ...]:
        """Every shard of every replica."""
        found = []
        for lane in self.lanes:
            replica = lane.replica
            elapsed = max(time.monotonic() - lane.ready_at, 1e-9)
            for shard, loading in enumerate(replica.loadings):
                facts = replica.facts[shard] if replica.facts else None
                found.append(
                    ShardShare(
                        replica=replica.number,
                        shard=shard,
                        layers=(loading.start, loading.stop),
                        node=facts.node if facts else "",
                        device=facts.device if facts else "",
                        state=replica.state,
                        busy=min(1.0, lane.seconds[shard] / elapsed),
                        bytes=lane.bytes[shard],
                        peak_memory=lane.peak[shard],
                        device_memory=lane.device[shard],
                    )
                )
        return tuple(found)

    def _feed(self, lane: _Lane) -> None:
        """Send chunks until the window is full."""
        while lane.chunks < self.window:
            active = next((one for one in lane.active if not one.all_sent), None)
            if active is None:
                if not self.waiting or len(lane.active) > self.window:
                    return
                active = self._open(lane, self.waiting.popleft())
            step = active.next_step
            assert step is not None
            for shard, ref in enumerate(lane.replica.step(active.task.key, *step)):
                lane.owed[ref] = (active, shard)
            lane.chunks += 1
            active.waiting += lane.replica.shards
            active.next_step = next(active.steps, None)
            active.all_sent = active.next_step is None

    def _open(self, lane: _Lane, task: _Task) -> _Active:
        work = self.work(task.pack, task.trial.room)
        steps = ((part, chunk) for part, passage in enumerate(work.passages) for chunk in range(len(passage.chunks)))
        active = _Active(task=task, steps=steps, begun=time.monotonic())
        active.next_step = next(active.steps)
        lane.active.append(active)
        log_event("pack begun", pack=task.pack.index, replica=lane.replica.number, attempt=task.trial.attempt)
        lane.replica.begin(task.key, work)
        return active

    def _take(self, ref: Any) -> None:
        """Take a report that has come; one of a pack that is struck out already is nobody's."""
        for lane in self.lanes:
            active, shard = lane.owed.get(ref, (None, 0))
            if active is not None:
                self._guarded(lane, active, self._step_done, lane, ref, active, shard)
                return
            active = next((one for one in lane.active if ref in one.flushing), None)
            if active is not None:
                self._guarded(lane, active, self._flushed, lane, active)
                return

    def _step_done(self, lane: _Lane, ref: Any, active: _Active, shard: int) -> None:
        report = ray.get(ref)
        del lane.owed[ref]
        lane.seconds[shard] += report.seconds
        lane.chunks -= shard == lane.replica.shards - 1
        active.waiting -= 1
        if active.all_sent and not active.waiting:
            active.flushing = lane.replica.flush(active.task.key)

    def _flushed(self, lane: _Lane, active: _Active) -> None:
        """Commit once every shard has flushed."""
        done, _ = ray.wait(active.flushing, num_returns=len(active.flushing), timeout=0)
        ray.get(done)  # raises what broke
        if len(done) < len(active.flushing):
            return
        task = active.task
        reports: list[PackReport] = ray.get(active.flushing)
        for shard, report in enumerate(reports):
            lane.seconds[shard] += report.seconds
            lane.bytes[shard] += report.bytes
            lane.peak[shard] = max(lane.peak[shard], report.peak_memory)
            lane.device[shard] = max(lane.device[shard], report.device_memory)
        size, seconds = sum(report.bytes for report in reports), time.monotonic() - active.begun
        lane.forget(active)
        self.store.commit(task.pack, seconds=seconds, attempt=task.trial.attempt, size=size, room=task.trial.room)
        self.tally.packs += 1
        self.tally.bytes += size
        for shard, report in enumerate(reports):
            log_event(
                "shard wrote", pack=task.pack.index, replica=lane.replica.number, shard=shard, bytes=report.bytes,
                peak_memory=report.peak_memory,
            )  # fmt: skip
        log_event(
            "pack committed", pack=task.pack.index, replica=lane.replica.number, attempt=task.trial.attempt, bytes=size,
            seconds=round(seconds, 3),
        )  # fmt: skip

    def _guarded(self, lane: _Lane, active: _Active | None, act: Callable[..., None], *args: Any) -> None:
        """Do something with a replica; what breaks is the pack's fault, or the replica is lost."""
        try:
            act(*args)
        except RayTaskError as error:
            if active is None:
                raise
            self._pack_broke(lane, active, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:
            self._replica_lost(lane, error)

    def _pack_broke(self, lane: _Lane, active: _Active, error: Exception) -> None:
        task = active.task
        lane.forget(active)
        lane.replica.drop(task.key)
        log_event(
            "pack broke", pack=task.pack.index, replica=lane.replica.number, attempt=task.trial.attempt,
            error=describe_error(error),
        )  # fmt: skip
        self._again(task, after_error(task.trial, error, name=self.name(task.pack)))

    def _replica_lost(self, lane: _Lane, error: Exception) -> None:
        """Every pack of the replica runs again, and the replica starts anew."""
        log_event(
            "replica lost", replica=lane.replica.number, error=first_line(error),
            packs=[active.task.pack.index for active in lane.active],
        )  # fmt: skip
        tasks = [active.task for active in lane.active]
        lane.active, lane.owed, lane.chunks = [], {}, 0
        self.tally.losses += 1
        lane.replica.stop()
        for task in reversed(tasks):
            self._again(task, after_loss(task.trial, error))
        if lane.replica.starts < STARTS:
            lane.replica.start()

    def _again(self, task: _Task, outcome: Trial | Exception) -> None:
        """Put a pack back in front, or record that it failed."""
        if isinstance(outcome, Trial):
            task.trial = outcome
            self.tally.retries += 1
            self.waiting.appendleft(task)
            return
        error = describe_error(outcome)
        self.store.fail(task.pack, attempt=task.trial.attempt, error=error)
        self.tally.failed[task.pack.index] = error
        log_event("pack failed", pack=task.pack.index, attempt=task.trial.attempt, error=error)

    def _advance(self, lane: _Lane) -> None:
        try:
            if lane.replica.advance():
                lane.ready_at, lane.seconds = time.monotonic(), [0.0] * lane.replica.shards
        except AttlasError:
            raise
        except RayError as error:
            self._replica_lost(lane, error)

    def _check_places(self) -> None:
        """Raise ClusterError where nothing works and nothing has come up for a long time."""
        states = [lane.replica.state for lane in self.lanes]
        if "ready" in states:
            self._stuck_since = None
            return
        if set(states) == {"stopped"}:
            raise ClusterError(f"every replica died {STARTS} times: see the log for what killed them, then --resume")
        self._stuck_since = self._stuck_since or time.monotonic()
        if time.monotonic() - self._stuck_since > PATIENCE:
            need = self.lanes[0].replica
            raise ClusterError(
                f"the cluster has had no room for {need.shards} shards of {need.cpus:g} CPUs and {need.gpus:g} GPUs "
                f"for {PATIENCE:.0f} s: add nodes, then go on with --resume"
            )
