"""A capture on a Ray cluster, from the driver's side: start the replicas, probe through the shards, run the packs."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray.exceptions import RayError, RayTaskError
from transformers import PreTrainedModel

from attlas.actors.cluster import ClusterFacts, cluster_devices, joined_cluster
from attlas.actors.layout import Layout
from attlas.actors.plan import ShardPlan, cut_layers, fit, layer_costs, shard_shapes
from attlas.actors.queue import PackQueue
from attlas.actors.replica import RemoteStage, Replica
from attlas.actors.worker import Job, Loading, PackWork
from attlas.engine.model.adapter import find_adapter
from attlas.engine.model.device import check_threads
from attlas.engine.model.identity import identity_of
from attlas.engine.model.layout import KindLayout, ModelLayout
from attlas.engine.model.load import LoadedModel, load_model
from attlas.engine.model.parts import is_multimodal
from attlas.engine.model.probe import probe_stages
from attlas.engine.model.shape import ModelShape, with_offload
from attlas.engine.model.shard import Stack, find_stacks, meta_model
from attlas.engine.model.source import ModelSource, load_config
from attlas.engine.model.support import check_supported
from attlas.engine.model.tokenizer import load_tokenizer
from attlas.engine.model.unwrap import is_path
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.documents import Pack, name_pack
from attlas.engine.passage.headroom import Headroom
from attlas.engine.passage.passage import passages
from attlas.errors import ClusterError, InputError, first_line
from attlas.progress import CaptureProgress
from attlas.storage.capture_job import CaptureJob

__all__ = ["ClusterRun"]

START_SECONDS = 1800.0
WORKING_SHARE = 0.25
"""Of a device's memory, what a plan leaves to work in."""


