"""A model that is ready to run packs, and the plainest one: the whole model in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

import torch

from attlas.engine.model.device import check_device, check_threads
from attlas.engine.model.head import WithHead
from attlas.engine.model.layout import KindLayout, ModelLayout
from attlas.engine.model.load import LoadedModel, load_model
from attlas.engine.model.probe import layout_of
from attlas.engine.model.shape import ModelShape, with_offload
from attlas.engine.model.shard import Shard
from attlas.engine.model.source import ModelSource
from attlas.engine.model.unwrap import is_path
from attlas.engine.model.weights import Placement
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.documents import Pack, name_pack
from attlas.engine.passage.gradient import run_with_gradient
from attlas.engine.passage.headroom import Headroom, release_memory
from attlas.engine.passage.passage import passages
from attlas.engine.passage.retry import Trial, after_error, describe_error
from attlas.engine.passage.runner import ShardRunner
from attlas.errors import AttlasError, InputError
from attlas.progress import CaptureProgress
from attlas.storage.capture_job import CaptureJob

__all__ = ["Runs", "in_process"]


class Runs(Protocol):
    """A model that is ready to run packs. loaded: with or without weights in this process."""

    loaded: LoadedModel
    layout: ModelLayout

    def owners(self, kind: KindLayout) -> list[int]:
        """The shard that holds each of a kind's layers."""

    def held(self, shape: ModelShape) -> ModelShape:
        """Of a model's sizes, what the neediest process has of it in memory."""

    def run(self, job: CaptureJob) -> dict[int, str]:
        """Capture and commit the pending packs; returns those that failed, with why."""


@contextmanager
def in_process(source: ModelSource, budget: Budget, head: bool | str = False) -> Iterator[InProcess]:
    """The model in this process; torch's number of threads comes back after. head: as of `load_model`."""
    threads, offload = budget.threads, budget.offload
    check_threads(threads)
    with tempfile.TemporaryDirectory(prefix="attlas-offload-") if offload is not None else nullcontext("") as folder:
        placement = None
        if offload is not None:
            if not is_path(source.model):
                raise InputError("a model object is in memory already: give its folder to have it read from disk")
            placement = Placement.of(check_device(source.device), offload, folder)
        before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            loaded = load_model(
                source.model, tokenizer=source.tokenizer, dtype=source.dtype, device=source.device,
                revision=source.revision, part=source.part, placement=placement, head=head,
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

    def run(self, job: CaptureJob) -> dict[int, str]:
        """A pack that cannot be captured is recorded, and the others go on; where none is captured, its error is raised
        as it is. See `attlas.engine.passage.retry` for what is run again, and what ends the run."""
        writer, documents = job.writer, job.documents
        pending, room = writer.pending_packs(), Headroom(chunk_tokens=job.chunk_tokens)
        tally = _Tally(job.packs, pending, self.layout.axes, job.progress)
        runner = ShardRunner(
            Shard.whole(self.loaded.model) if job.target is None else WithHead(self.loaded),
            self.layout,
            recording=writer.tier.recording(),
            kinds=writer.spec.kinds,
            document_ids=lambda i: documents[i].id,
            on_layer=lambda _kind, _layer: tally.layer_done(),
        )
        failed: dict[int, Exception] = {}
        for pack in pending:
            begin = time.monotonic()
            trial, failure = Trial(room=room), None
            while failure is None:
                room = trial.room  # what one pack had no room for, the next ones have not either
                parts = passages(pack, documents, pack_documents=job.pack_documents, chunk_tokens=room.chunk_tokens)
                tally.begin(runner.calls_needed * sum(len(part.chunks) for part in parts))
                runner.tile_bytes = room.tile_bytes
                try:
                    with writer.pack(pack) as sink:
                        for part in parts:
                            if job.target is None:
                                runner.run(part, sink)
                            else:
                                run_with_gradient(runner, part, sink, job.target, checkpoints=job.checkpoints)
                        size = sink.flush()
                    writer.commit(pack, seconds=time.monotonic() - begin, attempt=trial.attempt, size=size, room=room)
                except (AttlasError, torch.OutOfMemoryError, OSError) as error:  # another is a fault of the code
                    outcome = after_error(trial, error, name=name_pack(pack, documents))
                else:
                    tally.committed(pack, size)
                    break
                if isinstance(outcome, Trial):
                    trial = outcome
                    tally.again()
                    release_memory()
                else:
                    failure = failed[pack.index] = outcome
                    writer.fail(pack, attempt=trial.attempt, error=describe_error(failure))
                    tally.failed()
        if failed and len(writer.pending_packs()) == len(job.packs):
            raise next(iter(failed.values()))
        return {pack: describe_error(error) for pack, error in failed.items()}


class _Tally:
    """Counts what is done, and hands it on."""

    def __init__(
        self,
        packs: Sequence[Pack],
        pending: Sequence[Pack],
        axes: Sequence[str],
        progress: Callable[[CaptureProgress], None] | None,
    ) -> None:
        self.progress, self.begun = progress, time.monotonic()
        self.sizes = [sum(pack.token_stop[a] - pack.token_start[a] for a in axes) for pack in packs]
        done = sum(self.sizes) - sum(self.sizes[pack.index] for pack in pending)
        before = len(packs) - len(pending)
        self.state = CaptureProgress(
            done=before, total=len(packs), before=before, tokens=sum(self.sizes), tokens_done=done, tokens_before=done
        )

    def begin(self, layers: int) -> None:
        self._report(layers=layers, layers_done=0)

    def layer_done(self) -> None:
        self._report(layers_done=self.state.layers_done + 1)

    def again(self) -> None:
        self._report(retries=self.state.retries + 1)

    def committed(self, pack: Pack, size: int) -> None:
        state, tokens = self.state, self.sizes[pack.index]
        self._report(
            done=state.done + 1,
            tokens_done=state.tokens_done + tokens,
            bytes=state.bytes + size,
        )

    def failed(self) -> None:
        self._report(failed=self.state.failed + 1)

    def _report(self, **changed: int) -> None:
        self.state = replace(self.state, seconds=time.monotonic() - self.begun, **changed)  # type: ignore[arg-type]
        if self.progress is not None:
            self.progress(self.state)
