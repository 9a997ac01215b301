"""PageRank and eigenvector centrality of all weights, none left out, at any length: by products with A alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from attlas.analysis.choosing import choose_document
from attlas.errors import InputError
from attlas.jobs.results import answer_once
from attlas.parse import parse_flag, parse_share, refuse
from attlas.storage import Atlas
from attlas.storage.operator import AttentionOperator
from attlas.storage.stores import Where
from attlas.storage.tile import existing_label

__all__ = ["pagerank"]

Floats = NDArray[np.float64]

TOLERANCE = 1e-12
"""Sum of the changes of a round, for each token, at which PageRank is found."""
ROUNDS = 1000


def pagerank(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    layer: int,
    head: int | str = "mean",
    kind: str | None = None,
    damping: float = 0.85,
    save: bool = True,
) -> xr.Dataset:
    """PageRank (Page et al. 1999) and eigenvector centrality (Bonacich 1972) of every token, every weight an edge.

    >>> found = attlas.analysis.pagerank(atlas, layer=1, head=0)
    >>> int(found.pagerank.argmax()), round(float(found.pagerank.sum()), 6), found.attrs["rounds"] > 1
    (0, 1.0, True)

    document: may be left out where the atlas holds one. layer, head: the model's indices, negative from the end; "mean"
    of all heads. kind: of its kinds, the first by default. damping: share of the walk that follows the weights.
    save: keep the answer in the atlas, where it is found the next time.

    pagerank(token): where a walk from query to key, each row scaled to sum 1, is found. eigenvector(token): the leading
    eigenvector of (A + A.T) / 2, of length 1. The same as `centrality` of a graph of all edges, without the graph: each
    round is a product with A.T from the factors, so that length is bound by time alone. Memory: as `Atlas.operator`.
    Raises InputError for cross attention and chosen query rows; DocumentMissingError, TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    damping, save = parse_share(damping, "damping"), parse_flag(save, "save")
    attention = atlas.attention(document, kind)
    layer = existing_label(attention, "layer", layer)
    if isinstance(head, str) and head != "mean":
        raise refuse(head, "head", 'give a number, or "mean"')
    chosen = head if isinstance(head, str) else existing_label(attention, "head", head)
    operator = atlas.operator(document, layer, kind)
    if kind == "cross" or operator.shape[0] != operator.shape[1]:
        raise InputError(f"{kind} attention of {document!r} is no map of tokens to themselves, which this needs")
    about = {"document": document, "kind": kind, "layer": layer, "head": str(chosen), "damping": damping}
    tokens = attention["key_token"].values.astype(str)

    def answer() -> xr.Dataset:
        found = _answer(operator, chosen, damping, tokens)
        return found.assign_attrs(question="pagerank", model=str(atlas.model.get("name")), **about)

    return answer_once(atlas, "pagerank", about, answer, save=save)


def _answer(operator: AttentionOperator, head: Any, damping: float, tokens: NDArray[np.str_]) -> xr.Dataset:
    rank, rounds = _rank(operator, head, damping)
    return xr.Dataset(
        {
            "pagerank": ("token", rank, {"long_name": "PageRank from query to key", "units": "1"}),
            "eigenvector": (
                "token", _leading(operator, head), {"long_name": "leading eigenvector of (A + A.T) / 2", "units": "1"}
            ),
        },
        {"token": np.arange(len(rank)), "text": ("token", tokens)},
        {"rounds": rounds},
    )  # fmt: skip


def _rank(operator: AttentionOperator, head: Any, damping: float) -> tuple[Floats, int]:
    tokens = operator.shape[1]
    mass: Floats = operator.apply(np.ones(tokens), head)  # 1, but for sink logits
    spread = np.full(tokens, 1 / tokens)
    rank, nothing = spread, mass <= 0
    for done in range(1, ROUNDS + 1):
        given = np.divide(rank, mass, out=np.zeros(tokens), where=~nothing)
        after = damping * (operator.apply_transposed(given, head) + rank[nothing].sum() * spread)
        after += (1 - damping) * spread
        after /= after.sum()
        if np.abs(after - rank).sum() < tokens * TOLERANCE:
            return after, done
        rank = after
    raise InputError(f"PageRank is not found in {ROUNDS} rounds with a damping of {damping}: give a smaller one")


def _leading(operator: AttentionOperator, head: Any) -> Floats:
    tokens = operator.shape[1]

    def both(x: Floats) -> Floats:
        x = np.asarray(x, np.float64).ravel()
        half: Floats = (operator.apply(x, head) + operator.apply_transposed(x, head)) / 2
        return half

    if tokens < 3:
        whole = np.stack([both(row) for row in np.eye(tokens)])
        values, vectors = np.linalg.eigh(whole)
        vector = vectors[:, int(values.argmax())]
    else:
        symmetric = LinearOperator((tokens, tokens), matvec=both, dtype=np.float64)
        try:
            vector = eigsh(symmetric, k=1, which="LA", v0=np.ones(tokens), tol=1e-9)[1][:, 0]
        except ArpackNoConvergence as error:
            raise InputError("the leading eigenvector is not found: heads of one weight a row have several") from error
    vector = np.abs(vector)
    return vector / np.linalg.norm(vector)
