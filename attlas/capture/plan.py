"""What a capture decides before the store is touched: documents, kept layers and heads, packs, sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from attlas.engine.model.layout import KindLayout, ModelLayout, keep_heads, keep_layers
from attlas.engine.model.load import LoadedModel
from attlas.engine.model.probe import layout_of
from attlas.engine.model.shape import ModelShape, shape_of
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.documents import Document, Pack, plan_packs, with_chosen_rows
from attlas.engine.passage.input import Texts
from attlas.engine.passage.rows import Rows
from attlas.engine.passage.tokenize import make_documents
from attlas.storage.sizes import Sizes, plan_sizes
from attlas.storage.tiers import DEFAULT_TIER, TIERS

__all__ = ["CapturePlan", "plan_capture"]


CHUNKS_A_SHARD = 4
"""Chunks of a long document for each shard of a pipeline: fewer would leave the shards waiting for one another."""


PACKS_A_REPLICA = 4


CHUNK_LEAST = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapturePlan:
    """Everything decided before the store is touched. `kinds` holds only the chosen layers and heads."""

    layout: ModelLayout
    kinds: tuple[KindLayout, ...]
    documents: tuple[Document, ...]
    packs: tuple[Pack, ...]
    sizes: Sizes
    pack_documents: bool


def plan_capture(
    loaded: LoadedModel,
    texts: Texts,
    *,
    rows: Rows | None = None,
    budget: Budget | None = None,
    layout: ModelLayout | None = None,
    ids: Sequence[str] | None = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    keep: str = DEFAULT_TIER,
    shards: int = 1,
    replicas: int = 1,
    held: Callable[[ModelShape], ModelShape] | None = None,
) -> CapturePlan:
    """Check the documents and cut them into packs; writes nothing.

    rows, budget: None for all, and without limits. layout: the probe's; None: probe the model now. held: of the model's
    sizes, what counts against the budget's memory; None: all.
    """
    rows, budget = rows or Rows(), budget or Budget()
    layout = layout or layout_of(loaded)
    kinds = layout.kinds()
    if rows.layers is not None:
        kinds = keep_layers(kinds, rows.layers)
    if rows.heads is not None:
        kinds = keep_heads(kinds, rows.heads)
    documents = make_documents(
        texts,
        loaded,
        ids=ids,
        attention_mask=attention_mask,
        token_type_ids=token_type_ids,
        position_ids=position_ids,
        max_tokens=rows.max_tokens,
        position_offset=layout.position_offset,
        bidirectional=not all(call.causal for call in layout.calls),
        extrapolate=rows.extrapolate,
    )
    longest = max(sum(map(len, document.tokens.values())) for document in documents)
    total = sum(sum(map(len, document.tokens.values())) for document in documents)
    if rows.queries is not None:
        kinds = tuple(replace(kind, chosen_rows=True) for kind in kinds)
        documents = [with_chosen_rows(document, rows.queries, seed=rows.seed) for document in documents]
    lengths = [{axis: len(tokens) for axis, tokens in document.tokens.items()} for document in documents]
    shape = shape_of(loaded.model, dtype=kinds[0].dtype)
    # without a budget the store is laid out alike for any number of shards
    if held is not None and budget.memory is not None:
        shape = held(shape)
    sizes = plan_sizes(
        shape,
        tier=TIERS[keep],
        longest=longest,
        total=total,
        chunkable=layout.chunkable,
        packable=layout.packable,
        memory=budget.memory,
        chunk_tokens=budget.chunk_tokens,
        most_chunk=None if shards == 1 else max(CHUNK_LEAST, ceil(longest / (CHUNKS_A_SHARD * shards))),
        most_pack=None if replicas == 1 else max(1, ceil(total / (PACKS_A_REPLICA * replicas))),
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
