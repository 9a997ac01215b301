"""The listener that computes: answers a call by the kernels, and lets gradients and dropout through where they are on.

Suffixes: H query heads, G kv heads, N queries, M keys, D features, V value features; Q the rows of one tile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import dispatch
from attlas.engine.kernels.backward import attend_backward, row_blocks
from attlas.engine.kernels.reference import TILE_BYTES, Attended, weights
from attlas.errors import UnsupportedModelError

__all__ = ["Compute"]


class Compute(Listener):
    """Answers by whichever kernel knows the score rule; measures what the call asks to have measured."""

    def compute(self, call: AttentionCall) -> Attended:
        needs_gradient = torch.is_grad_enabled() and any(
            x.requires_grad for x in (call.q_HND, call.k_GMD, call.v_GMV)
        )  # fmt: skip
        if needs_gradient and call.dropout:
            raise UnsupportedModelError(
                "gradients through weights under dropout are another quantity than the weights' own: "
                "use grad=True or train=True, not both"
            )
        if call.dropout:
            return replace(_attend(call), out_NHV=_with_dropout(call))
        if needs_gradient:
            box: list[Attended] = []
            out_NHV: torch.Tensor = _Differentiable.apply(call.q_HND, call.k_GMD, call.v_GMV, call, box)
            return replace(box[0], out_NHV=out_NHV)
        return _attend(call)


def _attend(call: AttentionCall) -> Attended:
    start_N, stop_N, facts = call.placed()
    return dispatch.attend(
        call.q_HND, call.k_GMD, call.v_GMV, call.rule, start_N=start_N, stop_N=stop_N, facts=facts,
        measure=call.measure,
    )  # fmt: skip


class _Differentiable(torch.autograd.Function):
    """The kernels' output with a gradient of its own: the kernels themselves give none, or, joining pieces, a wrong
    one. box: takes what was measured."""

    @staticmethod
    def forward(
        ctx: Any, q_HND: torch.Tensor, k_GMD: torch.Tensor, v_GMV: torch.Tensor, call: AttentionCall,
        box: list[Attended],
    ) -> torch.Tensor:  # fmt: skip
        call = replace(call, q_HND=q_HND.detach(), k_GMD=k_GMD.detach(), v_GMV=v_GMV.detach())
        attended = _attend(call)
        box.append(attended)
        partial = call.measure.heads is not None or call.measure.rows is not None
        lse_HN = (_attend(replace(call, measure=dispatch.Measure())) if partial else attended).rows.lse_HN
        ctx.rule, ctx.placed = call.rule, call.placed()
        ctx.save_for_backward(q_HND, k_GMD, v_GMV, attended.out_NHV, lse_HN)
        return attended.out_NHV

    @staticmethod
    def backward(ctx: Any, grad_NHV: torch.Tensor) -> Any:
        start_N, stop_N, facts = ctx.placed
        q_HND, k_GMD, v_GMV, out_NHV, lse_HN = ctx.saved_tensors
        gradients = attend_backward(
            grad_NHV, q_HND, k_GMD, v_GMV, out_NHV, lse_HN, ctx.rule, start_N=start_N, stop_N=stop_N, facts=facts
        )
        return (*gradients, None, None)


def _with_dropout(call: AttentionCall) -> torch.Tensor:
    """The output with each weight zeroed with probability `dropout` and the others scaled up; by torch's generator."""
    start_N, stop_N, facts = call.placed()
    q_HND, k_GMD, v_GMV = call.q_HND, call.k_GMD, call.v_GMV
    heads, rows, _ = q_HND.shape
    lse_HN = _attend(replace(call, measure=dispatch.Measure())).rows.lse_HN
    position_N = facts.own_N if facts.own_N is not None else np.zeros(rows, dtype=np.int64)
    out_NHV = v_GMV.new_empty(rows, heads, v_GMV.shape[2])
    for begin, end, low, high in row_blocks(start_N, stop_N, heads * 4, TILE_BYTES):
        at = slice(begin, end)
        a_HQK = weights(
            q_HND[:, at], k_GMD[:, low:high], lse_HN[:, at], call.rule, start_Q=start_N[at], stop_Q=stop_N[at],
            query_positions_Q=position_N[at], key_positions_K=np.arange(low, high),
        )  # fmt: skip
        torch.nn.functional.dropout(a_HQK, call.dropout, training=True, inplace=True)
        v_GKV = v_GMV[:, low:high].float()
        out_HQV = (a_HQK.reshape(len(v_GKV), -1, high - low) @ v_GKV).reshape(heads, end - begin, -1)
        out_NHV[at] = out_HQV.transpose(0, 1).to(out_NHV.dtype)
    return out_NHV
