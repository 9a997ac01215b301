"""attlas.capture: one model, many documents, one atlas. Plans, creates the store, has the packs run, commits each.

The model runs in this process, or as shards on a Ray cluster; both are a `Runs`, and everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from attlas.actors.layout import Layout
from attlas.capture.full import telling_when_full
from attlas.capture.in_process import Runs, in_process
from attlas.capture.plan import CapturePlan, plan_capture
from attlas.engine.model.layout import KindLayout, factor_span, layer_span
from attlas.engine.model.load import LoadedModel
from attlas.engine.model.shape import shape_of
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.documents import name_pack
from attlas.engine.passage.input import Texts
from attlas.engine.passage.rows import Rows
from attlas.engine.passage.selection import Selection
from attlas.engine.passage.target import Target, head_of, parse_target
from attlas.errors import InputError, PacksFailedError
from attlas.parse import parse_choice, parse_flag, refuse
from attlas.progress import CaptureProgress
from attlas.storage import Atlas, AtlasSpec, AtlasWriter, open_atlas, stored_spans
from attlas.storage.capture_job import CaptureJob
from attlas.storage.occupant import refuse_to_make
from attlas.storage.stores import open_writable, store_name
from attlas.storage.tiers import DEFAULT_TIER, TIERS, keeps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["capture"]

MAP_DTYPES = ("float16", "float32")
Choice = str | int | slice | Sequence[int] | Selection
"""Layers, heads or query rows, as `parse_selection` reads them."""


def capture(
    model: Any,
    texts: Texts,
    store: Any,
    *,
    keep: str = DEFAULT_TIER,
    gradients: Any = None,
    ids: Sequence[str] | None = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    layers: Choice | None = None,
    heads: Choice | None = None,
    queries: Choice | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    chunk_tokens: int | None = None,
    memory: int | str | None = None,
    extrapolate: bool = False,
    map_dtype: str = "float16",
    dtype: str = "auto",
    device: str | int = "auto",
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    part: str | None = None,
    shards: int | str | None = 1,
    replicas: int = 1,
    address: str | None = None,
    threads: int | None = None,
    offload: int | str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[CaptureProgress], None] | None = None,
) -> Atlas:
    """Capture the attention of a model over documents, and return the atlas.

    >>> atlas = attlas.capture("demo", "the cat sat. the cat sat.", "memory://cats")
    >>> row = atlas["doc-0"].attention.sel(layer=1, head=0).isel(query=-1)
    >>> int(row.idxmax()), row.max().item()
    (13, 0.941)

    model: a hub id, a folder (of an adapter too), a .gguf file, "demo", or a transformers model object or what holds
        one: compiled, parallel, adapted by peft, a pipeline, a sentence transformer. part: of a model of several parts
        the one to capture, by its qualified name; by default the language model of a multimodal one.
    texts: one or many str, token ids (rows of an array too), chats (lists of messages), paths of files or records such
        as {"id", "text", ...}; as tuples (source, target) for an encoder-decoder and (a, b) for an encoder's pair of
        sentences; a mapping from ids to these; a tokenizer's output; a frame with a column text. Of records and frames
        every further field is kept beside the document. ids: names, "doc-0", "doc-1", ... where none are given.
    attention_mask, token_type_ids, position_ids: of token ids, shaped as they are. Padding is left out; positions are
        the model's own on the padded row unless given; where they restart in a row, the next document begins.
    store: a folder, an fsspec URL such as s3://bucket/name.zarr, "memory://name", or a zarr store.
    keep: "factors" (q, k and log-sum-exp: every weight can be computed), "statistics" (row statistics alone),
        or "maps" (factors, and the weights themselves in `map_dtype`).
    gradients: a number whose gradient with respect to every weight can then be computed too: "loss" (mean next-token
        cross-entropy), "next_token" (log-probability of the likeliest token behind the last), {"token": " Paris",
        "against": " Rome", "position": 7} (of a token behind another, less that of one more), {"label": 1} (score of a
        class), or a function of the model's output, of one document. The values and the gradient of every head's output
        are kept beside the factors; a document goes whole, forward and back, and its activations are held.
    dtype: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16". device: "auto" (a GPU where there is one),
        "cpu", "cuda:1", ... revision: branch, tag or commit of a hub model. tokenizer: another than the model's own.
    layers, heads, queries: which to keep: 3, [0, -1], slice(4, 8), an array, or a text such as "0,4:8,-1", "last:512",
        "stride:16"; all by default. Layers and heads are the model's indices, and no layer behind the last one is run;
        queries are places in each document, also "random:1000", drawn by `seed` and the document's id.
    max_tokens: cut longer documents, which is recorded. chunk_tokens: query tokens in a forward pass.
    memory: what each process may take, 6_000_000_000 or "6GB"; chunks, packs and shards are made small enough.
    extrapolate: take documents longer than the model's trained positions, where these can go on (rotary, ALiBi,
        relative).
    shards, replicas: cut the model's layers into shards, and run several whole pipelines, on Ray; shards None or
        "auto": as few as fit the cluster. address: of a running Ray cluster; by default a private one on this machine.
    threads: torch's threads of each shard. offload: weights that each process keeps in memory, as bytes or "6GB";
        accelerate reads the rest from disk in every forward pass.
    overwrite, resume: what to do where the store holds an atlas: replace it, or add the packs it lacks. Resuming
        what was never begun begins it.

    Raises InputError, UnsupportedModelError, ClusterError, StoreExistsError before anything is written;
    PacksFailedError at the end where some packs could not be captured (the others are committed), or their own error
    where none could. A store this call made and committed nothing to is removed again.
    """
    source = ModelSource.of(model, tokenizer=tokenizer, dtype=dtype, device=device, revision=revision, part=part)
    rows = Rows.of(
        layers=layers, heads=heads, queries=queries, seed=seed, max_tokens=max_tokens, extrapolate=extrapolate
    )
    budget = Budget.of(memory=memory, chunk_tokens=chunk_tokens, threads=threads, offload=offload)
    layout = Layout.of(shards=shards, replicas=replicas, address=address)
    keep = parse_choice(keep, "keep", keeps())
    if gradients is not None:
        keep = _with_gradients(keep, layout, budget)
    map_dtype = parse_choice(map_dtype, "map_dtype", MAP_DTYPES)
    overwrite, resume = parse_flag(overwrite, "overwrite"), parse_flag(resume, "resume")
    if overwrite and resume:
        raise InputError("overwrite and resume exclude each other: choose one")
    if progress is not None and not callable(progress):
        raise refuse(progress, "progress", "give a function that takes an attlas.progress.CaptureProgress")
    layout.check_reaches(store)
    place = open_writable(store, storage_options=storage_options)
    there = refuse_to_make(place, store_name(store), overwrite=overwrite or resume)
    going_on = resume and there not in {"empty", "begun"}
    spans = stored_spans(store, storage_options=storage_options) if going_on else None
    with _ready(source, budget, layout, spans, head_of(gradients)) as runs:
        target = _target(gradients, runs)
        plan = plan_capture(
            runs.loaded,
            texts,
            rows=rows,
            budget=budget,
            layout=runs.layout,
            ids=ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            keep=keep,
            shards=max(runs.owners(runs.layout.kinds()[-1])) + 1,
            replicas=layout.replicas,
            held=runs.held,
        )
        if target is not None:
            target.check(plan.documents)
            if going_on and target.function is not None:
                raise InputError(
                    "two functions cannot be compared, and so no capture of gradients of one is gone on with: leave "
                    "resume out, and overwrite"
                )
        spec = AtlasSpec(
            kinds=tuple(_with_spans(kind, runs.owners(kind), plan.sizes.factor_layers, spans) for kind in plan.kinds),
            documents=plan.documents,
            packs=plan.packs,
            block=plan.sizes.block,
            keep=keep,
            model=asdict(runs.loaded.identity) | {"position_offset": plan.layout.position_offset},
            tokenizer=_describe_tokenizer(runs.loaded),
            options=rows.record() | ({} if target is None else {"gradients": target.to_json()}),
            map_dtype=map_dtype,
        )
        shape = shape_of(runs.loaded.model, dtype=plan.kinds[0].dtype)
        if going_on:
            writer = AtlasWriter.reopen(store, spec, storage_options=storage_options)
        else:
            with telling_when_full(place, spec, shape, pending=lambda: plan.packs):
                writer = AtlasWriter.create(
                    store, spec, storage_options=storage_options, overwrite=overwrite, begun=resume
                )
        with _removed_if_nothing_committed(writer), telling_when_full(place, spec, shape, pending=writer.pending_packs):
            failed = runs.run(
                CaptureJob(
                    packs=plan.packs, documents=plan.documents, writer=writer, where=store,
                    storage_options=storage_options, target=target,
                    checkpoints=plan.sizes.checkpoints,
                    pack_documents=plan.pack_documents and not (target is not None and target.alone),
                    chunk_tokens=plan.sizes.chunk_tokens, progress=progress,
                )
            )  # fmt: skip
            if failed:
                raise _packs_failed(failed, plan, writer, store)
    return open_atlas(store, storage_options=storage_options)


def _ready(
    source: ModelSource, budget: Budget, layout: Layout, spans: Mapping[str, tuple[int, int]] | None, head: bool | str
) -> AbstractContextManager[Runs]:
    """The model in this process, or on a cluster. spans: of an atlas that is gone on with."""
    if layout.in_this_process:
        return in_process(source, budget, head)
    from attlas.actors.capture import ClusterRun  # Ray is loaded only where it is used

    return ClusterRun(source, layout, budget, span=None if spans is None else min(span for span, _ in spans.values()))


def _with_gradients(keep: str, layout: Layout, budget: Budget) -> str:
    """The tier of a capture with gradients; raises InputError where there cannot be one."""
    if keep != DEFAULT_TIER:
        raise InputError(f"gradients are kept beside the factors, and keep is {keep!r}: leave keep out")
    if not layout.in_this_process:
        raise InputError("gradients are captured in one process: leave shards, replicas and address out")
    if budget.offload is not None:
        raise InputError("gradients need all weights in memory: leave offload out")
    if budget.chunk_tokens is not None:
        raise InputError("gradients flow through a document in one pass: leave chunk_tokens out")
    return next(tier.name for tier in TIERS if tier.gradients)


def _target(given: Any, runs: Runs) -> Target | None:
    if given is None:
        return None
    calls = runs.layout.calls
    causal = runs.loaded.is_encoder_decoder or all(call.causal for call in calls)
    return parse_target(given, runs.loaded, causal=causal)


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
    return PacksFailedError(
        f"{len(failed)} of {len(plan.packs)} packs failed, "
        + (f"the others are committed in {store_name(store)}; " if some_committed else "and none is captured; ")
        + f"{name_pack(plan.packs[pack], plan.documents)} with {error} -- mend the cause"
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
    finally:
        writer.close()
