"""A model that is ready to run packs, and the plainest one: the whole model in this process."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from attlas.engine.model.layout import KindLayout, ModelLayout
from attlas.engine.model.load import LoadedModel, Placement, load_model
from attlas.engine.model.probe import layout_of
from attlas.engine.model.shape import ModelShape, with_offload
from attlas.engine.model.shard import Shard
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.documents import Document, Pack
from attlas.engine.passage.headroom import Headroom, release_memory
from attlas.engine.passage.passage import passages
from attlas.engine.passage.runner import ShardRunner
from attlas.errors import AttlasError, InputError, NoMemoryError, first_line
from attlas.progress import Progress
from attlas.storage import AtlasWriter

__all__ = ["Runs", "in_process", "name_documents"]


class Runs(Protocol):
    """A model that is ready to run packs. loaded: with or without weights in this process."""

    loaded: LoadedModel
    layout: ModelLayout

    def owners(self, kind: KindLayout) -> list[int]:
        """The shard that holds each of a kind's layers."""

    def held(self, shape: ModelShape) -> ModelShape:
        """Of a model's sizes, what the neediest process has of it in memory."""

    def run(
        self,
        packs: Sequence[Pack],
        documents: Sequence[Document],
        writer: AtlasWriter,
        where: Any,
        *,
        storage_options: Mapping[str, Any] | None,
        pack_documents: bool,
        chunk_tokens: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> dict[int, str]:
        """Capture and commit the pending packs; returns those that failed, with why."""


@contextmanager
def in_process(source: ModelSource, budget: Budget) -> Iterator[InProcess]:
    """The model in this process; torch's number of threads comes back after."""
    threads, offload = budget.threads, budget.offload
    if threads is not None and threads > (os.cpu_count() or 1):
        raise InputError(f"{threads} threads on a machine of {os.cpu_count()} cores: give at most as many threads")
    with tempfile.TemporaryDirectory(prefix="attlas-offload-") if offload is not None else nullcontext("") as folder:
        placement = None
        if offload is not None:
            if not isinstance(source.model, str | Path):
                raise InputError("a model object is in memory already: give its folder to have it read from disk")
            placement = Placement.of(source.device, offload, folder)
        before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            loaded = load_model(
                source.model, tokenizer=source.tokenizer, dtype=source.dtype, device=source.device,
                revision=source.revision, placement=placement,
            )  # fmt: skip
            yield InProcess(loaded, layout_of(loaded), offload)
        finally:
            if threads is not None:
                torch.set_num_threads(before)


class InProcess:
    """Implements Runs: the model whole, pack by pack."""

    def __init__(self, loaded: LoadedModel, layout: ModelLayout, offload: int | None) -> None:
        self.loaded, self.layout, self.offload = loaded, layout, offload

    def owners(self, kind: KindLayout) -> list[int]:
        return [0] * len(kind.layers)

    def held(self, shape: ModelShape) -> ModelShape:
        return with_offload(shape, self.offload)

    def run(
        self,
        packs: Sequence[Pack],
        documents: Sequence[Document],
        writer: AtlasWriter,
        where: Any,
        *,
        storage_options: Mapping[str, Any] | None,
        pack_documents: bool,
        chunk_tokens: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> dict[int, str]:
        """What is wrong with one pack is recorded, and the others go on; where none is captured, it is raised as it is.

        What is wrong with the machine (no room on the disk, say) ends the run at once, all packs before it committed.
        """
        pending, room = writer.pending_packs(), Headroom(chunk_tokens=chunk_tokens)
        told = _Told(packs, pending, self.layout.axes, progress)
        runner = ShardRunner(
            Shard.whole(self.loaded.model),
            self.layout,
            keep=writer.spec.keep,
            kinds=writer.spec.kinds,
            document_ids=lambda i: documents[i].id,
            on_layer=lambda _kind, _layer: told.layer_done(),
        )
        failed: dict[int, AttlasError] = {}
        for pack in pending:
            attempt, begin = 0, time.monotonic()
            while True:
                attempt += 1
                parts = passages(pack, documents, pack_documents=pack_documents, chunk_tokens=room.chunk_tokens)
                told.begin(runner.calls_needed * sum(len(part.chunks) for part in parts))
                runner.tile_bytes = room.tile_bytes
                try:
                    with writer.pack(pack) as sink:
                        for part in parts:
                            runner.run(part, sink)
                        size = sink.flush()
                    writer.commit(pack, seconds=time.monotonic() - begin, attempt=attempt, size=size, room=room)
                    told.committed(pack, size)
                    break
                except torch.OutOfMemoryError:
                    smaller = room.less()
                    if smaller is None:
                        failed[pack.index] = _no_memory(pack, documents, self.layout.axes, room)
                except AttlasError as error:
                    failed[pack.index] = error
                if pack.index in failed:
                    writer.fail(pack, attempt=attempt, error=_told_error(failed[pack.index]))
                    told.failed(pack)
                    break
                assert smaller is not None
                room = smaller
                told.again()
                release_memory()
        if failed and len(writer.pending_packs()) == len(packs):
            raise next(iter(failed.values()))
        return {pack: _told_error(error) for pack, error in failed.items()}


class _Told:
    """Counts what is done, and tells it."""

    def __init__(
        self,
        packs: Sequence[Pack],
        pending: Sequence[Pack],
        axes: Sequence[str],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.progress, self.begun = progress, time.monotonic()
        self.sizes = [sum(pack.token_stop[a] - pack.token_start[a] for a in axes) for pack in packs]
        done = sum(self.sizes) - sum(self.sizes[pack.index] for pack in pending)
        self.state = Progress(
            packs=len(packs), packs_done=len(packs) - len(pending), tokens=sum(self.sizes), tokens_done=done
        )

    def begin(self, layers: int) -> None:
        self._tell(layers=layers, layers_done=0)

    def layer_done(self) -> None:
        self._tell(layers_done=self.state.layers_done + 1)

    def again(self) -> None:
        self._tell(retries=self.state.retries + 1)

    def committed(self, pack: Pack, size: int) -> None:
        state, tokens = self.state, self.sizes[pack.index]
        self._tell(
            packs_done=state.packs_done + 1,
            packs_now=state.packs_now + 1,
            tokens_done=state.tokens_done + tokens,
            tokens_now=state.tokens_now + tokens,
            bytes=state.bytes + size,
        )

    def failed(self, _pack: Pack) -> None:
        self._tell(failed=self.state.failed + 1)

    def _tell(self, **changed: int) -> None:
        self.state = replace(self.state, seconds=time.monotonic() - self.begun, **changed)  # type: ignore[arg-type]
        if self.progress is not None:
            self.progress(self.state)


def name_documents(pack: Pack, documents: Sequence[Document]) -> str:
    """A pack's documents in a few words."""
    first, count = documents[pack.documents[0]].id, len(pack.documents)
    return repr(first) + (f" and {count - 1} more" if count > 1 else "")


def _told_error(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _no_memory(pack: Pack, documents: Sequence[Document], axes: Sequence[str], room: Headroom) -> NoMemoryError:
    return NoMemoryError(
        f"the device has no memory for pack {pack.index} ({name_documents(pack, documents)}"
        f", {sum(pack.token_stop[a] - pack.token_start[a] for a in axes)} tokens), with a tile of "
        f"{room.tile_bytes // 2**20} MiB and "
        f"{'the pack in one pass' if room.chunk_tokens is None else f'{room.chunk_tokens} tokens a pass'} too -- "
        "use a larger device, --dtype bfloat16, or smaller packs by --memory"
    )
