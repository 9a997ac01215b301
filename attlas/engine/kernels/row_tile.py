"""A tile of whole rows of weights, and what the reference of a row statistic may ask of it.

Suffixes: H heads, Q rows and K keys of the tile, N all rows, M all keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attlas.engine.kernels.problem import TokenFacts

__all__ = ["RowTile"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowTile:
    """Weights of whole rows, and what is known of their tokens.

    a_HQK: weights, 0 outside the key interval. s_HQK: scores, -inf outside it. lse_HQ: the rows' log-sum-exp.
    key_K: index of each column's key among the M keys. tokens: facts of the tile's rows and of all M keys.
    """

    a_HQK: torch.Tensor
    s_HQK: torch.Tensor
    lse_HQ: torch.Tensor
    key_K: torch.Tensor
    first_Q: torch.Tensor
    tokens: TokenFacts

    @property
    def own_Q(self) -> torch.Tensor:
        """Index of the key at each row's own position."""
        assert self.tokens.own_N is not None, "this statistic needs queries and keys on one token axis"
        return torch.as_tensor(self.tokens.own_N, device=self.a_HQK.device)

    @property
    def position_K(self) -> torch.Tensor:
        """(Q, K): place of each column's key in the row's document."""
        return self.key_K - self.first_Q[:, None]

    @property
    def ids_Q(self) -> torch.Tensor:
        return torch.as_tensor(self.tokens.ids_N, device=self.a_HQK.device)

    def ids_K(self, back: int = 0) -> torch.Tensor:
        """Token ids of the columns' keys, or of the keys `back` before them (the first key's, where there are none)."""
        ids_M = torch.as_tensor(self.tokens.ids_M, device=self.a_HQK.device)
        return ids_M[(self.key_K - back).clamp(min=0)]

    @property
    def special_K(self) -> torch.Tensor:
        return torch.as_tensor(self.tokens.special_M, device=self.a_HQK.device)[self.key_K]

    def at(self, key_Q: torch.Tensor) -> torch.Tensor:
        """Each row's weight (H, Q) on one key; 0 where it lies outside the tile, and so outside the key interval."""
        place_Q, width = key_Q - self.key_K[0], self.a_HQK.shape[2]
        inside_Q = (place_Q >= 0) & (place_Q < width)
        column_HQ1 = place_Q.clamp(0, width - 1).expand(self.a_HQK.shape[0], -1)[:, :, None]
        return torch.where(inside_Q, self.a_HQK.gather(2, column_HQ1)[:, :, 0], 0.0)

    def on(self, keys_QK: torch.Tensor) -> torch.Tensor:
        """Each row's weight (H, Q) on the keys that a mask (Q, K) or (K,) marks."""
        return (self.a_HQK * keys_QK).sum(2)
