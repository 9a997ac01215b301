"""ShardWorker: one shard of the model inside one process, told pack by pack what to do. An actor is this class under
`ray.remote`; it knows nothing of Ray itself.

A pack begins, its chunks come step by step in order, and it is flushed or dropped. Packs may overlap: the first chunk
of one can follow the last of another before that is flushed. Everything about a pack is under its key, which names the
attempt too, so that what is left of a broken attempt cannot mix with the next.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import zarr

from attlas.engine.model.device import check_threads
from attlas.engine.model.identity import weight_digests
from attlas.engine.model.layout import KindLayout, LayerLayout, ModelLayout
from attlas.engine.model.load import load_shard
from attlas.engine.model.probe import LocalStage, own_layout
from attlas.engine.model.shard import Stack
from attlas.engine.model.support import interface_modules
from attlas.engine.model.weights import Placement
from attlas.engine.passage.documents import Pack
from attlas.engine.passage.headroom import Headroom, release_memory
from attlas.engine.passage.passage import Passage
from attlas.engine.passage.runner import PassageRun, ShardRunner
from attlas.errors import StoreBusyError
from attlas.memory import peak_memory
from attlas.storage import PackWriter
from attlas.storage.stores import Where, open_root
from attlas.storage.tiers import TIERS

__all__ = ["Job", "Loading", "PackKey", "PackReport", "PackWork", "ShardFacts", "ShardWorker", "StepReport"]

PackKey = tuple[int, int]
"""(pack, attempt)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How a shard is loaded. offload: bytes of weights to keep in memory, None for all. threads: torch's threads, None
    for its own choice."""

    source: str
    stacks: tuple[Stack, ...]
    start: int
    stop: int
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    offload: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What a loaded shard tells of itself."""

    modules: tuple[str, ...]
    digests: Mapping[str, tuple[str, int]]
    dtype: str
    device: str
    node: str
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What stays the same from pack to pack. identity: of the atlas that is written. finish: another shard follows and
    needs hidden states."""

    where: Where
    storage_options: Mapping[str, Any] | None
    identity: str
    layout: ModelLayout
    kinds: tuple[KindLayout, ...]
    keep: str
    finish: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackWork:
    """One pack as a worker needs it. document_ids: number -> id, of the pack's documents."""

    pack: Pack
    passages: tuple[Passage, ...]
    document_ids: Mapping[int, str]
    room: Headroom


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """seconds: that the shard was at work on the step."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReport:
    """bytes: written by the shard for the pack. peak_memory: of the process so far. device_memory: of its GPU."""

    bytes: int
    seconds: float
    peak_memory: int
    device_memory: int


class _OpenPack:
    def __init__(self, writer: PackWriter, work: PackWork) -> None:
        self.writer, self.work = writer, work
        self.runs: dict[int, PassageRun] = {}


class ShardWorker:
    """See the module."""

    def __init__(self, loading: Loading) -> None:
        self.loading = loading
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.open: dict[PackKey, _OpenPack] = {}
        self.broken: dict[PackKey, Exception] = {}
        self.job: Job | None = None

    def load(self) -> ShardFacts:
        """Load the shard. Not done in __init__, whose errors Ray would report as a death without its cause."""
        begin, loading = time.perf_counter(), self.loading
        check_threads(loading.threads)
        if loading.threads is not None:
            torch.set_num_threads(loading.threads)
        placement = None
        if loading.offload is not None:
            self.folder = tempfile.TemporaryDirectory(prefix="attlas-offload-")
            placement = Placement.of(loading.device, loading.offload, self.folder.name)
        self.shard = load_shard(
            loading.source,
            loading.stacks,
            loading.start,
            loading.stop,
            dtype=loading.dtype,
            device=loading.device,
            revision=loading.revision,
            placement=placement,
        )
        return ShardFacts(
            modules=tuple(interface_modules(self.shard.model)),
            digests=weight_digests(self.shard.model),
            dtype=str(self.shard.model.dtype),
            device=str(self.shard.device),
            node=socket.gethostname(),
            pid=os.getpid(),
            seconds=time.perf_counter() - begin,
        )

    def probe_forward(self, inputs: dict[str, Any], state: Any, attention: str) -> tuple[Any, tuple[LayerLayout, ...]]:
        found, calls = LocalStage(self.shard).forward(inputs, state, attention)
        return _on_cpu(found), calls

    def probe_passage(self, layout: ModelLayout, passage: Passage, states: list[Any]) -> list[Any]:
        return [_on_cpu(state) for state in LocalStage(self.shard).passage(layout, passage, states)]

    def prepare(self, job: Job) -> None:
        """Open the store and get ready for packs. Raises StoreBusyError where another atlas lies there meanwhile."""
        own = own_layout(job.layout, interface_modules(self.shard.model))
        self.job = job
        self.root: zarr.Group = open_root(job.where, storage_options=job.storage_options, mode="r+")
        if self.root.attrs["identity"] != job.identity:
            raise StoreBusyError(f"{job.where} was replaced by another capture meanwhile: this one stops")
        self.runner = ShardRunner(
            self.shard, own, recording=TIERS[job.keep].recording(), kinds=job.kinds, document_ids=self._document_id
        )
        mine: dict[str, list[int]] = {}
        for call in own.calls:
            if self.runner.keeps_layer(call):
                mine.setdefault(call.kind, []).append(call.layer)
        self.layers = mine
        self.ids: dict[int, str] = {}

    def begin(self, key: PackKey, work: PackWork) -> None:
        """Get ready for a pack. Nobody waits for this: what goes wrong is raised by the pack's first step."""
        try:
            self.open[key] = self._opened(work)
        except Exception as error:
            self.broken[key] = error

    def _opened(self, work: PackWork) -> _OpenPack:
        job = self._job()
        self.ids |= work.document_ids
        writer = PackWriter(self.root, work.pack, kinds=job.kinds, document_id=self._document_id, layers=self.layers)
        return _OpenPack(writer, work)

    def step(self, key: PackKey, part: int, chunk: int, state: Any) -> tuple[Any, StepReport]:
        """Run one chunk of one passage of a pack; returns the next shard's state, on the CPU, and a report."""
        begin = time.perf_counter()
        if key in self.broken:
            raise self.broken[key]
        opened, job = self.open[key], self._job()
        self.runner.tile_bytes = opened.work.room.tile_bytes
        if part not in opened.runs:
            opened.runs = {part: self.runner.open(opened.work.passages[part], opened.writer, finish=job.finish)}
        output = opened.runs[part].step(chunk, state)
        handed_on = _on_cpu(output) if job.finish else None
        return handed_on, StepReport(seconds=time.perf_counter() - begin)

    def flush(self, key: PackKey) -> PackReport:
        """Write what is left of a pack. The driver commits it once every shard has flushed."""
        begin = time.perf_counter()
        opened = self.open.pop(key)
        size = opened.writer.flush()
        self._forget(opened.work)
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return PackReport(
            bytes=size,
            seconds=time.perf_counter() - begin,
            peak_memory=peak_memory(),
            device_memory=gpu,
        )

    def drop(self, key: PackKey) -> None:
        """Forget a pack; what was written of it stays unseen, and is written over."""
        self.broken.pop(key, None)
        opened = self.open.pop(key, None)
        if opened is not None:
            opened.writer.abort()
            self._forget(opened.work)
            del opened
            release_memory()

    def close(self) -> None:
        """Take away what was written to this machine's disk beside the store."""
        if self.folder is not None:
            self.folder.cleanup()

    def _forget(self, work: PackWork) -> None:
        for number in work.document_ids:
            self.ids.pop(number, None)

    def _document_id(self, number: int) -> str:
        return self.ids[number]

    def _job(self) -> Job:
        assert self.job is not None, "prepare comes first"
        return self.job


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: value.cpu() for name, value in state.items()}
    return state.cpu() if isinstance(state, torch.Tensor) else state
