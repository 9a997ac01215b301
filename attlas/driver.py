"""attlas.capture: one model, many documents, one atlas. Plans, creates the store, runs the packs, commits each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attlas.engine.documents import Document, Pack, plan_packs, with_chosen_rows
from attlas.engine.estimate import shape_of
from attlas.engine.headroom import Headroom, release_memory
from attlas.engine.layout import KindLayout, ModelLayout, keep_heads, keep_layers
from attlas.engine.models import LoadedModel, load_model
from attlas.engine.passage import passages
from attlas.engine.probe import layout_of
from attlas.engine.runner import KEEPS, ShardRunner
from attlas.engine.selection import parse_queries
from attlas.engine.sizes import Sizes, plan_sizes
from attlas.engine.tokenize import Text, make_documents
from attlas.errors import InputError, NoMemoryError
from attlas.storage import Atlas, AtlasWriter, open_atlas
from attlas.storage.stores import is_empty, open_store

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CapturePlan", "Progress", "capture", "plan_capture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a capture is: layers done of the running pack, packs and tokens committed."""

    packs: int
    packs_done: int
    layers: int
    layers_done: int
    tokens: int
    tokens_done: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapturePlan:
    """Everything decided before the store is touched. `kinds` holds only the chosen layers."""

    layout: ModelLayout
    kinds: tuple[KindLayout, ...]
    documents: tuple[Document, ...]
    packs: tuple[Pack, ...]
    sizes: Sizes
    pack_documents: bool


