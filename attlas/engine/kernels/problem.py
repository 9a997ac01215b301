"""A problem: one layer's rows and keys, and all that a kernel must know of them. The one argument of every kernel.

What the layers of one chunk have in common, the token facts, is a value of its own: it is made once a chunk, and what
is found out from it, the order of the keys' tokens, is found out once.

Suffixes: H query heads, G kv heads (H a multiple of G), N query rows, M keys, D features, S special keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import ScoreRule

__all__ = ["KeyOrder", "Problem", "TokenFacts"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyOrder:
    """The keys ordered by token id and place (order_M), the ids in that order (ids_M), and the special keys."""

    order_M: Indices
    ids_M: Indices
    special_S: Indices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenFacts:
    """What the statistics must know of the tokens; the same for all layers of a chunk.

    first_N: index of the document's first key. own_N: index of the key at the query's own position; None for
    cross-attention. ids_N, ids_M: token ids of queries and keys. special_M: which keys are special tokens.
    """

    first_N: Indices
    own_N: Indices | None
    ids_N: Indices
    ids_M: Indices
    special_M: NDArray[np.bool_]
    _orders: list[KeyOrder] = field(default_factory=list, repr=False)
    """Filled once, and shared by the facts of all row selections."""
    _copies: list[tuple[Indices, Indices]] = field(default_factory=list, repr=False)

    @classmethod
    def of_places(cls, rows: int, keys: int, own_N: Indices | None) -> TokenFacts:
        """Facts of rows of which weights are asked, and no statistics: token ids are all alike, and none is special."""
        return cls(
            first_N=np.zeros(rows, dtype=np.int64), own_N=own_N, ids_N=np.zeros(rows, dtype=np.int64),
            ids_M=np.zeros(keys, dtype=np.int64), special_M=np.zeros(keys, dtype=np.bool_),
        )  # fmt: skip

    @property
    def order(self) -> KeyOrder:
        """The order of the keys' tokens; the first who asks pays for it."""
        if not self._orders:
            order_M = np.argsort(self.ids_M, kind="stable")
            self._orders.append(
                KeyOrder(order_M=order_M, ids_M=self.ids_M[order_M], special_S=np.flatnonzero(self.special_M))
            )
        return self._orders[0]

    @property
    def copies(self) -> tuple[Indices, Indices]:
        """Each row's run of its own token in `order`: begin and end, (N,) each."""
        if not self._copies:
            ids_M = self.order.ids_M
            self._copies.append(
                (np.searchsorted(ids_M, self.ids_N, side="left"), np.searchsorted(ids_M, self.ids_N, side="right"))
            )
        return self._copies[0]

    @property
    def own_or_none_N(self) -> Indices:
        """own_N, or -1 for every row of cross-attention: what compiled code reads."""
        return np.full(len(self.first_N), -1, dtype=np.int64) if self.own_N is None else self.own_N

    def of_rows(self, rows: Indices | slice) -> TokenFacts:
        """The facts of some of the rows."""
        return replace(
            self,
            first_N=self.first_N[rows],
            own_N=None if self.own_N is None else self.own_N[rows],
            ids_N=self.ids_N[rows],
            _copies=[(begin_N[rows], end_N[rows]) for begin_N, end_N in self._copies],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Attention of rows over keys, in one layer.

    q_HND, k_GMD: factors, in any float dtype, on one device. start_N, stop_N: each row's key interval, not empty, in
    indices into the M keys. Rows may be any of the document's, in any order.
    """

    q_HND: torch.Tensor
    k_GMD: torch.Tensor
    rule: ScoreRule
    start_N: Indices
    stop_N: Indices
    tokens: TokenFacts

    @property
    def heads(self) -> int:
        return int(self.q_HND.shape[0])

    @property
    def groups(self) -> int:
        return int(self.k_GMD.shape[0])

    @property
    def rows(self) -> int:
        return int(self.q_HND.shape[1])

    @property
    def keys(self) -> int:
        return int(self.k_GMD.shape[1])

    @property
    def features(self) -> int:
        return int(self.q_HND.shape[2])

    @property
    def device(self) -> torch.device:
        return self.q_HND.device

    @property
    def cells(self) -> int:
        """How many visible cells all heads have."""
        return self.heads * int((self.stop_N - self.start_N).sum())

    def tile(self, rows: slice, keys: slice) -> Problem:
        """Some rows, and only some of the keys; key intervals and own keys still count among all, as `weights` has it:
        the places of these keys are `keys`."""
        return replace(
            self, q_HND=self.q_HND[:, rows], k_GMD=self.k_GMD[:, keys], start_N=self.start_N[rows],
            stop_N=self.stop_N[rows], tokens=self.tokens.of_rows(rows),
        )  # fmt: skip

    def of(self, heads: Indices | None = None, rows: Indices | None = None) -> Problem:
        """The same for some heads and rows, ascending; kv heads stay shared where as many of the heads use each."""
        part = self
        if rows is not None:
            part = replace(
                part,
                q_HND=part.q_HND[:, rows],
                start_N=part.start_N[rows],
                stop_N=part.stop_N[rows],
                tokens=part.tokens.of_rows(rows),
            )
        if heads is not None:
            place = heads // (self.heads // self.groups)
            shared, counts = np.unique(place, return_counts=True)
            place = shared if len(set(counts.tolist())) == 1 else place
            part = replace(
                part, q_HND=part.q_HND[heads], k_GMD=part.k_GMD[place], rule=part.rule.for_heads(heads)
            )  # fmt: skip
        return part
