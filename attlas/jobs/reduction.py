"""What a job is: rows of an atlas, cut into blocks, and a reduction that makes an answer of them.

Another question needs another reduction, or other quantities of `row_sums.RowSums`, and nothing else of the machine:
planning, scheduling, keeping and explaining are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import xarray as xr

from attlas.engine.kernels.threads import alone
from attlas.jobs.blocks import Block, Plan
from attlas.jobs.load import Source, source_of
from attlas.jobs.results import find_result, keep_result
from attlas.jobs.schedule import check_scheduler, run_groups, workers_of
from attlas.parse import parse_callback, parse_flag, parse_word, parse_workers
from attlas.progress import Report
from attlas.storage import Atlas

__all__ = ["Execution", "Explanation", "Job", "Reduction", "explain_job", "run_job"]


class Reduction(Protocol):
    """How rows become values. Tasks carry it to other processes, so it pickles: a value of a module's class."""

    def reduce(self, source: Source, block: Block) -> Any:
        """One task: the sums of a block's rows, for which it calls a kernel once."""

    def join(self, parts: Sequence[Any], source: Source, layer: int) -> Any:
        """The values of blocks that belong together. layer: the first block's place on the store's layer dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A question, decided. question and parameters: under which its answer is kept; all that it depends on beside the
    atlas. describe: the values of the groups of blocks, in order, as the answer; it runs where the job was asked for.
    from_factors: whether it reads q and k, or stored row statistics.
    """

    question: str
    parameters: Mapping[str, Any]
    plan: Plan
    reduction: Reduction
    describe: Callable[[Sequence[Any]], xr.Dataset]
    from_factors: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where a job runs. scheduler: "threads", "ray", or the address of a dask scheduler. workers: threads at work here;
    None for one a core. save: keep the answer in the atlas. progress: told of every block done."""

    scheduler: str = "threads"
    workers: int | None = None
    save: bool = True
    progress: Report | None = None

    def __post_init__(self) -> None:
        parse_word(self.scheduler, "scheduler", "choose threads, ray, or an address like tcp://host:8786")
        if self.workers is not None:
            object.__setattr__(self, "workers", parse_workers(self.workers))
        parse_flag(self.save, "save")
        parse_callback(self.progress, "progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A job before it runs. source: "factors" or "stored row statistics". rows: of each layer and head, of `of_rows`.

    block_bytes: what a task holds at most; memory_bytes: workers x block_bytes. kept: whether the answer is there.
    """

    question: str
    kind: str
    documents: int
    layers: int
    heads: int
    rows: int
    of_rows: int
    source: str
    blocks: int
    read_bytes: int
    workers: int
    block_bytes: int
    kept: bool

    @property
    def memory_bytes(self) -> int:
        return self.workers * self.block_bytes


def explain_job(atlas: Atlas, job: Job, *, scheduler: str = "threads", workers: int | None = None) -> Explanation:
    """What the job would do; reads nothing but whether its answer is kept."""
    plan = job.plan
    return Explanation(
        question=job.question,
        kind=plan.corpus.kind,
        documents=len(plan.corpus.ids),
        layers=len(plan.corpus.layers),
        heads=len(plan.corpus.heads),
        rows=plan.rows,
        of_rows=plan.corpus.rows,
        source="factors" if job.from_factors else "stored row statistics",
        blocks=plan.count,
        read_bytes=plan.read_bytes,
        workers=workers_of(scheduler, workers),
        block_bytes=plan.block_bytes,
        kept=find_result(atlas, job.question, job.parameters) is not None,
    )


def run_job(atlas: Atlas, job: Job, execution: Execution) -> xr.Dataset:
    """The answer: from the atlas where it is kept, else by tasks, and kept then where `execution` says so.

    Raises InputError for a scheduler that is none or out of reach, ClusterError, CorruptAtlasError.
    """
    check_scheduler(execution.scheduler, atlas.root.store)
    kept = find_result(atlas, job.question, job.parameters)
    if kept is not None:
        return kept
    at_once = workers_of(execution.scheduler, execution.workers)
    groups = [
        ([(_reduce, (block, at_once)) for block in blocks], _join, (blocks[0].layer,))
        for blocks in job.plan.blocks if blocks
    ]  # fmt: skip
    values = run_groups(
        groups, _Shared(source=source_of(atlas), reduction=job.reduction), scheduler=execution.scheduler,
        workers=execution.workers, progress=execution.progress,
    )  # fmt: skip
    answer = job.describe(values)
    answer.attrs = _provenance(atlas, job) | answer.attrs
    return keep_result(atlas, job.question, job.parameters, answer) if execution.save else answer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shared:
    """What all tasks of a job need, sent once to each worker."""

    source: Source
    reduction: Reduction


def _reduce(shared: _Shared, block: Block, workers: int) -> Any:
    """workers: how many tasks run beside one another in this process; with several, each takes one thread."""
    with torch.inference_mode():
        if workers > 1:
            return alone(lambda: shared.reduction.reduce(shared.source, block))
        return shared.reduction.reduce(shared.source, block)


def _join(parts: Sequence[Any], shared: _Shared, layer: int) -> Any:
    return shared.reduction.join(parts, shared.source, layer)


def _provenance(atlas: Atlas, job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        "question": job.question,
        "model": str(atlas.model.get("name")),
        "kind": plan.corpus.kind,
        "source": "factors" if job.from_factors else "stored row statistics",
        "documents": len(plan.corpus.ids),
        "rows": plan.corpus.rows,
        "rows_used": plan.rows,
        "exact": "yes" if plan.sample is None else "no",
    }
