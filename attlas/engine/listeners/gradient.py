"""The listener that keeps the gradient of every kept layer's output, as the backward pass comes by.

Suffixes: H query heads, N query rows, R the kept ones, V value features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels.measure import Attended
from attlas.engine.listeners.finite import check_finite
from attlas.engine.listeners.recording import OUTPUT_GRADIENT
from attlas.engine.listeners.sink import LayerRows, Sink
from attlas.engine.model.layout import KindLayout
from attlas.engine.passage.chunk_rows import ChunkRows
from attlas.errors import GradientError

__all__ = ["Again", "KeepGradient"]


_NOTHING = torch.empty(0)


class Again(Listener):
    """Places the calls of layers that are run again on the way back as they were placed before.

    placed: module -> its call, without factors.
    """

    def __init__(self, placed: Mapping[nn.Module, AttentionCall]) -> None:
        self.placed = placed

    def place(self, call: AttentionCall) -> AttentionCall:
        known = self.placed[call.module]
        return replace(
            call, start_N=known.start_N, stop_N=known.stop_N, tokens=known.tokens, chunk=known.chunk,
            measure=known.measure,
        )  # fmt: skip


class KeepGradient(Listener):
    """Sends the gradient of each kept layer's output to a sink, layer by layer, the last first.

    kinds: by name, the layers and heads to keep. document_ids: number -> id, for messages. Raises GradientError where
    an output has none, and NotFiniteError.
    """

    def __init__(self, sink: Sink, *, kinds: Mapping[str, KindLayout], document_ids: Callable[[int], str]) -> None:
        self.sink, self.kinds, self.document_ids = sink, kinds, document_ids
        self.waiting: set[tuple[str, int]] = set()
        self.placed: dict[nn.Module, AttentionCall] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        rows = call.chunk
        assert rows is not None
        self.placed[call.module] = replace(call, q_HND=_NOTHING, k_GMD=_NOTHING, v_GMV=_NOTHING)
        kind = self.kinds.get(rows.layout.kind)
        if kind is None or rows.layout.layer not in kind.layers:
            return attended
        if not attended.out_NHV.requires_grad:
            raise GradientError(
                f"no gradient flows through the output of {kind.kind} layer {rows.layout.layer}: what it is made of is "
                "computed without one"
            )
        self.waiting.add((kind.kind, rows.layout.layer))
        attended.out_NHV.register_hook(partial(self._take, kind, rows))
        return attended

    def check(self) -> None:
        """Raise GradientError where the backward pass came by without one."""
        if self.waiting:
            kind, layer = min(self.waiting)
            raise GradientError(
                f"no gradient came back to {kind} layer {layer}, and to {len(self.waiting) - 1} more: the target does "
                "not depend on them"
            )

    def _take(self, kind: KindLayout, rows: ChunkRows, grad_NHV: torch.Tensor) -> None:
        layer = rows.layout.layer
        self.waiting.discard((kind.kind, layer))
        grad_HNV = grad_NHV.detach().transpose(0, 1)
        axis, first = rows.query_axis, rows.rows.start
        check_finite(
            grad_HNV,
            lambda head, row, value: (
                f"the gradient is {value} in document {self.document_ids(int(axis.document_T[first + row]))!r}, "
                f"{kind.kind} layer {layer}, head {head}, token {int(axis.position_T[first + row])}: the target or the "
                "arithmetic overflows there; nothing of this pack is kept -- try --dtype float32"
            ),
        )
        if not len(rows.ordinal_R):
            return
        if len(kind.heads) != rows.layout.heads:
            grad_HNV = grad_HNV[list(kind.heads)]
        if rows.chosen_R is not None:
            grad_HNV = grad_HNV[:, rows.chosen_R]
        self.sink.write(
            LayerRows(
                kind=kind.kind,
                layer=layer,
                query_start=rows.row_start,
                key_start=rows.key_axis.token_start + rows.own_keys.start,
                factors={OUTPUT_GRADIENT: grad_HNV.cpu()},
            )
        )
