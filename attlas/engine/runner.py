"""ShardRunner: runs passages through a model and hands every captured layer's rows to a sink.

Suffixes: H query heads, G kv heads, N the rows of one chunk, M keys so far, T tokens of a passage, D and V features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from attlas.engine.blocks import LayerBlock, MapTile, Sink
from attlas.engine.finite import check_finite
from attlas.engine.interface import AttentionCall, listening
from attlas.engine.kernels import dispatch
from attlas.engine.kernels.reference import Attended, TokenFacts, weights
from attlas.engine.layout import KINDS, LayerLayout, ModelLayout
from attlas.engine.passage import AxisTokens, Passage
from attlas.engine.statistics import statistic_names
from attlas.errors import MissingAttentionError, UnsupportedModelError

__all__ = ["KEEPS", "ShardRunner", "final_states", "forward_inputs"]

KEEPS = ("statistics", "factors", "maps")
MAP_ROWS = 512

Indices = NDArray[np.int64]


class ShardRunner:
    """One model, or one shard of it, ready to run passages.

    keep: the tier. layers: kind -> model indices of the layers to keep; None for all.
    Plain Python: a Ray actor is a thin shell around it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layout: ModelLayout,
        *,
        keep: str,
        layers: Mapping[str, frozenset[int]] | None = None,
        document_ids: Callable[[int], str] = str,
        on_layer: Callable[[str, int], None] | None = None,
    ) -> None:
        self.model, self.layout, self.keep, self.layers = model, layout, keep, layers
        self.document_ids, self.on_layer = document_ids, on_layer

    def run(self, passage: Passage, sink: Sink) -> torch.Tensor:
        """Run every chunk of a passage; returns the last chunk's last hidden state, (T, hidden).

        Raises NotFiniteError naming document, layer, head and token; MissingAttentionError where the layers that
        called differ from those of the probe. The sink then holds a part of the pack, which must not be committed.
        """
        if len(passage.chunks) > 1 and not self.layout.chunkable:
            raise UnsupportedModelError("this model cannot be run in query chunks: its layers see later tokens")
        rows = _PassageRows(self, passage, sink)
        hidden = torch.empty(0)
        for chunk in passage.chunks:
            rows.begin(chunk)
            with listening(self.model, rows):
                output = self.model(**forward_inputs(self.model, self.layout, passage, chunk))
            rows.end()
            hidden = final_states(output)[0]
        return hidden

    def keeps_layer(self, call: LayerLayout) -> bool:
        return self.layers is None or call.layer in self.layers.get(call.kind, ())


def final_states(output: Any) -> torch.Tensor:
    """What a forward pass ends in, (1, T, width): the last hidden states, or logits where a head hides them."""
    states = getattr(output, "last_hidden_state", None)
    return output.logits if states is None else states


def forward_inputs(
    model: PreTrainedModel, layout: ModelLayout, passage: Passage, chunk: tuple[int, int]
) -> dict[str, Any]:
    """The model's keyword arguments for one chunk of a passage."""
    device = model.device
    first = next(iter(passage.axes.values()))
    rows = slice(*chunk)
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(first.ids_T[rows])[None].to(device), "use_cache": False}
    if "target" in passage.axes:
        inputs["decoder_input_ids"] = torch.from_numpy(passage.axes["target"].ids_T)[None].to(device)
    if passage.explicit_positions:
        assert layout.position_offset is not None, "the planner packs and chunks only what takes position ids"
        positions = torch.from_numpy(first.position_T[rows] + layout.position_offset)[None].to(device)
        # a mask of ones keeps transformers from guessing packed documents out of the positions: the intervals know
        inputs |= {"position_ids": positions, "attention_mask": torch.ones_like(inputs["input_ids"])}
    return inputs


@dataclass(slots=True)
class _Buffer:
    """Keys and values of one layer over a whole passage, filled chunk by chunk."""

    k_GTD: torch.Tensor
    v_GTV: torch.Tensor


