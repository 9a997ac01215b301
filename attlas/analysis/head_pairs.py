"""Heads of all layers against one another, on sampled rows: cosine similarity and Jensen-Shannon distance.

A block is a few rows and all layers; one kernel call a layer gives their weights, and every pair of heads is then
compared on each row. Suffixes: P heads of all layers, R rows, K keys, U replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attlas.engine.kernels.divergence import shannon_distances
from attlas.jobs.blocks import Block, Plan, layer_blocks, read_bytes
from attlas.jobs.corpus import Corpus
from attlas.jobs.layer import cosine
from attlas.jobs.load import Source
from attlas.jobs.rows_job import factor_bytes, shard_tokens
from attlas.jobs.sampling import draw
from attlas.jobs.weights import block_weights
from attlas.storage import Atlas

__all__ = ["HeadPairs", "Pairs", "plan_pairs"]

Floats = NDArray[np.float64]

WEIGHTS_BYTES = 192 * 2**20
GROUPS = 16
"""Replicates, few because each holds every pair."""

ALL_LAYERS = 2**20
"""Stands for the layer in the seed of rows that all layers share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSums:
    """Sums over rows of A_p A_q and of the distance, and what each replicate adds to both. rows: their weight."""

    gram_PP: Floats
    distance_PP: Floats
    replicate_gram_UPP: NDArray[np.float32]
    replicate_distance_UPP: NDArray[np.float32]
    rows: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """cosine_PP, distance_PP: cosine similarity and mean Jensen-Shannon distance, with the sample's standard errors."""

    cosine_PP: Floats
    cosine_error_PP: Floats
    distance_PP: Floats
    distance_error_PP: Floats


def plan_pairs(atlas: Atlas, corpus: Corpus, rows: int, seed: int) -> Plan:
    """Blocks of `rows` sampled rows whose weights of all heads fit WEIGHTS_BYTES.

    None where there is one head, or the atlas keeps no factors.
    """
    sampled = min(rows, max(corpus.rows, 4))
    drawn = draw(corpus.queries_D, sampled, seed=seed, kind=corpus.kind, layer=ALL_LAYERS)
    heads, shard = len(corpus.layers) * len(corpus.heads), shard_tokens(atlas, corpus.kind)
    blocks: tuple[tuple[Block, ...], ...] = ()
    block_bytes = read = 0
    if heads > 1 and atlas.tier.weights:
        keys = min(int(corpus.keys_D.max()) + shard, int(corpus.keys_D.sum()))
        most = int(np.clip(WEIGHTS_BYTES // (heads * keys * 4), 1, max(1, len(drawn.row_R) // 2)))
        blocks = (tuple(layer_blocks(corpus, corpus.layers[0], corpus.layer_labels[0], drawn, shard, most)),)
        block_bytes = heads * keys * 4 * most + heads * heads * 8 * (2 + GROUPS)
        read = len(corpus.layers) * read_bytes(corpus, factor_bytes(atlas, corpus.kind))
    return Plan(
        corpus=corpus, rows=len(drawn.row_R), sample=sampled if len(drawn.row_R) < corpus.rows else None, seed=seed,
        blocks=blocks, groups=1, replicates=GROUPS, block_bytes=block_bytes, read_bytes=read,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPairs:
    """The reduction. corpus: of all layers."""

    corpus: Corpus

    def reduce(self, source: Source, block: Block) -> PairSums:
        """Compare all heads on the rows of one block."""
        return _compare(source, block, self.corpus)

    def join(self, parts: Sequence[PairSums], _source: Source, _layer: int) -> Pairs:
        gram_PP = np.add.reduce([part.gram_PP for part in parts])
        distance_PP = np.add.reduce([part.distance_PP for part in parts])
        rows = sum(part.rows for part in parts)
        gram_UPP: Floats = np.stack([part.replicate_gram_UPP for part in parts]).sum(axis=0, dtype=np.float64)
        distance_UPP: Floats = np.stack([part.replicate_distance_UPP for part in parts]).sum(axis=0, dtype=np.float64)
        cosine_PP = cosine(gram_PP)
        squared = np.zeros_like(cosine_PP)
        for group in range(GROUPS):
            squared += (cosine(gram_PP + gram_UPP[group]) - cosine_PP) ** 2
        return Pairs(
            cosine_PP=cosine_PP,
            cosine_error_PP=np.sqrt(squared),
            distance_PP=distance_PP / rows,
            distance_error_PP=np.sqrt((distance_UPP**2).sum(axis=0)) / rows,
        )


def _compare(source: Source, block: Block, corpus: Corpus) -> PairSums:
    drawn = block.drawn
    assert drawn is not None
    of_layers = [
        block_weights(source, replace(block, layer=layer, label=label))
        for layer, label in zip(corpus.layers, corpus.layer_labels, strict=True)
    ]
    low = min(rows.low for _, rows in of_layers)
    high = max(rows.low + rows.keys for _, rows in of_layers)
    pairs = len(corpus.layers) * len(corpus.heads)
    a_PRK = np.zeros((pairs, len(block.row_R), high - low), dtype=np.float32)
    for i, (a_HRK, rows) in enumerate(of_layers):
        place = slice(i * len(corpus.heads), (i + 1) * len(corpus.heads))
        a_PRK[place, :, rows.low - low : rows.low - low + rows.keys] = a_HRK
    of_layers.clear()
    gram_PP, distance_PP = np.zeros((pairs, pairs)), np.zeros((pairs, pairs))
    gram_UPP, distance_UPP = (np.zeros((GROUPS, pairs, pairs), dtype=np.float32) for _ in range(2))
    for r in range(len(block.row_R)):
        seen = np.flatnonzero(a_PRK[:, r].any(axis=0))
        a_PK = np.ascontiguousarray(a_PRK[:, r, seen[0] : seen[-1] + 1])
        row_gram, row_distance = a_PK @ a_PK.T, shannon_distances(a_PK)
        gram_PP += drawn.weight_R[r] * row_gram
        distance_PP += drawn.weight_R[r] * row_distance
        if drawn.replicate_R[r] >= 0:
            group = int(drawn.replicate_R[r]) % GROUPS
            gram_UPP[group] += np.float32(drawn.amplitude_R[r]) * row_gram
            distance_UPP[group] += np.float32(drawn.amplitude_R[r]) * row_distance
    return PairSums(
        gram_PP=gram_PP, distance_PP=distance_PP, replicate_gram_UPP=gram_UPP, replicate_distance_UPP=distance_UPP,
        rows=float(drawn.weight_R.sum()),
    )  # fmt: skip
