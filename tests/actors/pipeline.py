"""Shard workers in this process, one behind the other as actors would stand, and atlases compared array by array."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from attlas.actors.worker import Job, Loading, PackWork, ShardWorker
from attlas.capture.plan import plan_capture
from attlas.engine.model.identity import identity_of
from attlas.engine.model.layout import ModelLayout, layer_span
from attlas.engine.model.load import LoadedModel
from attlas.engine.model.probe import LocalStage, probe_stages
from attlas.engine.model.shard import find_stacks, meta_model
from attlas.engine.model.source import load_config
from attlas.engine.model.tokenizer import load_tokenizer
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.headroom import Headroom
from attlas.engine.passage.passage import passages
from attlas.storage import AtlasSpec, AtlasWriter


def even_cuts(layers: int, shards: int) -> tuple[int, ...]:
    return tuple(round(layers * i / shards) for i in range(shards + 1))


def capture_in_shards(
    folder: Path,
    texts: list[Any],
    store: Path,
    *,
    shards: int,
    keep: str,
    chunk_tokens: int | None = None,
    layout: ModelLayout | None = None,
) -> tuple[list[torch.Tensor], ModelLayout]:
    """Capture with `shards` workers; returns the model's final states, one (1, T, width) a chunk, and its layout.

    layout: an earlier one of the same model; None: probe it through these shards.
    """
    config = load_config(folder)
    meta = meta_model(config)
    stacks = find_stacks(meta)
    cuts = even_cuts(sum(stack.layers for stack in stacks), shards)
    workers = [
        ShardWorker(Loading(source=str(folder), stacks=stacks, start=start, stop=stop, device="cpu"))
        for start, stop in pairwise(cuts)
    ]
    facts = [worker.load() for worker in workers]
    if layout is None:
        layout = probe_stages([LocalStage(worker.shard) for worker in workers], config, facts[0].dtype)
    loaded = LoadedModel(
        model=meta,
        tokenizer=load_tokenizer(None, folder).tokenizer,
        identity=identity_of("tiny", None, type(meta), config, facts[0].dtype, facts[0].digests),
    )
    plan = plan_capture(loaded, texts, layout=layout, keep=keep, budget=Budget(chunk_tokens=chunk_tokens))
    holder = {module: i for i, one in enumerate(facts) for module in one.modules}
    owner = {(call.kind, call.layer): holder[call.module] for call in layout.calls}
    kinds = tuple(
        replace(kind, layer_span=layer_span(kind, [owner[kind.kind, layer] for layer in kind.layers]))
        for kind in plan.kinds
    )
    spec = AtlasSpec(
        kinds=kinds, documents=plan.documents, packs=plan.packs, block=plan.sizes.block, keep=keep,
        model={"name": "tiny"},
    )  # fmt: skip
    writer = AtlasWriter.create(store, spec)
    job = Job(
        where=store, storage_options=None, identity=str(writer.root.attrs["identity"]), layout=layout, kinds=kinds,
        keep=keep, finish=True,
    )  # fmt: skip
    states = []
    room = Headroom(chunk_tokens=plan.sizes.chunk_tokens)
    for worker in workers:
        worker.prepare(job)
    for pack in plan.packs:
        parts = passages(pack, plan.documents, pack_documents=plan.pack_documents, chunk_tokens=plan.sizes.chunk_tokens)
        ids = {number: plan.documents[number].id for number in pack.documents}
        key = (pack.index, 1)
        for worker in workers:
            worker.begin(key, PackWork(pack=pack, passages=parts, document_ids=ids, room=room))
        for part, passage in enumerate(parts):
            for chunk in range(len(passage.chunks)):
                state: Any = None
                for worker in workers:
                    state, _ = worker.step(key, part, chunk, state)
                states.append(state["last_hidden_state"])
        size = sum(worker.flush(key).bytes for worker in workers)
        writer.commit(pack, seconds=0.0, attempt=1, size=size, room=room)
    return states, layout


def assert_atlases_equal(found: Path, expected: Path) -> None:
    """Every array equal, bit for bit, but for how long packs took, and how often they were tried."""
    one, other = zarr.open_group(found, mode="r"), zarr.open_group(expected, mode="r")
    paths = [path for path, node in other.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert sorted(paths) == sorted(path for path, node in one.members(max_depth=None) if isinstance(node, zarr.Array))
    for path in paths:
        if path in {
            f"packs/{name}" for name in ("seconds", "attempt", "error", "bytes", "commit", "failure", "digests")
        }:
            continue
        a, b = (np.asarray(root[path][...]) for root in (one, other))  # type: ignore[index]
        assert a.dtype == b.dtype, path
        if a.dtype.kind == "O":
            assert (a == b).all(), path
        else:
            assert a.tobytes() == b.tobytes(), path
