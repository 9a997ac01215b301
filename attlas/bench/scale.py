"""Shards on one long document and replicas on a corpus of short ones, over Ray, against one process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import attlas
from attlas.actors.cluster import joined_cluster
from attlas.bench.machine import find_machine, usable_cores
from attlas.bench.report import Limit, Report, Row
from attlas.bench.rounds import Timings, run_rounds
from attlas.bench.trial import Ids, Subject, Trial, sides
from attlas.engine.model.device import check_threads
from attlas.errors import InputError
from attlas.progress import CaptureProgress, ShardShare

__all__ = ["ONE", "bench_scale", "cores_note"]

ONE = "one process"
SHORT, LONG = 20, 200
"""Tokens of a short document, at least and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """One way to run: a single process, or shards and replicas on Ray."""

    name: str
    shards: int = 1
    replicas: int = 1

    @property
    def workers(self) -> int:
        return self.shards * self.replicas


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """documents: captured by every layout alike. last: what the newest run of each layout told at its end."""

    name: str
    documents: list[Ids]
    layouts: tuple[_Layout, ...]
    last: dict[str, CaptureProgress] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(len(side) for document in self.documents for side in sides(document))


def bench_scale(
    trial: Trial,
    *,
    shards: Sequence[int],
    replicas: Sequence[int],
    tokens: int | None,
    documents: int,
    keep: str,
    threads: int,
    chunk_tokens: int,
    address: str | None,
) -> Report:
    """Rows: one process, and each number of shards on one document of `tokens`, and of replicas on `documents` of them.

    Every process has `threads` torch threads, so that a worker more is a core more. Seconds are those from the first
    pack's begin to the last one's commit: what a run costs to start is left out. Of the user's documents, the longest
    is for the shards, and all are for the replicas. Raises InputError where the model has fewer layers than shards.
    """
    subject = trial.load()
    depth = len(subject.shape.layers)
    if max(shards) > depth:
        raise InputError(f"--shards {max(shards)}, and the model has {depth} attention layers: a shard needs one")
    tasks = _tasks(trial, subject, shards, replicas, tokens, documents)
    limits = subject.limits(trial, disk=False)
    most = max(layout.workers for task in tasks for layout in task.layouts)
    rows: list[Row] = []
    trial.told("starting Ray")
    with joined_cluster(address, cpus=most * threads) as facts:
        if facts.private:  # a worker on another machine looks at its own cores
            check_threads(threads)
        cores = usable_cores() if facts.private else int(facts.cpus)
        for task in tasks:
            # no warm-up: the clock of a capture starts once all its shards are ready
            timings = run_rounds(
                {
                    layout.name: _run(trial, task, layout, keep=keep, threads=threads, chunk_tokens=chunk_tokens)
                    for layout in task.layouts
                },
                rounds=trial.rounds, warm_ups=0, progress=partial(_tell, trial, task.name),
            )  # fmt: skip
            rows += [_row(task, layout, timings, cores, threads) for layout in task.layouts]
    return Report(
        workload="scale",
        model=trial.model,
        ratio=ONE,
        machine=find_machine(trial.folder),
        limits=limits,
        rows=tuple(rows),
        options={
            "shards": list(shards), "replicas": list(replicas), "tokens": tasks[0].tokens, "documents": documents,
            "keep": keep, "threads": threads, "chunk_tokens": chunk_tokens, "rounds": trial.rounds,
            "address": address, "cores": cores, "dtype": limits.dtype, "device": limits.device, "seed": trial.seed,
        },
        notes=(
            f"seconds from the first pack's begin to the last one's commit; {threads} torch "
            f"thread{'s'[: threads != 1]} a process; efficiency is the speed-up over the workers",
            *cores_note(cores, [layout for task in tasks for layout in _counted(task)], threads),
        ),
    )  # fmt: skip


def cores_note(cores: int, layouts: Sequence[tuple[int, str]], threads: int) -> tuple[str, ...]:
    """What must not be concluded where workers share cores. layouts: (workers, what they are called)."""
    sharing = [(workers, what) for workers, what in layouts if workers * threads > cores]
    if not sharing:
        return (f"{cores} cores: every worker had its own",)
    return tuple(
        f"{cores} core{'s'[: cores != 1]}: {workers} {what} of {threads} thread{'s'[: threads != 1]} share them; "
        f"nothing about {workers} devices can be concluded"
        for workers, what in dict.fromkeys(sharing)
    )


def _tell(trial: Trial, task: str, what: str) -> None:
    trial.told(f"{task}: {what}")


def _counted(task: _Task) -> list[tuple[int, str]]:
    return [
        (layout.workers, "shards" if layout.shards > 1 else "replicas") for layout in task.layouts if layout.workers > 1
    ]


def _tasks(
    trial: Trial, subject: Subject, shards: Sequence[int], replicas: Sequence[int], tokens: int | None, documents: int
) -> list[_Task]:
    found = subject.documents(trial, tokens)
    longest = max(found, key=lambda document: sum(map(len, sides(document))))
    if trial.texts is None:
        sizes = np.random.default_rng(trial.seed).integers(SHORT, LONG + 1, size=documents)
        short = [subject.synthetic(int(size), seed=i) for i, size in enumerate(sizes)]
    else:
        short = subject.documents(trial, None)
    one = _Layout(name=ONE)
    many = [
        ("one document", [longest], [_Layout(name=f"{n} shards", shards=n) for n in shards if n > 1]),
        ("many documents", short, [_Layout(name=f"{n} replicas", replicas=n) for n in replicas if n > 1]),
    ]
    tasks = [_Task(name=name, documents=own, layouts=(one, *layouts)) for name, own, layouts in many if layouts]
    if not tasks:
        raise InputError("there is one worker at most: give --shards or --replicas a number above 1")
    return tasks


def _run(
    trial: Trial, task: _Task, layout: _Layout, *, keep: str, threads: int, chunk_tokens: int
) -> Callable[[], float]:
    def run() -> float:
        told: list[CaptureProgress] = []
        place = Path(tempfile.mkdtemp(dir=trial.folder))
        try:
            attlas.capture(
                trial.model, task.documents, place / "atlas.zarr", keep=keep, dtype=trial.dtype, device=trial.device,
                shards=layout.shards, replicas=layout.replicas, threads=threads, extrapolate=True,
                chunk_tokens=chunk_tokens, progress=told.append,
            )  # fmt: skip
        finally:
            shutil.rmtree(place)
        task.last[layout.name] = told[-1]
        return told[-1].seconds

    return run


def _row(task: _Task, layout: _Layout, timings: Timings, cores: int, threads: int) -> Row:
    """The limit is the one process's time over as many workers as there are cores for."""
    times, told = timings.times(layout.name), task.last[layout.name]
    speed_up = 1 / timings.ratio(layout.name, ONE)
    at_once = min(layout.workers, max(1, cores // threads))
    alone = times.median * speed_up
    return Row(
        contender=layout.name,
        task=task.name,
        tokens=task.tokens,
        times=times,
        ratio=speed_up,
        efficiency=speed_up / layout.workers if layout.workers > 1 else None,
        rate=task.tokens / times.median,
        rate_unit="tokens/s",
        workers=layout.workers,
        moved_bytes=told.bytes or None,
        limits=(Limit(name="cores", seconds=alone / at_once),) if layout.workers > 1 else (),
        note=_busy(told.shards),
    )


def _busy(shares: Sequence[ShardShare]) -> str:
    return "busy " + ", ".join(f"{share.busy:.0%}" for share in shares) if shares else ""
