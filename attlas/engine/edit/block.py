"""A block of whole rows of weights while it is edited: as scores as long as that is possible, then as weights.

Suffixes: H the block's heads, Q its rows, K its keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["Block"]

Indices = NDArray[np.int64]


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """Whole rows of one layer and document.

    layer, heads: the model's indices. query_Q, key_K: places in the document. s_HQK: scores, -inf outside the key
    interval; None once they are weights. lse_HQ: their log-sum-exp, sink logit included. sink_H: the heads' sink
    logits. visible_QK: the key intervals.
    """

    layer: int
    heads: Indices
    query_Q: Indices
    key_K: Indices
    visible_QK: torch.Tensor
    s_HQK: torch.Tensor | None
    lse_HQ: torch.Tensor
    sink_H: torch.Tensor | None
    a_HQK: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.lse_HQ.device

    def weights(self) -> torch.Tensor:
        """(H, Q, K), to be changed in place; there are no scores any more."""
        if self.a_HQK is None:
            assert self.s_HQK is not None
            lse_HQ = torch.where(torch.isneginf(self.lse_HQ), 0.0, self.lse_HQ)  # a row with nothing left gives 0
            self.a_HQK = self.s_HQK.sub_(lse_HQ[:, :, None]).exp_()
            self.s_HQK = None
        return self.a_HQK

    def take_out(self, mask_HQK: torch.Tensor, renormalise: str) -> None:
        """Cells become 0; what is left of a row keeps its sum ("rest"), or is a softmax of its own ("scores")."""
        if renormalise == "scores" and self.s_HQK is None:
            raise InputError(
                'renormalise="scores" takes keys out of the softmax, and an edit before it has left only weights: put '
                "this edit first, or renormalise the rest"
            )
        if renormalise == "none" or self.s_HQK is None:
            a_HQK = self.weights()
            before_HQ = a_HQK.sum(2)
            a_HQK.masked_fill_(mask_HQK, 0.0)
            if renormalise != "none":
                self.to_sum(before_HQ, mask_HQK.any(2))
            return
        # scores, whose softmax is taken anew: nothing is subtracted, however much weight is taken out
        touched_HQ = mask_HQK.any(2)
        own_HQ = torch.logsumexp(self.s_HQK, dim=2)
        self.s_HQK.masked_fill_(mask_HQK, -torch.inf)
        left_HQ = torch.logsumexp(self.s_HQK, dim=2)
        if renormalise == "scores":
            after_HQ = left_HQ if self.sink_H is None else torch.logaddexp(left_HQ, self.sink_H[:, None])
        else:
            nothing_HQ = torch.isneginf(left_HQ)  # of a row with nothing left, now or before
            after_HQ = torch.where(nothing_HQ, left_HQ, left_HQ - own_HQ + self.lse_HQ)
        self.lse_HQ = torch.where(touched_HQ, after_HQ, self.lse_HQ)

    def to_sum(self, sum_HQ: torch.Tensor, rows_HQ: torch.Tensor) -> None:
        """Scale these rows to sum to so much, where anything is left of them."""
        a_HQK = self.weights()
        now_HQ = a_HQK.sum(2)
        factor_HQ = torch.where(rows_HQ & (now_HQ > 0), sum_HQ / now_HQ.clamp_min(torch.finfo(now_HQ.dtype).tiny), 1.0)
        a_HQK *= factor_HQ[:, :, None]

    def renew(self, s_HQK: torch.Tensor, sink_H: torch.Tensor | None, rows_HQ: torch.Tensor) -> None:
        """Other scores, and sink logits, of these rows, with a softmax of their own."""
        assert self.s_HQK is not None
        lse_HQ = torch.logsumexp(s_HQK, dim=2)
        if sink_H is not None:
            lse_HQ = torch.logaddexp(lse_HQ, sink_H[:, None])
        self.s_HQK = torch.where(rows_HQ[:, :, None], s_HQK, self.s_HQK)
        self.lse_HQ = torch.where(rows_HQ, lse_HQ, self.lse_HQ)
