"""The heads of one document that lead in a role, from its row statistics, and a query that shows what one does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["Leader", "Telling", "induction_leader", "previous_token_leader", "telling_query"]

CONTEXT = 14
"""Tokens of repeated text that are told apart: longer repeats count as this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The head with the largest score; baseline: the score of attention spread evenly over the visible keys."""

    layer: int
    head: int
    score: float
    baseline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """A query that looks at what followed an earlier copy of its token, and the place of that copy."""

    query: int
    earlier: int


def previous_token_leader(page: xr.Dataset) -> Leader:
    """Mean weight on the token before the query, over all queries but the first two (their keys leave no choice).

    >>> leader = previous_token_leader(page)
    >>> leader.layer, leader.head
    (3, 2)
    """
    rows = np.arange(2, page.sizes["query"])
    return _leader(page, "previous_weight", rows, 1 / (rows + 1))


def induction_leader(page: xr.Dataset) -> Leader:
    """Mean weight on tokens that follow an earlier copy of the query's token, over the queries that have one."""
    ids = page["query_token_id"].values
    followers = np.array([(ids[:i] == ids[i]).sum() for i in range(len(ids))])
    rows = np.flatnonzero(followers > 0)
    return _leader(page, "induction_weight", rows, followers[rows] / (rows + 1))


def telling_query(page: xr.Dataset, induction: Leader) -> Telling:
    """Of the queries that give the head's most to what followed an earlier copy, the one whose text repeats longest."""
    ids = page["query_token_id"].values
    row = page[["max_weight", "argmax_key"]].sel(layer=induction.layer, head=induction.head).load()
    best = (0.0, 0, 0, 0)
    for query, (weight, key) in enumerate(zip(row.max_weight.values, row.argmax_key.values.astype(int), strict=True)):
        earlier = int(key) - 1
        length = 0
        while length <= min(earlier, CONTEXT) and ids[earlier - length] == ids[query - length]:
            length += 1
        if 0 <= earlier < query and length:
            best = max(best, (round(float(weight), 1), length, query, earlier))
    return Telling(query=best[2], earlier=best[3])


def _leader(page: xr.Dataset, statistic: str, rows: NDArray[np.int64], evenly: NDArray[np.float64]) -> Leader:
    """evenly: of each row, what attention spread evenly would give."""
    if len(rows) == 0:
        name = page.attrs["document_id"]
        raise InputError(f"no query of {name!r} has a {statistic}: take a longer text, in which tokens come again")
    score = page[statistic].isel(query=rows).mean("query").load()
    layer, head = np.unravel_index(int(score.values.argmax()), score.shape)
    return Leader(
        layer=int(page["layer"].values[layer]), head=int(page["head"].values[head]),
        score=float(score.values[layer, head]), baseline=float(evenly.mean()),
    )  # fmt: skip
