"""Problems for the kernels, and what float64 says of them: a dense softmax in numpy, and the oracle cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import PositionBias, ScoreRule
from attlas.engine.kernels.histogram import histogram_edges
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.kernels.row_statistics import statistic_names
from tests import oracle

__all__ = ["MASKS", "RULES", "Case", "Truth", "brute_force", "case", "rules", "truth"]

Float = NDArray[np.float64]

MASKS = ("causal", "window", "both", "around", "packed")
RULES = ("plain", "softcap", "sinks", "bias")
DOCUMENT = 13
"""Tokens of each document under the mask "packed"."""


def rules(heads: int = 4) -> dict[str, ScoreRule]:
    rng = np.random.default_rng(9)
    table = rng.normal(size=(heads, 21)).astype(np.float32)
    return {
        "plain": ScoreRule(scaling=0.35),
        "softcap": ScoreRule(scaling=1.0, softcap=3.0),
        "sinks": ScoreRule(scaling=0.5, sink_H=rng.normal(size=heads).astype(np.float32)),
        "bias": ScoreRule(
            scaling=0.5,
            bias=PositionBias(table_HR=table, first_offset=-12, saturates_left=True, saturates_right=True),
        ),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How a problem is drawn. first: rows from this one on, as a later chunk has them, with more keys than rows.

    keys: of another text, for cross-attention; None for self-attention. dtype: of the factors.
    """

    rows: int = 75
    heads: int = 4
    groups: int = 2
    features: int = 8
    values: int = 8
    mask: str = "causal"
    rule: str = "plain"
    first: int = 0
    keys: int | None = None
    dtype: str = "float32"
    seed: int = 1

    @property
    def same_axis(self) -> bool:
        return self.keys is None

    @property
    def names(self) -> tuple[str, ...]:
        return statistic_names(same_axis=self.same_axis, sinks=self.rule == "sinks")


