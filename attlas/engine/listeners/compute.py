"""The listener that computes: answers a call by the kernels, and lets gradients and dropout through where they are on.

Suffixes: H query heads, G kv heads, N queries, M keys, D features, V value features; Q the rows of one tile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import door
from attlas.engine.kernels.backward import attend_backward
from attlas.engine.kernels.measure import TILE_BYTES, Attended, Measure
from attlas.engine.kernels.reference import plan_rows
from attlas.errors import UnsupportedModelError

__all__ = ["Compute"]

_NOTHING = torch.empty(0)


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
    return door.attend(call.problem(), call.v_GMV, call.measure)


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
        lse_HN = (_attend(replace(call, measure=Measure())) if partial else attended).rows.lse_HN
        ctx.problem = replace(call.problem(), q_HND=_NOTHING, k_GMD=_NOTHING)  # autograd holds these
        ctx.save_for_backward(q_HND, k_GMD, v_GMV, attended.out_NHV, lse_HN)
        return attended.out_NHV

    @staticmethod
    def backward(ctx: Any, grad_NHV: torch.Tensor) -> Any:
        q_HND, k_GMD, v_GMV, out_NHV, lse_HN = ctx.saved_tensors
        problem = replace(ctx.problem, q_HND=q_HND, k_GMD=k_GMD)
        gradients = attend_backward(problem, v_GMV, grad_NHV=grad_NHV, out_NHV=out_NHV, lse_HN=lse_HN)
        return (*gradients, None, None)


def _with_dropout(call: AttentionCall) -> torch.Tensor:
    """The output with each weight zeroed with probability `dropout` and the others scaled up; by torch's generator."""
    problem, v_GMV = call.problem(), call.v_GMV
    heads, rows = problem.heads, problem.rows
    lse_HN = _attend(replace(call, measure=Measure())).rows.lse_HN
    out_NHV = v_GMV.new_empty(rows, heads, v_GMV.shape[2])
    for begin, end, low, high in plan_rows(problem.start_N, problem.stop_N, heads * 4, TILE_BYTES):
        at = slice(begin, end)
        tile = problem.tile(at, slice(low, high))
        a_HQK = door.weights(tile, lse_HN[:, at], key_M=np.arange(low, high))
        torch.nn.functional.dropout(a_HQK, call.dropout, training=True, inplace=True)
        v_GKV = v_GMV[:, low:high].float()
        out_HQV = (a_HQK.reshape(len(v_GKV), -1, high - low) @ v_GKV).reshape(heads, end - begin, -1)
        out_NHV[at] = out_HQV.transpose(0, 1).to(out_NHV.dtype)
    return out_NHV