def capture(
    model: str | Path | PreTrainedModel,
    texts: Text | Sequence[Text],
    store: Any,
    *,
    keep: str = "factors",
    ids: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: str | Sequence[int] | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    chunk_tokens: int | None = None,
    memory: int | None = None,
    extrapolate: bool = False,
    map_dtype: str = "float16",
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Atlas:
    """Capture the attention of a model over documents, and return the atlas.

    >>> atlas = attlas.capture("demo", "the cat sat. the cat sat.", "memory://cats")
    >>> atlas["doc-0"].attention.sel(layer=1, head=0).isel(query=-1).values

    model: a hub id, a folder, a .gguf file, "demo", or a transformers model object.
    texts: one or many str, or sequences of token ids, or (source, target) pairs for an encoder-decoder.
    store: a folder, an fsspec URL such as s3://bucket/name.zarr, "memory://name", or a zarr store.
    keep: "factors" (q, k and log-sum-exp: every weight can be computed), "statistics" (row statistics alone),
        or "maps" (factors, and the weights themselves in `map_dtype`).
    layers, heads: the model's indices, negative ones from the end; all by default. No layer behind the last one is run.
    queries: query rows to keep of each document, such as "10:20", "last:512", "stride:16", "random:1000" (drawn by
        `seed` and the document's id), joined by commas, or a sequence of places; all by default.
    max_tokens: cut longer documents, which is recorded. chunk_tokens: query tokens in a forward pass.
    memory: what the process may take, in bytes; chunks, packs and shards are made small enough. extrapolate: take
        documents longer than the model's trained positions, where these can go on (rotary, ALiBi, relative).
    overwrite, resume: what to do where the store holds an atlas: replace it, or add the packs it lacks. Resuming
        what was never begun begins it.

    Raises InputError, UnsupportedModelError, StoreExistsError before anything is written; NotFiniteError while running,
    with all packs committed before it kept. A store this call made and committed nothing to is removed again.
    """
    if keep not in KEEPS:
        raise InputError(f"keep is {keep!r}: choose one of {', '.join(KEEPS)}")
    if overwrite and resume:
        raise InputError("overwrite and resume exclude each other: choose one")
    loaded = load_model(model, tokenizer=tokenizer, dtype=dtype, device=device, revision=revision)
    plan = plan_capture(
        loaded,
        texts,
        ids=ids,
        keep=keep,
        layers=layers,
        heads=heads,
        queries=queries,
        seed=seed,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
        memory=memory,
        extrapolate=extrapolate,
    )
    options = {
        "layers": None if layers is None else list(layers),
        "heads": None if heads is None else list(heads),
        "queries": None if queries is None else parse_queries(queries).spec,
        "seed": seed,
        "max_tokens": max_tokens,
        "extrapolate": extrapolate,
    }
    writing: dict[str, Any] = {
        "kinds": plan.kinds,
        "documents": plan.documents,
        "packs": plan.packs,
        "block": plan.sizes.block,
        "keep": keep,
        "model": asdict(loaded.identity) | {"position_offset": plan.layout.position_offset},
        "tokenizer": _describe_tokenizer(loaded),
        "options": options,
        "map_dtype": map_dtype,
        "storage_options": storage_options,
    }
    if resume and not is_empty(open_store(store, storage_options=storage_options)):
        writer = AtlasWriter.reopen(store, **writing)
    else:
        writer = AtlasWriter.create(store, overwrite=overwrite, **writing)
    with _removed_if_nothing_committed(writer):
        _run(loaded, plan, writer, keep, progress)
    return open_atlas(store, storage_options=storage_options)


def plan_capture(
    loaded: LoadedModel,
    texts: Text | Sequence[Text],
    *,
    ids: Sequence[str] | None = None,
    keep: str = "factors",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: str | Sequence[int] | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    chunk_tokens: int | None = None,
    memory: int | None = None,
    extrapolate: bool = False,
) -> CapturePlan:
    """Probe the model, check the documents and cut them into packs; writes nothing."""
    selection = None if queries is None else parse_queries(queries, seed)
    layout = layout_of(loaded)
    kinds = layout.kinds()
    if layers is not None:
        kinds = keep_layers(kinds, layers)
    if heads is not None:
        kinds = keep_heads(kinds, heads)
    documents = make_documents(
        texts,
        loaded,
        ids=ids,
        max_tokens=max_tokens,
        position_offset=layout.position_offset,
        extrapolate=extrapolate,
    )
    longest = max(sum(map(len, document.tokens.values())) for document in documents)
    total = sum(sum(map(len, document.tokens.values())) for document in documents)
    if selection is not None:
        kinds = tuple(replace(kind, chosen_rows=True) for kind in kinds)
        documents = [with_chosen_rows(document, selection) for document in documents]
    lengths = [{axis: len(tokens) for axis, tokens in document.tokens.items()} for document in documents]
    sizes = plan_sizes(
        shape_of(loaded.model, dtype=kinds[0].dtype),
        keep=keep,
        longest=longest,
        total=total,
        chunkable=layout.chunkable,
        packable=layout.packable,
        memory=memory,
        chunk_tokens=chunk_tokens,
    )
    packs = plan_packs(lengths, pack_tokens=sizes.pack_tokens, block=sizes.block)
    return CapturePlan(
        layout=layout,
        kinds=kinds,
        documents=tuple(documents),
        packs=packs,
        sizes=sizes,
        pack_documents=layout.packable,
    )


def _describe_tokenizer(loaded: LoadedModel) -> dict[str, Any] | None:
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        return None
    return {
        "name": str(tokenizer.name_or_path) or None,
        "class": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
    }


@contextmanager
def _removed_if_nothing_committed(writer: AtlasWriter) -> Iterator[None]:
    """A store made by this run in which no pack was committed helps nobody: take it away again on failure."""
    try:
        yield
    except BaseException:
        writer.discard_if_empty()
        raise


def _run(
    loaded: LoadedModel,
    plan: CapturePlan,
    writer: AtlasWriter,
    keep: str,
    progress: Callable[[Progress], None] | None,
) -> None:
    pending = writer.pending_packs()
    axes = plan.layout.axes
    sizes = [sum(pack.token_stop[a] - pack.token_start[a] for a in axes) for pack in plan.packs]
    tokens, passes = sum(sizes), 1
    done = {"packs": len(plan.packs) - len(pending), "layers": 0}
    done["tokens"] = tokens - sum(sizes[pack.index] for pack in pending)

    def tell() -> None:
        if progress is not None:
            progress(
                Progress(
                    packs=len(plan.packs),
                    packs_done=done["packs"],
                    layers=runner.calls_needed * passes,
                    layers_done=done["layers"],
                    tokens=tokens,
                    tokens_done=done["tokens"],
                )
            )

    def on_layer(_kind: str, _layer: int) -> None:
        done["layers"] += 1
        tell()

    runner = ShardRunner(
        loaded.model,
        plan.layout,
        keep=keep,
        kinds=plan.kinds,
        document_ids=lambda i: plan.documents[i].id,
        on_layer=on_layer,
    )
    room, attempt = Headroom(chunk_tokens=plan.sizes.chunk_tokens), 1
    waiting = list(pending)
    while waiting:
        pack = waiting[0]
        parts = passages(pack, plan.documents, pack_documents=plan.pack_documents, chunk_tokens=room.chunk_tokens)
        passes, done["layers"] = sum(len(part.chunks) for part in parts), 0
        tell()
        runner.tile_bytes = room.tile_bytes
        begin = time.perf_counter()
        try:
            with writer.pack(pack) as sink:
                for part in parts:
                    runner.run(part, sink)
                sink.commit(seconds=time.perf_counter() - begin, attempt=attempt, room=room)
        except torch.OutOfMemoryError as error:
            smaller = room.less()
            if smaller is None:
                raise _no_memory(plan, pack, room) from error
            room, attempt = smaller, attempt + 1
        else:
            del waiting[0]
            attempt = 1
            done["packs"] += 1
            done["tokens"] += sizes[pack.index]
            tell()
        if attempt > 1:
            release_memory()


def _no_memory(plan: CapturePlan, pack: Pack, room: Headroom) -> NoMemoryError:
    names = [plan.documents[i].id for i in pack.documents]
    told = repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    return NoMemoryError(
        f"the device has no memory for pack {pack.index} ({told}"
        f", {sum(pack.token_stop[a] - pack.token_start[a] for a in plan.layout.axes)} tokens), with a tile of "
        f"{room.tile_bytes // 2**20} MiB and "
        f"{'the pack in one pass' if room.chunk_tokens is None else f'{room.chunk_tokens} tokens a pass'} too -- "
        "use a larger device, --dtype bfloat16, or smaller packs by --memory"
    )