def case(of: Case) -> tuple[Problem, torch.Tensor]:
    """The problem and its values v_GMV."""
    rng = np.random.default_rng(of.seed)
    every, keys = np.arange(of.rows), of.keys or of.rows
    start, stop = {
        "causal": (every * 0, every + 1),
        "window": (np.maximum(every - 6, 0), every + 1),
        "both": (every * 0, np.full(of.rows, keys)),
        "around": (np.maximum(every - 5, 0), np.minimum(every + 6, of.rows)),
        "packed": (every // DOCUMENT * DOCUMENT, every + 1),
    }[of.mask]
    first_N = every // DOCUMENT * DOCUMENT if of.mask == "packed" else every * 0
    ids_M = rng.integers(0, 7, keys)
    dtype: torch.dtype = getattr(torch, of.dtype)
    q, k, v = (
        torch.from_numpy(rng.normal(size=shape) * size).to(dtype)
        for shape, size in (
            (
                (of.heads, of.rows, of.features),
                min(2.0, 8.0 / of.features**0.5),
            ),  # scores of one size, whatever the features
            ((of.groups, keys, of.features), 1.0),
            ((of.groups, keys, of.values), 1.0),
        )
    )
    problem = Problem(
        q_HND=q, k_GMD=k, rule=rules(of.heads)[of.rule], start_N=start, stop_N=stop,
        tokens=TokenFacts(
            first_N=first_N, own_N=every if of.same_axis else None,
            ids_N=ids_M if of.same_axis else rng.integers(0, 7, of.rows), ids_M=ids_M, special_M=ids_M == 3,
        ),
    )  # fmt: skip
    return (problem if of.first == 0 else problem.of(rows=every[of.first :])), v


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """In float64: weights a_HNM, output, log-sum-exp, statistics name -> (H, N), histogram, and the heads' Gram."""

    a_HNM: Float
    out_NHV: Float
    lse_HN: Float
    statistics: dict[str, Float]
    histogram_HB: NDArray[np.int64]
    gram_HH: Float


@lru_cache(maxsize=256)
def truth(of: Case) -> Truth:
    """What float64 says of a case; the statistics cell by cell, document by document."""
    problem, v = case(of)
    a_HNM, lse_HN = dense(problem)
    keys = np.arange(problem.keys)
    visible = (keys >= problem.start_N[:, None]) & (keys < problem.stop_N[:, None])
    repeat = problem.heads // problem.groups
    tokens = problem.tokens
    statistics: dict[str, Float] = {}
    for first in np.unique(tokens.first_N):
        rows = np.flatnonzero(tokens.first_N == first)
        span = slice(int(first), int(problem.stop_N[rows].max()))
        # the oracle counts rows from the document's first: a later chunk's rows lie behind rows of no interest
        place = rows if tokens.own_N is None else tokens.own_N[rows] - first
        for h in range(problem.heads):
            count = int(place.max()) + 1
            a, seen = (np.zeros((count, span.stop - first), dtype=dtype) for dtype in (float, bool))
            a[place], seen[place] = a_HNM[h, rows, span], visible[rows, span]
            ids = np.full(count, -1)
            ids[place] = tokens.ids_N[rows]
            found = oracle.row_statistics(
                a, seen, ids, tokens.ids_M[span], tokens.special_M[span], same_axis=of.same_axis
            )
            for name, value in found.items():
                statistics.setdefault(name, np.zeros(lse_HN.shape))[h, rows] = value[place]
    histogram = [np.histogram(a[visible], bins=histogram_edges())[0] for a in a_HNM]
    return Truth(
        a_HNM=a_HNM, lse_HN=lse_HN, statistics=statistics, histogram_HB=np.stack(histogram),
        out_NHV=np.einsum("hnm,hmv->nhv", a_HNM, np.repeat(v.double().numpy(), repeat, axis=0)),
        gram_HH=oracle.head_gram(a_HNM),
    )  # fmt: skip


def dense(problem: Problem) -> tuple[Float, Float]:
    """Weights (H, N, M) and log-sum-exp (H, N) of a problem's factors, as they are, in float64."""
    rule, tokens = problem.rule, problem.tokens
    q, k = problem.q_HND.double().numpy(), problem.k_GMD.double().numpy()
    s = rule.scaling * np.einsum("hnd,hmd->hnm", q, np.repeat(k, problem.heads // problem.groups, axis=0))
    if rule.softcap is not None:
        s = rule.softcap * np.tanh(s / rule.softcap)
    keys = np.arange(problem.keys)
    if rule.bias is not None:
        assert tokens.own_N is not None
        place = np.clip(keys - tokens.own_N[:, None] - rule.bias.first_offset, 0, rule.bias.table_HR.shape[1] - 1)
        s = s + rule.bias.table_HR.astype(np.float64)[:, place]
    s = np.where((keys >= problem.start_N[:, None]) & (keys < problem.stop_N[:, None]), s, -np.inf)
    extra = np.full(problem.heads, -np.inf) if rule.sink_H is None else rule.sink_H.astype(np.float64)
    lse = np.logaddexp(np.logaddexp.reduce(s, axis=2), extra[:, None])
    return np.exp(s - lse[:, :, None]), lse


def brute_force(problem: Problem) -> Float:
    """Weights a_HNM of a problem, one cell at a time."""
    q, k, rule = problem.q_HND.double().numpy(), problem.k_GMD.double().numpy(), problem.rule
    a: Float = np.zeros((problem.heads, problem.rows, problem.keys))
    for h in range(problem.heads):
        for i in range(problem.rows):
            score: dict[int, Any] = {}
            for j in range(problem.start_N[i], problem.stop_N[i]):
                s = rule.scaling * float(np.dot(q[h, i], k[h // (problem.heads // problem.groups), j]))
                if rule.softcap is not None:
                    s = rule.softcap * np.tanh(s / rule.softcap)
                if rule.bias is not None:
                    assert problem.tokens.own_N is not None
                    place = j - problem.tokens.own_N[i] - rule.bias.first_offset
                    s += float(rule.bias.table_HR[h, min(max(place, 0), rule.bias.table_HR.shape[1] - 1)])
                score[j] = s
            total = sum(np.exp(s) for s in score.values())
            if rule.sink_H is not None:
                total += np.exp(float(rule.sink_H[h]))
            for j, s in score.items():
                a[h, i, j] = np.exp(s) / total
    return a
