"""A job of quantities of rows: the plan and the reduction of any measure, which is all that most questions need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import xarray as xr

from attlas.errors import TierError
from attlas.jobs.blocks import Plan, plan_blocks
from attlas.jobs.choices import Choices
from attlas.jobs.corpus import Corpus
from attlas.jobs.features import Features, Sums
from attlas.jobs.labels import label_quantities
from attlas.jobs.layer import LayerValues
from attlas.jobs.load import Source
from attlas.jobs.quantity import Quantity
from attlas.jobs.reduction import Job
from attlas.jobs.row_sums import RowMeasure, RowSums
from attlas.storage import Atlas

__all__ = ["factor_bytes", "plan_rows", "shard_tokens"]

SCRATCH = 30
"""Numbers of a row and head that a kernel holds beside the features it gives."""


def plan_rows(
    atlas: Atlas,
    question: str,
    choices: Choices,
    measure: RowMeasure,
    quantities: Sequence[Quantity],
    *,
    corpus: Corpus | None = None,
    parameters: Mapping[str, Any] | None = None,
    describe: Callable[[Plan, RowSums, Sequence[LayerValues]], xr.Dataset] | None = None,
    of_packs: Callable[[Source, int, Sums], Any] | None = None,
    from_factors: bool = True,
) -> Job:
    """Decide everything, and read nothing but small columns.

    Of `quantities` those are told that the measure's features, the kind of attention and the sample give. corpus: that
    of the choices, where it is known already. parameters: what the answer depends on beside the choices. describe:
    values as the answer; every quantity labelled, by default. of_packs: see `RowSums`; from_factors: see `Job`.
    Raises InputError; TierError where the atlas keeps no factors and they are needed.
    """
    corpus = corpus or choices.corpus(atlas)
    if from_factors and not atlas.tier.weights:
        raise TierError(
            f"{question} needs factors, and {atlas.name} keeps row statistics alone: capture it again with "
            'keep="factors"'
        )
    factors = factor_bytes(atlas, corpus.kind) if from_factors else (0, 0)
    features, heads = measure.features, len(corpus.heads)
    plan = plan_blocks(
        corpus, shard_tokens=shard_tokens(atlas, corpus.kind), factor_bytes=factors,
        row_bytes=_row_bytes(features, heads), sample=choices.sample, seed=choices.seed,
    )  # fmt: skip
    available = frozenset(features.parts)
    of_each = available if of_packs is None else available - {"counts"}
    same_axis, sampled, one = corpus.same_axis, plan.sample is not None, len(corpus.ids) == 1
    given = tuple(q for q in quantities if q.is_given_by(available, same_axis=same_axis, sampled=sampled))
    of_documents = tuple(
        q for q in quantities
        if q.of_documents and q.is_given_by(available if one else of_each, same_axis=same_axis, sampled=sampled)
    )  # fmt: skip
    reduction = RowSums(
        measure=measure, quantities=given, document_quantities=of_documents, groups=plan.groups,
        replicates=plan.replicates, one_document=one, of_packs=of_packs,
    )  # fmt: skip
    label = partial(
        label_quantities, plan, given, of_documents, confidence=choices.confidence
    )  # fmt: skip
    return Job(
        question=question, parameters=choices.parameters(corpus) | dict(parameters or {}), plan=plan,
        reduction=reduction, describe=label if describe is None else partial(describe, plan, reduction),
        from_factors=from_factors,
    )  # fmt: skip


def shard_tokens(atlas: Atlas, kind: str) -> int:
    """Tokens that are read together on a kind's query axis: in a shard of q, or in a chunk of the row statistics."""
    if atlas.tier.statistics:
        return int(atlas.root[f"{kind}/log_sum_exp"].chunks[2])  # type: ignore[union-attr]
    array = atlas.root[f"{kind}/q"]
    return int((array.shards or array.chunks)[2])  # type: ignore[union-attr]


def factor_bytes(atlas: Atlas, kind: str) -> tuple[int, int]:
    """Of one token's q, and of its k, of a layer, as float32."""
    q, k = (atlas.root[f"{kind}/{name}"].shape for name in ("q", "k"))  # type: ignore[union-attr]
    return 4 * q[1] * q[3], 4 * k[1] * k[3]


def _row_bytes(features: Features, heads: int) -> tuple[int, int]:
    """What the sums of a row take of all heads, and what more of a row of a sample: its histogram and Gram matrix."""
    return heads * 3 * (features.small + SCRATCH) * 8, heads * (features.bins * 12 + heads * 12)