class ClusterRun:
    """The replicas of one model, ready to capture. Use in a `with`: at its end all actors, and a private cluster, end.

    loaded: the model without weights, with its tokenizer and identity. layout: what the probe learnt through the
    shards. Raises ClusterError, InputError and UnsupportedModelError before any store is touched.
    """

    def __init__(self, source: ModelSource, layout: Layout, budget: Budget, *, span: int | None = None) -> None:
        """span: layers on whose multiples cuts must lie, where an atlas is gone on with."""
        self.spread, self.budget, self.span = layout, budget, span
        self.dtype, self.device, self.revision = source.dtype, source.device, source.revision
        self._stack = ExitStack()
        self._source, self._tokenizer, self._part, self._name = source.model, source.tokenizer, source.part, ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except RayTaskError:  # our own code, or a library's, broke in a shard: its message says where
            self._stack.close()
            raise
        except RayError as error:
            self._stack.close()
            raise ClusterError(
                f"a shard's process died before the first pack ({first_line(error)}): most often it had no memory for "
                "its weights -- use more --shards, a smaller --dtype, or --offload"
            ) from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def owners(self, kind: KindLayout) -> list[int]:
        """The shard that holds each of a kind's layers."""
        holder = {module: shard for shard, facts in enumerate(self.replicas[0].facts) for module in facts.modules}
        owner = {(call.kind, call.layer): holder[call.module] for call in self.layout.calls}
        return [owner[kind.kind, layer] for layer in kind.layers]

    def held(self, shape: ModelShape) -> ModelShape:
        """Of a model's sizes, those of the shard with the most weights, as far as they stay in memory."""
        shapes = (shape,) if self._plan is None else shard_shapes(self.loaded.model, shape, self._stacks, self._plan)
        return with_offload(max(shapes, key=lambda one: one.weight_bytes), self.budget.offload)

    def run(self, job: CaptureJob) -> dict[int, str]:
        """Capture and commit the pending packs; returns those that failed, with why."""
        packs, documents, writer, progress = job.packs, job.documents, job.writer, job.progress
        pending = writer.pending_packs()
        sizes = [sum(p.token_stop[a] - p.token_start[a] for a in self.layout.axes) for p in packs]
        spec, before = writer.spec, sum(sizes) - sum(sizes[pack.index] for pack in pending)
        prepared = Job(
            where=job.where, storage_options=job.storage_options, identity=str(writer.root.attrs["identity"]),
            layout=self.layout, kinds=spec.kinds, keep=spec.keep, finish=False,
        )  # fmt: skip
        for one in self.replicas:
            one.prepare(prepared)
        begun, done = time.monotonic(), {"tokens": 0}

        def work(pack: Pack, room: Headroom) -> PackWork:
            parts = passages(pack, documents, pack_documents=job.pack_documents, chunk_tokens=room.chunk_tokens)
            ids = {number: documents[number].id for number in pack.documents}
            return PackWork(pack=pack, passages=parts, document_ids=ids, room=room)

        class Committing:
            """Commits, and counts the tokens."""

            def commit(self, pack: Pack, **record: Any) -> None:
                writer.commit(pack, **record)
                done["tokens"] += sizes[pack.index]

            def fail(self, pack: Pack, **record: Any) -> None:
                writer.fail(pack, **record)

        def tell() -> None:
            if progress is not None:
                tally = queue.tally
                progress(
                    CaptureProgress(
                        done=len(packs) - len(pending) + tally.packs,
                        total=len(packs),
                        before=len(packs) - len(pending),
                        tokens=sum(sizes),
                        tokens_done=before + done["tokens"],
                        tokens_before=before,
                        seconds=time.monotonic() - begun,
                        bytes=tally.bytes,
                        retries=tally.retries,
                        losses=tally.losses,
                        failed=len(tally.failed),
                        shards=queue.shares(),
                    )
                )

        queue = PackQueue(
            self.replicas, Committing(), work=work, name=lambda pack: name_pack(pack, documents), tell=tell
        )
        queue.run(pending, Headroom(chunk_tokens=job.chunk_tokens))
        return queue.tally.failed

    def _start(self) -> None:
        path = self._readable_source()
        config = load_config(path, revision=self.revision)
        meta = meta_model(config)
        check_supported(meta)
        options = self.spread
        wanted = (options.shards or 1) * options.replicas
        facts = self._stack.enter_context(joined_cluster(options.address, cpus=wanted))
        if facts.private:  # of another cluster, Ray finds a node that has as many cores, or says that there is none
            check_threads(self.budget.threads)
        uses_gpu = facts.gpus > 0 and self.device != "cpu"
        self._stacks = stacks = () if options.shards == 1 else find_stacks(meta)  # a model that is not cut needs none
        self._plan = self._cut(meta, stacks, facts, uses_gpu)
        spans = ((0, 0),) if self._plan is None else self._plan.spans()
        threads = self.budget.threads or (
            max(1, int(facts.cpus / max(facts.nodes, 1)) // wanted) if facts.private else None
        )
        loadings = [
            Loading(
                source=str(path), stacks=stacks, start=start, stop=stop, dtype=self.dtype,
                device=self.device if self.device != "auto" else ("cuda" if uses_gpu else "cpu"),
                revision=self.revision, offload=self.budget.offload, threads=None if uses_gpu else threads,
            )
            for start, stop in spans
        ]  # fmt: skip
        cpus = 1.0 if facts.private or uses_gpu else float(threads or 1)
        self.replicas = [Replica(i, loadings, cpus=cpus, gpus=float(uses_gpu)) for i in range(options.replicas)]
        for one in self.replicas:
            one.start()
            self._stack.callback(one.stop)
        self._wait_for_first()
        first = self.replicas[0]
        self.layout: ModelLayout = probe_stages(
            [RemoteStage(actor) for actor in first.actors], config, first.facts[0].dtype
        )
        digests = {key: value for shard in first.facts for key, value in shard.digests.items()}
        found = load_tokenizer(self._tokenizer, path, revision=self.revision)
        self.loaded = LoadedModel(
            model=meta,
            tokenizer=found.tokenizer,
            no_tokenizer=found.missing,
            identity=identity_of(
                self._name or str(self._source),
                self.revision,
                type(meta),
                config,
                first.facts[0].dtype,
                digests,
                part=self._part,
            ),
        )

    def _cut(
        self, meta: PreTrainedModel, stacks: tuple[Stack, ...], facts: ClusterFacts, uses_gpu: bool
    ) -> ShardPlan | None:
        """Where the model is cut; None where it stays whole."""
        options = self.spread
        if options.shards == 1:
            return None
        dtype = self.dtype if self.dtype != "auto" else str(meta.config.dtype or "float32").removeprefix("torch.")
        costs, outside = layer_costs(meta, stacks, dtype=dtype, tokens=4096)
        if options.shards is None:
            devices = cluster_devices(facts, gpus=uses_gpu)
            working = int(devices.memory * WORKING_SHARE)
            return fit(costs, stacks, devices, outside=outside, working=lambda _plan: working)[0]
        return cut_layers(costs, stacks, options.shards, outside=outside, step=self.span)

    def _wait_for_first(self) -> None:
        """Until the first replica's shards are loaded."""
        begin = time.monotonic()
        while self.replicas[0].state != "ready":
            for one in self.replicas:
                one.advance()
            if time.monotonic() - begin > START_SECONDS:
                need = self.replicas[0]
                raise ClusterError(
                    f"the cluster had no room for {need.shards} shards of {need.cpus:g} CPUs and {need.gpus:g} GPUs "
                    f"within {START_SECONDS:.0f} s: add nodes, or give fewer --shards or --replicas"
                )
            time.sleep(0.02)

    def _readable_source(self) -> str | Path:
        """What every shard can load by itself. A model object, a .gguf, which each would unpack whole, and a part of a
        model are saved as safetensors first, where this machine's disk is all that the shards need to reach."""
        source = self._source
        if is_path(source) and self._part is None and Path(source).suffix != ".gguf":
            if find_adapter(source, self.revision) is not None:
                raise _not_in_shards(f"{source} is an adapter")
            if not is_multimodal(load_config(source, revision=self.revision)):
                return source
        if self.spread.address is not None:
            raise InputError(
                f"{source if is_path(source) else 'a model object'} is on this machine alone, or has more parts than "
                "are captured: save the model, or its part, with save_pretrained to a folder that every node reaches, "
                "and give the folder"
            )
        folder = tempfile.mkdtemp(prefix="attlas-model-")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        loaded = load_model(
            source, dtype=self.dtype, device="cpu" if is_path(source) else "auto", revision=self.revision,
            tokenizer=self._tokenizer, part=self._part,
        )  # fmt: skip
        model: Any = loaded.model
        adapted = next((name for name, one in model.named_modules() if type(one).__module__.startswith("peft.")), None)
        if adapted is not None:
            raise _not_in_shards(f"the model has an adapter in {adapted}")
        model.hf_quantizer = None
        if getattr(model.config, "quantization_config", None) is not None:
            del model.config.quantization_config
        model.save_pretrained(folder)
        if loaded.tokenizer is not None and self._tokenizer is None:
            self._tokenizer = loaded.tokenizer
        self._name, self._part = loaded.identity.name, loaded.identity.part
        return folder


def _not_in_shards(told: str) -> InputError:
    return InputError(
        f"{told}, and shards load plain weights: merge it with model.merge_and_unload(), save it with save_pretrained, "
        "and give that folder; or run it with one shard and no address"
    )
