"""attlas.capture: one model, many documents, one atlas. Plans, creates the store, has the packs run, commits each.

The model runs in this process, or as shards on a Ray cluster; both are a `Runs`, and everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attlas.capture.in_process import Runs, in_process, name_documents
from attlas.capture.plan import CapturePlan, plan_capture
from attlas.engine.model.layout import KindLayout, factor_span, layer_span
from attlas.engine.model.load import LoadedModel
from attlas.engine.passage.runner import KEEPS
from attlas.engine.passage.selection import parse_queries
from attlas.engine.passage.tokenize import Text
from attlas.errors import InputError, PacksFailedError
from attlas.progress import Progress
from attlas.storage import Atlas, AtlasSpec, AtlasWriter, open_atlas, stored_spans
from attlas.storage.stores import is_empty, open_store, store_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["capture"]


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
    shards: int | None = 1,
    replicas: int = 1,
    address: str | None = None,
    threads: int | None = None,
    offload: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Atlas:
    """Capture the attention of a model over documents, and return the atlas.

    >>> atlas = attlas.capture("demo", "the cat sat. the cat sat.", "memory://cats")
    >>> row = atlas["doc-0"].attention.sel(layer=1, head=0).isel(query=-1)
    >>> int(row.idxmax()), row.max().item()
    (13, 0.941)

    model: a hub id, a folder, a .gguf file, "demo", or a transformers model object.
    texts: one or many str, or sequences of token ids, or (source, target) pairs for an encoder-decoder.
    store: a folder, an fsspec URL such as s3://bucket/name.zarr, "memory://name", or a zarr store.
    keep: "factors" (q, k and log-sum-exp: every weight can be computed), "statistics" (row statistics alone),
        or "maps" (factors, and the weights themselves in `map_dtype`).
    layers, heads: the model's indices, negative ones from the end; all by default. No layer behind the last one is run.
    queries: query rows to keep of each document, such as "10:20", "last:512", "stride:16", "random:1000" (drawn by
        `seed` and the document's id), joined by commas, or a sequence of places; all by default.
    max_tokens: cut longer documents, which is recorded. chunk_tokens: query tokens in a forward pass.
    memory: what each process may take, in bytes; chunks, packs and shards are made small enough. extrapolate: take
        documents longer than the model's trained positions, where these can go on (rotary, ALiBi, relative).
    shards, replicas: cut the model's layers into shards, and run several whole pipelines, on Ray; shards None: as few
        as fit the cluster. address: of a running Ray cluster; by default a private one on this machine.
    threads: torch's threads of each shard. offload: bytes of weights that each process keeps in memory; accelerate
        reads the rest from disk in every forward pass.
    overwrite, resume: what to do where the store holds an atlas: replace it, or add the packs it lacks. Resuming
        what was never begun begins it.

    Raises InputError, UnsupportedModelError, ClusterError, StoreExistsError before anything is written;
    PacksFailedError at the end where some packs could not be captured (the others are committed), or their own error
    where none could. A store this call made and committed nothing to is removed again.
    """
    if keep not in KEEPS:
        raise InputError(f"keep is {keep!r}: choose one of {', '.join(KEEPS)}")
    if overwrite and resume:
        raise InputError("overwrite and resume exclude each other: choose one")
    if replicas < 1 or (shards is not None and shards < 1):
        raise InputError(f"{shards} shards and {replicas} replicas: give 1 or more of each")
    going_on = resume and not is_empty(open_store(store, storage_options=storage_options))
    spans = stored_spans(store, storage_options=storage_options) if going_on else None
    with _ready(
        model, store, spans, tokenizer=tokenizer, dtype=dtype, device=device, revision=revision, shards=shards,
        replicas=replicas, address=address, threads=threads, offload=offload,
    ) as runs:  # fmt: skip
        plan = plan_capture(
            runs.loaded,
            texts,
            layout=runs.layout,
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
            shards=max(runs.owners(runs.layout.kinds()[-1])) + 1,
            replicas=replicas,
            held=runs.held,
        )
        options = {
            "layers": None if layers is None else list(layers),
            "heads": None if heads is None else list(heads),
            "queries": None if queries is None else parse_queries(queries).spec,
            "seed": seed,
            "max_tokens": max_tokens,
            "extrapolate": extrapolate,
        }
        spec = AtlasSpec(
            kinds=tuple(_with_spans(kind, runs.owners(kind), plan.sizes.factor_layers, spans) for kind in plan.kinds),
            documents=plan.documents,
            packs=plan.packs,
            block=plan.sizes.block,
            keep=keep,
            model=asdict(runs.loaded.identity) | {"position_offset": plan.layout.position_offset},
            tokenizer=_describe_tokenizer(runs.loaded),
            options=options,
            map_dtype=map_dtype,
        )
        if going_on:
            writer = AtlasWriter.reopen(store, spec, storage_options=storage_options)
        else:
            writer = AtlasWriter.create(store, spec, storage_options=storage_options, overwrite=overwrite)
        with _removed_if_nothing_committed(writer):
            failed = runs.run(
                plan.packs, plan.documents, writer, store, storage_options=storage_options,
                pack_documents=plan.pack_documents, chunk_tokens=plan.sizes.chunk_tokens, progress=progress,
            )  # fmt: skip
            if failed:
                raise _packs_failed(failed, plan, writer, store)
    return open_atlas(store, storage_options=storage_options)


def _ready(
    model: Any,
    store: Any,
    spans: Mapping[str, tuple[int, int]] | None,
    *,
    tokenizer: Any,
    dtype: str,
    device: str,
    revision: str | None,
    shards: int | None,
    replicas: int,
    address: str | None,
    threads: int | None,
    offload: int | None,
) -> AbstractContextManager[Runs]:
    """The model in this process, or on a cluster."""
    if shards == 1 and replicas == 1 and address is None:
        return in_process(
            model, tokenizer=tokenizer, dtype=dtype, device=device, revision=revision, threads=threads, offload=offload
        )
    if str(store).startswith("memory://"):
        raise InputError(f"{store} lies in this process's memory, which no shard reaches: give a folder or a URL")
    from attlas.actors.capture import ClusterOptions, ClusterRun  # Ray is loaded only where it is used

    options = ClusterOptions(
        shards=shards, replicas=replicas, address=address, threads=threads, offload=offload,
        span=None if spans is None else min(span for span, _ in spans.values()),
    )  # fmt: skip
    return ClusterRun(model, options, tokenizer=tokenizer, dtype=dtype, device=device, revision=revision)


def _with_spans(
    kind: KindLayout, owners: Sequence[int], factor_layers: int, stored: Mapping[str, tuple[int, int]] | None
) -> KindLayout:
    """The kind with its spans: those an atlas was begun with, or the largest that the shards' cuts allow."""
    begins = [i for i in range(1, len(owners)) if owners[i] != owners[i - 1]]
    if stored is None:
        span = layer_span(kind, owners)
        return replace(kind, layer_span=span, factor_span=factor_span(span, factor_layers))
    span, of_factors = stored.get(kind.kind, (len(kind.layers), 1))
    if any(begin % span for begin in begins):
        raise InputError(
            f"this atlas was begun with shards of whole multiples of {span} {kind.kind} layers, and these shards begin "
            f"at layers {', '.join(str(kind.layers[i]) for i in begins)}: resume with other --shards"
        )
    return replace(kind, layer_span=span, factor_span=of_factors)


def _packs_failed(failed: Mapping[int, str], plan: CapturePlan, writer: AtlasWriter, store: Any) -> PacksFailedError:
    pack, error = next(iter(failed.items()))
    some_committed = len(writer.pending_packs()) < len(plan.packs)
    names = name_documents(plan.packs[pack], plan.documents)
    return PacksFailedError(
        f"{len(failed)} of {len(plan.packs)} packs failed, "
        + (f"the others are committed in {store_name(store)}; " if some_committed else "and none is captured; ")
        + f"pack {pack} ({names}) with {error} -- mend the cause"
        + (" and go on with --resume" if some_committed else ""),
        some_committed=some_committed,
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
