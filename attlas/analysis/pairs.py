"""Heads of all layers against one another, on sampled rows: cosine similarity and Jensen-Shannon distance.

A block is a few rows and all layers; one kernel call a layer gives their weights, and every pair of heads is then
compared on each row. Suffixes: P heads of all layers, R rows, K keys, U replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.analysis.layer import cosine
from attlas.engine.kernels.divergence import shannon_distances
from attlas.engine.kernels.door import weights
from attlas.jobs.blocks import Block, layer_blocks
from attlas.jobs.corpus import Corpus
from attlas.jobs.load import Source, load_problem, load_rows
from attlas.jobs.sampling import draw

__all__ = ["Pairs", "finish_pairs", "measure_pairs", "plan_pairs"]

Floats = NDArray[np.float64]

WEIGHTS_BYTES = 192 * 2**20
GROUPS = 16
"""Replicates, few because each holds every pair."""

ALL_LAYERS = 2**20
"""Stands for the layer in the seed of rows that all layers share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSums:
    """Sums over rows of A_p A_q and of the distance; moved: what each replicate adds to both. rows: their weight."""

    gram_PP: Floats
    distance_PP: Floats
    moved_gram_UPP: NDArray[np.float32]
    moved_distance_UPP: NDArray[np.float32]
    rows: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """cosine_PP, distance_PP: cosine similarity and mean Jensen-Shannon distance, with the sample's standard errors."""

    cosine_PP: Floats
    cosine_error_PP: Floats
    distance_PP: Floats
    distance_error_PP: Floats


def plan_pairs(corpus: Corpus, rows: int, seed: int, shard_tokens: int) -> tuple[tuple[Block, ...], int]:
    """Blocks of sampled rows whose weights of all heads fit WEIGHTS_BYTES, and the bytes of the largest."""
    drawn = draw(corpus.queries_D, min(rows, max(corpus.rows, 4)), seed=seed, kind=corpus.kind, layer=ALL_LAYERS)
    heads = len(corpus.layers) * len(corpus.heads)
    keys = min(int(corpus.keys_D.max()) + shard_tokens, int(corpus.keys_D.sum()))
    most = int(np.clip(WEIGHTS_BYTES // (heads * keys * 4), 1, max(1, len(drawn.row_R) // 2)))
    blocks = tuple(layer_blocks(corpus, corpus.layers[0], corpus.layer_labels[0], drawn, shard_tokens, most))
    return blocks, heads * keys * 4 * most + heads * heads * 8 * (2 + GROUPS)


def measure_pairs(source: Source, block: Block, corpus: Corpus, workers: int) -> PairSums:
    """Compare all heads on the rows of one block."""
    threads = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return _compare(source, block, corpus)
    finally:
        torch.set_num_threads(threads)


def finish_pairs(parts: Sequence[PairSums], _source: Source) -> Pairs:
    gram_PP = np.add.reduce([part.gram_PP for part in parts])
    distance_PP = np.add.reduce([part.distance_PP for part in parts])
    rows = sum(part.rows for part in parts)
    moved_gram: Floats = np.stack([part.moved_gram_UPP for part in parts]).sum(axis=0, dtype=np.float64)
    moved_distance: Floats = np.stack([part.moved_distance_UPP for part in parts]).sum(axis=0, dtype=np.float64)
    cosine_PP = cosine(gram_PP)
    squared = np.zeros_like(cosine_PP)
    for group in range(GROUPS):
        squared += (cosine(gram_PP + moved_gram[group]) - cosine_PP) ** 2
    return Pairs(
        cosine_PP=cosine_PP,
        cosine_error_PP=np.sqrt(squared),
        distance_PP=distance_PP / rows,
        distance_error_PP=np.sqrt((moved_distance**2).sum(axis=0)) / rows,
    )


def _compare(source: Source, block: Block, corpus: Corpus) -> PairSums:
    drawn = block.drawn
    assert drawn is not None
    low_high = [
        _weights(source, block, layer, label) for layer, label in zip(corpus.layers, corpus.layer_labels, strict=True)
    ]
    low, high = min(one[1] for one in low_high), max(one[1] + one[0].shape[2] for one in low_high)
    pairs = len(corpus.layers) * len(corpus.heads)
    a_PRK = np.zeros((pairs, len(block.row_R), high - low), dtype=np.float32)
    for i, (a_HRK, begin) in enumerate(low_high):
        place = slice(i * len(corpus.heads), (i + 1) * len(corpus.heads))
        a_PRK[place, :, begin - low : begin - low + a_HRK.shape[2]] = a_HRK
    low_high.clear()
    gram_PP, distance_PP = np.zeros((pairs, pairs)), np.zeros((pairs, pairs))
    moved_gram, moved_distance = (np.zeros((GROUPS, pairs, pairs), dtype=np.float32) for _ in range(2))
    for r in range(len(block.row_R)):
        seen = np.flatnonzero(a_PRK[:, r].any(axis=0))
        a_PK = np.ascontiguousarray(a_PRK[:, r, seen[0] : seen[-1] + 1])
        row_gram, row_distance = a_PK @ a_PK.T, shannon_distances(a_PK)
        gram_PP += drawn.weight_R[r] * row_gram
        distance_PP += drawn.weight_R[r] * row_distance
        if drawn.replicate_R[r] >= 0:
            group = int(drawn.replicate_R[r]) % GROUPS
            moved_gram[group] += np.float32(drawn.amplitude_R[r]) * row_gram
            moved_distance[group] += np.float32(drawn.amplitude_R[r]) * row_distance
    return PairSums(
        gram_PP=gram_PP, distance_PP=distance_PP, moved_gram_UPP=moved_gram, moved_distance_UPP=moved_distance,
        rows=float(drawn.weight_R.sum()),
    )  # fmt: skip


def _weights(source: Source, block: Block, layer: int, label: int) -> tuple[NDArray[np.float32], int]:
    """(H, R, K) weights of the block's rows in one layer, and the key its first column stands for."""
    here = replace(block, layer=layer, label=label)
    rows = load_rows(source, here)
    problem, lse_HR = load_problem(source, here, rows)
    return weights(problem, lse_HR).numpy(), rows.low
