"""The plan of a job: which rows go through the kernel together. Values and pure functions; nothing is read.

A block is one layer, all its kept heads, and a run of rows aligned to the store's shards; it is one task, one read of
each shard it touches, and one kernel call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.jobs.corpus import Corpus
from attlas.jobs.sampling import Sample, draw

__all__ = ["Block", "Drawn", "Plan", "layer_blocks", "plan_blocks", "read_bytes"]

Indices = NDArray[np.int64]

BLOCK_ROWS, SAMPLED_ROWS = 4096, 256
GROUPS = 64
"""Groups of neighbouring documents that the jackknife leaves out one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """A sample's rows within a block; see `sampling.Sample`. replicate_R counts from first_replicate."""

    weight_R: NDArray[np.float64]
    amplitude_R: NDArray[np.float64]
    replicate_R: Indices
    own_R: Indices
    by_document: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One task. layer: place on the store's layer dimension; label: the model's index. row_R: places on the query axis.

    documents: those that have a row here, from number `first` of the corpus on. whole_D: which of them lie here with
    all their (drawn) rows. group_D: the jackknife group of each.
    """

    layer: int
    label: int
    row_R: Indices
    documents: Corpus
    first: int
    whole_D: NDArray[np.bool_]
    group_D: Indices
    drawn: Drawn | None

    @property
    def document_R(self) -> Indices:
        """Number of each row's document within the block."""
        return np.searchsorted(self.documents.query_start_D, self.row_R, side="right") - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A job's rows, cut. blocks: those that are joined together, such as a layer's, in order. rows: of each layer.

    groups, replicates: how many jackknife groups and replicates there are. block_bytes: what a task holds at most.
    read_bytes: of the store, where each block finds what it needs not yet read.
    """

    corpus: Corpus
    rows: int
    sample: int | None
    seed: int
    blocks: tuple[tuple[Block, ...], ...]
    groups: int
    replicates: int
    block_bytes: int
    read_bytes: int

    @property
    def count(self) -> int:
        """Of blocks."""
        return sum(len(blocks) for blocks in self.blocks)


def plan_blocks(
    corpus: Corpus,
    *,
    shard_tokens: int,
    factor_bytes: tuple[int, int],
    row_bytes: tuple[int, int],
    sample: int | None = None,
    seed: int = 0,
) -> Plan:
    """Cut every layer's rows into blocks.

    shard_tokens: tokens in a shard of the store. factor_bytes: of one token's q and k of a layer, float32. row_bytes:
    what a reduction makes of one row of all heads, and what more of one of a sample.
    """
    step = shard_tokens * max(1, BLOCK_ROWS // shard_tokens)
    exact = sample is None or sample >= corpus.rows
    groups = min(len(corpus.ids), GROUPS)
    group_D = np.arange(len(corpus.ids)) * groups // len(corpus.ids)
    whole = _all_rows(corpus)
    layers, replicates, rows, most_rows, most_keys = [], 0, 0, 0, 0
    for layer, label in zip(corpus.layers, corpus.layer_labels, strict=True):
        drawn = None if exact or sample is None else draw(
            corpus.queries_D, sample, seed=seed, kind=corpus.kind, layer=label
        )  # fmt: skip
        row_R = whole if drawn is None else whole[drawn.row_R]
        most = BLOCK_ROWS if drawn is None else SAMPLED_ROWS
        layers.append(tuple(_layer_blocks(corpus, layer, label, row_R, drawn, group_D, step, most)))
        replicates, rows = max(replicates, 0 if drawn is None else drawn.replicates), len(row_R)
        for block in layers[-1]:
            most_rows = max(most_rows, len(block.row_R))
            most_keys = max(most_keys, _keys(block))
    a_row = row_bytes[0] + (0 if exact else row_bytes[1])
    q_bytes, k_bytes = factor_bytes
    span = step if exact else most_keys
    return Plan(
        corpus=corpus, rows=rows, sample=None if exact else sample, seed=seed, blocks=tuple(layers), groups=groups,
        replicates=replicates,
        block_bytes=most_rows * (a_row + q_bytes) + q_bytes * min(span, step) + 2 * k_bytes * most_keys + 32 * 2**20,
        read_bytes=len(corpus.layers) * read_bytes(corpus, factor_bytes),
    )  # fmt: skip


def layer_blocks(
    corpus: Corpus, layer: int, label: int, sample: Sample, shard_tokens: int, most: int
) -> Iterator[Block]:
    """Blocks of a sample's rows, at most `most` in each, from the same shards."""
    group_D = np.zeros(len(corpus.ids), dtype=np.int64)
    row_R = _all_rows(corpus)[sample.row_R]
    return _layer_blocks(corpus, layer, label, row_R, sample, group_D, shard_tokens, most)


def read_bytes(corpus: Corpus, factor_bytes: tuple[int, int]) -> int:
    """Of one layer's q and k, whose bytes a token are given."""
    q_bytes, k_bytes = factor_bytes
    return int(corpus.queries_D.sum()) * q_bytes + int(corpus.keys_D.sum()) * k_bytes


def _keys(block: Block) -> int:
    part = block.documents
    return int((part.key_start_D + part.keys_D).max() - part.key_start_D.min())


def _all_rows(corpus: Corpus) -> Indices:
    """Places on the query axis of every row, documents end to end."""
    offset_D = np.cumsum(corpus.queries_D) - corpus.queries_D
    return np.repeat(corpus.query_start_D - offset_D, corpus.queries_D) + np.arange(corpus.rows)


def _layer_blocks(
    corpus: Corpus,
    layer: int,
    label: int,
    row_R: Indices,
    sample: Sample | None,
    group_D: Indices,
    step: int,
    most: int,
) -> Iterator[Block]:
    document_R = np.searchsorted(corpus.query_start_D, row_R, side="right") - 1
    edges = [0, *(np.flatnonzero(np.diff(row_R // step)) + 1).tolist(), len(row_R)]
    first_row_D = np.searchsorted(document_R, np.arange(len(corpus.ids)), side="left")
    stop_row_D = np.searchsorted(document_R, np.arange(len(corpus.ids)), side="right")
    for low, high in pairwise(edges):
        parts = -(-(high - low) // most)
        for part in range(parts):
            begin, end = low + (high - low) * part // parts, low + (high - low) * (part + 1) // parts
            first, last = int(document_R[begin]), int(document_R[end - 1])
            documents = slice(first, last + 1)
            yield Block(
                layer=layer, label=label, row_R=row_R[begin:end], documents=corpus.slice(documents), first=first,
                whole_D=(first_row_D[documents] >= begin) & (stop_row_D[documents] <= end),
                group_D=group_D[documents], drawn=None if sample is None else _drawn(sample, slice(begin, end)),
            )  # fmt: skip


def _drawn(sample: Sample, rows: slice) -> Drawn:
    of_rows: dict[str, Any] = {
        name: getattr(sample, name)[rows] for name in ("weight_R", "amplitude_R", "replicate_R", "own_R")
    }
    return Drawn(**of_rows, by_document=sample.by_document)