class _PassageRows:
    """The listener of one passage: answers each layer's call and sends its rows to the sink."""

    def __init__(self, runner: ShardRunner, passage: Passage, sink: Sink) -> None:
        self.runner, self.passage, self.sink = runner, passage, sink
        self.calls = runner.layout.calls
        self.buffers: dict[int, _Buffer] = {}
        self.place, self.chunk = 0, (0, 0)

    def begin(self, chunk: tuple[int, int]) -> None:
        self.place, self.chunk = 0, chunk

    def end(self) -> None:
        if self.place != len(self.calls):
            missing = ", ".join(call.module for call in self.calls[self.place :][:3])
            raise MissingAttentionError(
                f"{len(self.calls) - self.place} of {len(self.calls)} attention layers did not call the capture "
                f"({missing}); nothing of this pack is kept"
            )

    def attend(self, call: AttentionCall) -> torch.Tensor:
        layout = self._next(call)
        query_axis, key_axis = (self.passage.axes[axis] for axis in KINDS[layout.kind])
        whole = len(self.passage.chunks) == 1
        rows = slice(0, len(query_axis)) if whole else slice(*self.chunk)
        k_GMD, v_GMV = (call.k_GMD, call.v_GMV) if whole else self._extend(call, len(key_axis))
        start_N, stop_N = _intervals(call, layout, query_axis, key_axis, rows)
        facts = _facts(layout, query_axis, key_axis, rows, k_GMD.shape[1])
        keep_rows = self.runner.keeps_layer(layout)
        measure = keep_rows and self.runner.keep == "statistics"
        where = _Where(self.runner.document_ids, layout, query_axis, key_axis, rows)
        where.check_factors(call.q_HND, call.k_GMD)
        attended = dispatch.attend(
            call.q_HND,
            k_GMD,
            v_GMV,
            call.rule,
            start_N=start_N,
            stop_N=stop_N,
            facts=facts,
            names=self._names(layout) if measure else (),
            histogram=measure,
            head_gram=measure,
        )
        where.check_rows(attended.rows.lse_HN)
        if keep_rows:
            self.sink.write(self._block(call, layout, query_axis, key_axis, rows, attended, start_N, stop_N, facts))
            if self.runner.keep == "maps":
                self._write_maps(call, k_GMD, layout, query_axis, rows, attended, start_N, stop_N, facts)
        if self.runner.on_layer is not None:
            self.runner.on_layer(layout.kind, layout.layer)
        return attended.out_NHV

    def _next(self, call: AttentionCall) -> LayerLayout:
        """The layout entry of this call; raises where the model calls in another order than in the probe."""
        expected = self.calls[self.place] if self.place < len(self.calls) else None
        if expected is None or self.runner.model.get_submodule(expected.module) is not call.module:
            raise MissingAttentionError(
                f"attention call {self.place} came from another layer than in the probe "
                f"(expected {expected.module if expected else 'none'}); nothing of this pack is kept"
            )
        if not call.rule.same(expected.rule):
            raise UnsupportedModelError(
                f"{expected.module} changed its score rule from one document to the next; an atlas records one a layer"
            )
        self.place += 1
        return expected

    def _names(self, layout: LayerLayout) -> tuple[str, ...]:
        query_axis, key_axis = KINDS[layout.kind]
        sinks = any(c.rule.sink_H is not None for c in self.calls if c.kind == layout.kind)
        return statistic_names(same_axis=query_axis == key_axis, sinks=sinks)

    def _extend(self, call: AttentionCall, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the chunk's keys and values to the layer's buffers; returns all keys and values so far."""
        index = self.place - 1
        if index not in self.buffers:
            k, v = call.k_GMD, call.v_GMV
            self.buffers[index] = _Buffer(
                k_GTD=k.new_empty(k.shape[0], length, k.shape[2]), v_GTV=v.new_empty(v.shape[0], length, v.shape[2])
            )
        buffer, (begin, end) = self.buffers[index], self.chunk
        buffer.k_GTD[:, begin:end] = call.k_GMD
        buffer.v_GTV[:, begin:end] = call.v_GMV
        return buffer.k_GTD[:, :end], buffer.v_GTV[:, :end]

    def _block(
        self,
        call: AttentionCall,
        layout: LayerLayout,
        query_axis: AxisTokens,
        key_axis: AxisTokens,
        rows: slice,
        attended: Attended,
        start_N: Indices,
        stop_N: Indices,
        facts: TokenFacts,
    ) -> LayerBlock:
        factors = self.runner.keep != "statistics"
        own_keys = query_axis is key_axis
        return LayerBlock(
            kind=layout.kind,
            layer=layout.layer,
            query_start=query_axis.token_start + rows.start,
            key_start=key_axis.token_start + (rows.start if own_keys else 0),
            q_HND=_host(call.q_HND) if factors else None,
            k_GMD=_host(call.k_GMD) if factors else None,
            lse_HN=_host(attended.rows.lse_HN),
            interval_start_N=(start_N - facts.first_N).astype(np.int32),
            interval_stop_N=(stop_N - facts.first_N).astype(np.int32),
            statistics={name: _host(value) for name, value in attended.rows.statistics.items()},
            histogram_HB=None if attended.rows.histogram_HB is None else _host(attended.rows.histogram_HB),
            head_gram_HH=None if attended.rows.head_gram_HH is None else _host(attended.rows.head_gram_HH),
        )

    def _write_maps(
        self,
        call: AttentionCall,
        k_GMD: torch.Tensor,
        layout: LayerLayout,
        query_axis: AxisTokens,
        rows: slice,
        attended: Attended,
        start_N: Indices,
        stop_N: Indices,
        facts: TokenFacts,
    ) -> None:
        """Materialise the rows tile by tile; a tile lies within one document and starts on a multiple of MAP_ROWS."""
        position_N, document_N = query_axis.position_T[rows], query_axis.document_T[rows]
        edges = np.flatnonzero((position_N % MAP_ROWS == 0) | (np.diff(document_N, prepend=-1) != 0))
        for begin, end in zip(edges, [*edges[1:], len(position_N)], strict=True):
            tile = slice(int(begin), int(end))
            first = int(facts.first_N[begin])
            low = (int(start_N[tile].min()) - first) // MAP_ROWS * MAP_ROWS
            high = int(stop_N[tile].max()) - first
            for key in range(low, high, MAP_ROWS):
                key_stop = min(key + MAP_ROWS, high)
                a_HQK = weights(
                    call.q_HND[:, tile],
                    k_GMD[:, first + key : first + key_stop],
                    attended.rows.lse_HN[:, tile],
                    call.rule,
                    start_Q=start_N[tile] - first,
                    stop_Q=stop_N[tile] - first,
                    query_positions_Q=position_N[tile],
                    key_positions_K=np.arange(key, key_stop),
                )
                self.sink.write_map(
                    MapTile(
                        kind=layout.kind,
                        layer=layout.layer,
                        document=int(document_N[begin]),
                        query_start=int(position_N[begin]),
                        key_start=key,
                        a_HQK=_host(a_HQK),
                    )
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Where:
    """Where a chunk's rows and keys lie, for the message of an error."""

    document_ids: Callable[[int], str]
    layout: LayerLayout
    query_axis: AxisTokens
    key_axis: AxisTokens
    rows: slice

    def check_factors(self, q_HND: torch.Tensor, k_GMD: torch.Tensor) -> None:
        own_keys = self.query_axis is self.key_axis
        keys = self.rows if own_keys else slice(0, len(self.key_axis))
        self._check("q", q_HND, self.query_axis, self.rows, "head")
        self._check("k", k_GMD, self.key_axis, keys, "kv head")

    def check_rows(self, lse_HN: torch.Tensor) -> None:
        self._check("the score", lse_HN[:, :, None], self.query_axis, self.rows, "head")

    def _check(self, what: str, x_HND: torch.Tensor, axis: AxisTokens, rows: slice, head_word: str) -> None:
        check_finite(
            x_HND,
            lambda head, row, value: (
                f"{what} is {value} in document {self.document_ids(int(axis.document_T[rows.start + row]))!r}, "
                f"{self.layout.kind} layer {self.layout.layer}, {head_word} {head}, "
                f"token {int(axis.position_T[rows.start + row])}: the weights, or {self.layout.dtype} arithmetic, "
                "overflow there; nothing of this pack is kept -- check the model, or try --dtype float32"
            ),
        )


def _intervals(
    call: AttentionCall, layout: LayerLayout, query_axis: AxisTokens, key_axis: AxisTokens, rows: slice
) -> tuple[Indices, Indices]:
    """Each row's key interval in indices into the passage's keys."""
    count = rows.stop - rows.start
    if query_axis is not key_axis:
        if call.mask is not None:
            call.mask.check_full(count, len(key_axis))
        return np.zeros(count, dtype=np.int64), np.full(count, len(key_axis), dtype=np.int64)
    position_N, length_N = query_axis.position_T[rows], query_axis.length_T[rows]
    first_N = query_axis.first_T[rows]
    if call.mask is not None:
        start_N, stop_N = call.mask.intervals(position_N, length_N)
    elif call.causal:
        start_N, stop_N = np.zeros_like(position_N), position_N + 1
    else:
        start_N, stop_N = np.zeros_like(position_N), length_N
    if layout.rule.bias is not None:
        layout.rule.bias.check_reach(int((start_N - position_N).min()), int((stop_N - position_N).max()) - 1)
    return first_N + start_N, first_N + stop_N


def _facts(layout: LayerLayout, query_axis: AxisTokens, key_axis: AxisTokens, rows: slice, keys: int) -> TokenFacts:
    same_axis = query_axis is key_axis
    return TokenFacts(
        first_N=query_axis.first_T[rows] if same_axis else np.zeros(rows.stop - rows.start, dtype=np.int64),
        own_N=np.arange(rows.start, rows.stop) if same_axis else None,
        ids_N=query_axis.ids_T[rows],
        ids_M=key_axis.ids_T[:keys],
        special_M=key_axis.special_T[:keys],
    )


def _host(x: torch.Tensor) -> torch.Tensor:
    return x.detach().cpu()
