"""One replica: a whole pipeline of shard actors in one placement group, from its start to its end, seen by the driver.

Nothing here waits: a replica is asked to `advance` from time to time, and says what it has become. Hidden states go
from actor to actor as object references; the driver holds the references and never the states.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from attlas.actors.log import log_event
from attlas.actors.worker import Job, Loading, PackKey, PackWork, ShardFacts, ShardWorker
from attlas.errors import AttlasError, ClusterError, first_line

__all__ = ["RemoteStage", "Replica"]

Ref = Any
CLOSE_SECONDS = 5.0


class RemoteStage:
    """Implements attlas.engine.model.probe.ProbeStage for a shard actor."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self.actor = actor

    def forward(self, inputs: dict[str, Any], state: Any, attention: str) -> Any:
        return _get(self.actor.probe_forward.remote(inputs, state, attention))

    def passage(self, layout: Any, passage: Any, states: list[Any]) -> Any:
        return _get(self.actor.probe_passage.remote(layout, passage, states))


class Replica:
    """state: "placing" (waits for room on the cluster), "loading" (weights), "ready", or "stopped"."""

    def __init__(self, number: int, loadings: Sequence[Loading], *, cpus: float, gpus: float) -> None:
        self.number, self.loadings, self.cpus, self.gpus = number, tuple(loadings), cpus, gpus
        self.actors: list[ActorHandle[Any]] = []
        self.facts: tuple[ShardFacts, ...] = ()
        self.job: Job | None = None
        self.starts = 0
        self._group: PlacementGroup | None = None
        self._waiting: list[Ref] = []
        self.state = "stopped"
        self.since = time.monotonic()

    @property
    def shards(self) -> int:
        return len(self.loadings)

    def start(self) -> None:
        """Ask the cluster for room; `advance` does the rest."""
        self.starts += 1
        bundle = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        self._group = placement_group([dict(bundle) for _ in self.loadings], strategy="PACK")
        self._waiting = [self._group.ready()]
        self._become("placing")

    def advance(self) -> bool:
        """Go on where what was waited for has come; True where the replica has just become ready.

        Raises AttlasError where a shard cannot be loaded for a reason that will not go away; RayError where an actor
        died meanwhile.
        """
        if self.state not in {"placing", "loading"}:
            return False
        done, _ = ray.wait(self._waiting, num_returns=len(self._waiting), timeout=0)
        if len(done) < len(self._waiting):
            return False
        found = _get(self._waiting)
        if self.state == "placing":
            self._create()
            self._become("loading")
            return False
        if not self.facts:
            self.facts = tuple(found)
            for shard, facts in enumerate(self.facts):
                log_event(
                    "shard loaded", replica=self.number, shard=shard, node=facts.node, pid=facts.pid,
                    device=facts.device, seconds=round(facts.seconds, 2),
                )  # fmt: skip
            if self.job is not None:
                self._waiting = self._prepare(self.job)
                return False
        self._become("ready")
        log_event("replica ready", replica=self.number, start=self.starts)
        return True

    def prepare(self, job: Job) -> None:
        """Get ready for packs, now or, where the shards are still to come or die meanwhile, once they are there."""
        self.job = job
        if self.state != "ready":
            return
        try:
            _get(self._prepare(job))
        except RayTaskError:
            raise
        except RayError as error:
            log_event("replica lost", replica=self.number, error=first_line(error), packs=[])
            self.stop()
            self.start()

    def begin(self, key: PackKey, work: PackWork) -> None:
        shared = ray.put(work)
        for actor in self.actors:
            actor.begin.remote(key, shared)

    def step(self, key: PackKey, part: int, chunk: int) -> list[Ref]:
        """Send one chunk down the pipeline; the shards' report references, in order."""
        state: Any = None
        reports: list[Ref] = []
        for actor in self.actors:
            step: Any = actor
            state, report = step.step.options(num_returns=2).remote(key, part, chunk, state)
            reports.append(report)
        return reports

    def flush(self, key: PackKey) -> list[Ref]:
        return [actor.flush.remote(key) for actor in self.actors]

    def drop(self, key: PackKey) -> None:
        for actor in self.actors:
            actor.drop.remote(key)

    def stop(self) -> None:
        """End the actors and give their room back."""
        if self.actors and any(loading.offload is not None for loading in self.loadings):
            ray.wait(
                [actor.close.remote() for actor in self.actors], num_returns=len(self.actors), timeout=CLOSE_SECONDS
            )
        for actor in self.actors:
            ray.kill(actor, no_restart=True)
        if self._group is not None:
            remove_placement_group(self._group)
        self.actors, self._group, self._waiting, self.facts = [], None, [], ()
        self._become("stopped")

    def _create(self) -> None:
        assert self._group is not None
        for index, loading in enumerate(self.loadings):
            where = PlacementGroupSchedulingStrategy(placement_group=self._group, placement_group_bundle_index=index)
            actor: Any = ray.remote(ShardWorker)
            self.actors.append(
                actor.options(
                    num_cpus=self.cpus, num_gpus=self.gpus, scheduling_strategy=where, max_restarts=0,
                    name=None,
                ).remote(replace(loading))
            )  # fmt: skip
        self._waiting = [actor.load.remote() for actor in self.actors]

    def _prepare(self, job: Job) -> list[Ref]:
        """A shard with another behind it runs to its end; the last one that is needed may stop sooner."""
        last = len(self.actors) - 1
        return [actor.prepare.remote(replace(job, finish=i < last)) for i, actor in enumerate(self.actors)]

    def _become(self, state: str) -> None:
        self.state, self.since = state, time.monotonic()


def _get(refs: Any) -> Any:
    """Fetch; an error that our own code raised in an actor is raised as it was there."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AttlasError | TypeError | IndexError):
            raise cause from None
        raise
    except GetTimeoutError as error:
        raise ClusterError(str(error)) from error
