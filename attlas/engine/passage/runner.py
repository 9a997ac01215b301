"""ShardRunner: runs passages through a model and hands every captured layer's rows to a sink.

Suffixes: H query heads, G kv heads, N the rows of one chunk, M keys so far, T tokens of a passage, D and V features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.interface import AttentionCall, listening
from attlas.engine.kernels import dispatch
from attlas.engine.kernels.reference import TILE_BYTES, Attended, TokenFacts, weights
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.listeners.finite import check_finite
from attlas.engine.listeners.sink import LayerBlock, MapTile, Sink
from attlas.engine.model.layout import KINDS, KindLayout, LayerLayout, ModelLayout
from attlas.engine.model.shard import Shard, State
from attlas.engine.passage.passage import AxisTokens, Passage
from attlas.errors import MissingAttentionError, UnsupportedModelError

__all__ = ["KEEPS", "PassageRun", "ShardRunner", "final_states", "forward_inputs"]

KEEPS = ("statistics", "factors", "maps")
MAP_ROWS = 512

Indices = NDArray[np.int64]


class ShardRunner:
    """A shard, which may be a whole model, ready to run passages.

    layout: of the shard's own layers. keep: the tier. kinds: the layers and heads to keep; None for all.
    tile_bytes: size of a score tile of the reference kernel, which a caller short of memory may lower between runs.
    Plain Python: a Ray actor is a thin shell around it.
    """

    def __init__(
        self,
        shard: Shard,
        layout: ModelLayout,
        *,
        keep: str,
        kinds: Sequence[KindLayout] | None = None,
        document_ids: Callable[[int], str] = str,
        on_layer: Callable[[str, int], None] | None = None,
    ) -> None:
        self.shard, self.layout, self.keep = shard, layout, keep
        self.kinds = {kind.kind: kind for kind in (layout.kinds() if kinds is None else kinds)}
        self.document_ids, self.on_layer = document_ids, on_layer
        self.tile_bytes = TILE_BYTES
        kept = [place for place, call in enumerate(layout.calls) if self.keeps_layer(call)]
        self.calls_needed = kept[-1] + 1 if kept else len(layout.calls)
        """Calls of a forward pass up to the last kept layer."""

    def run(self, passage: Passage, sink: Sink, *, finish: bool = False) -> torch.Tensor | None:
        """Run every chunk of a passage through a whole model, as far as the last kept layer's attention.

        finish: run the model to its end, and return the last chunk's last hidden state, (T, hidden). See `open`.
        """
        opened, output = self.open(passage, sink, finish=finish), None
        for chunk in range(len(passage.chunks)):
            output = opened.step(chunk)
        return final_states(output)[0] if finish else None

    def open(self, passage: Passage, sink: Sink, *, finish: bool) -> PassageRun:
        """Begin a passage, whose chunks are then run one by one, in order.

        finish: run on behind the last kept layer, which a shard must that has another behind it.
        """
        if len(passage.chunks) > 1 and not self.layout.chunkable:
            raise UnsupportedModelError("this model cannot be run in query chunks: its layers see later tokens")
        return PassageRun(self, passage, sink, finish)

    def keeps_layer(self, call: LayerLayout) -> bool:
        return call.kind in self.kinds and call.layer in self.kinds[call.kind].layers


class PassageRun:
    """One passage on its way through a shard: keys and values of the chunks so far, and the sink of its rows."""

    def __init__(self, runner: ShardRunner, passage: Passage, sink: Sink, finish: bool) -> None:
        self.runner, self.passage = runner, passage
        self.rows = _PassageRows(runner, passage, sink, finish)

    def step(self, index: int, state: State | None = None) -> Any:
        """Run one chunk; returns what the next shard needs, or the model's output, or None where nothing goes on.

        state: what the shard before returned. Raises NotFiniteError naming document, layer, head and token;
        MissingAttentionError where the layers that called differ from those of the probe. The sink then holds a part of
        the pack, which must not be committed.
        """
        runner, chunk, output = self.runner, self.passage.chunks[index], None
        self.rows.begin(chunk)
        with listening(runner.shard.model, self.rows), suppress(_LastLayerDone):
            output = runner.shard.forward(forward_inputs(runner.layout, self.passage, chunk), state)
        self.rows.end()
        return output


class _LastLayerDone(BaseException):
    """Ends a forward pass behind the last kept layer."""


def final_states(output: Any) -> torch.Tensor:
    """What a forward pass ends in, (1, T, width): the last hidden states, or logits where a head hides them."""
    states = getattr(output, "last_hidden_state", None)
    return output.logits if states is None else states


def forward_inputs(layout: ModelLayout, passage: Passage, chunk: tuple[int, int]) -> dict[str, Any]:
    """The whole model's keyword arguments for one chunk of a passage."""
    first = next(iter(passage.axes.values()))
    rows = slice(*chunk)
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(first.ids_T[rows])[None], "use_cache": False}
    if "target" in passage.axes:
        inputs["decoder_input_ids"] = torch.from_numpy(passage.axes["target"].ids_T)[None]
    if passage.explicit_positions:
        assert layout.position_offset is not None, "the planner packs and chunks only what takes position ids"
        positions = torch.from_numpy(first.position_T[rows] + layout.position_offset)[None]
        # a mask of ones keeps transformers from guessing packed documents out of the positions: the intervals know
        inputs |= {"position_ids": positions, "attention_mask": torch.ones_like(inputs["input_ids"])}
    return inputs


@dataclass(slots=True)
class _Buffer:
    """Keys and values of one layer over a whole passage, filled chunk by chunk."""

    k_GTD: torch.Tensor
    v_GTV: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _ChunkRows:
    """The rows of one layer and chunk: N of them on the query axis, and which of them are kept.

    rows: their range in the passage. start_N, stop_N: key intervals in indices into the passage's keys.
    chosen_R: the kept rows, as indices into the N; None for all. row_start: place of the first kept row on the atlas's
    axis. ordinal_R: how many kept rows of the own document come before.
    """

    layout: LayerLayout
    query_axis: AxisTokens
    key_axis: AxisTokens
    rows: slice
    start_N: Indices
    stop_N: Indices
    facts: TokenFacts
    chosen_R: Indices | None
    row_start: int
    ordinal_R: Indices

    @classmethod
    def of(
        cls, call: AttentionCall, layout: LayerLayout, passage: Passage, chunk: tuple[int, int], keys: int
    ) -> _ChunkRows:
        query_name, key_name = KINDS[layout.kind]
        query_axis, key_axis = passage.axes[query_name], passage.axes[key_name]
        rows = slice(0, len(query_axis)) if len(passage.chunks) == 1 else slice(*chunk)
        start_N, stop_N = _intervals(call, layout, query_axis, key_axis, rows)
        choice = passage.rows.get(query_name)
        if choice is None:
            chosen_R, row_start, ordinal_R = None, query_axis.token_start + rows.start, query_axis.position_T[rows]
        else:
            first, last = np.searchsorted(choice.place_R, [rows.start, rows.stop])
            chosen_R = choice.place_R[first:last] - rows.start
            row_start, ordinal_R = choice.row_start + int(first), choice.ordinal_R[first:last]
        facts = _facts(query_axis, key_axis, rows, keys)
        return cls(
            layout, query_axis, key_axis, rows, start_N, stop_N, facts, chosen_R, row_start, ordinal_R
        )  # fmt: skip

    def kept(self, values: Indices) -> Indices:
        """Of one value for each of the N rows, those of the kept rows."""
        return values if self.chosen_R is None else values[self.chosen_R]


class _PassageRows:
    """The listener of one passage: answers each layer's call and sends its rows to the sink."""

    def __init__(self, runner: ShardRunner, passage: Passage, sink: Sink, finish: bool) -> None:
        self.runner, self.passage, self.sink, self.finish = runner, passage, sink, finish
        self.calls = runner.layout.calls
        self.buffers: dict[int, _Buffer] = {}
        self.place, self.chunk = 0, (0, 0)

    def begin(self, chunk: tuple[int, int]) -> None:
        self.place, self.chunk = 0, chunk

    def end(self) -> None:
        needed = len(self.calls) if self.finish else self.runner.calls_needed
        if self.place < needed:
            missing = ", ".join(call.module for call in self.calls[self.place : needed][:3])
            raise MissingAttentionError(
                f"{needed - self.place} of {needed} attention layers did not call the capture "
                f"({missing}); nothing of this pack is kept"
            )

    def attend(self, call: AttentionCall) -> torch.Tensor:
        layout = self._next(call)
        whole = len(self.passage.chunks) == 1
        k_GMD, v_GMV = (call.k_GMD, call.v_GMV) if whole else self._extend(call, layout)
        rows = _ChunkRows.of(call, layout, self.passage, self.chunk, k_GMD.shape[1])
        kind = self.runner.kinds[layout.kind] if self.runner.keeps_layer(layout) else None
        where = _Where(self.runner.document_ids, rows)
        where.check_factors(call.q_HND, call.k_GMD)
        measure = self._measure(kind, rows)
        attended = dispatch.attend(
            call.q_HND, k_GMD, v_GMV, call.rule, start_N=rows.start_N, stop_N=rows.stop_N, facts=rows.facts,
            measure=measure,
        )  # fmt: skip
        where.check_rows(attended.rows.lse_HN, measure)
        if kind is not None:
            self.sink.write(self._block(call, kind, rows, attended))
            if self.runner.keep == "maps" and len(rows.ordinal_R):
                self._write_maps(call, k_GMD, kind, rows, attended)
        if self.runner.on_layer is not None:
            self.runner.on_layer(layout.kind, layout.layer)
        if self.place == self.runner.calls_needed and not self.finish:
            raise _LastLayerDone
        return attended.out_NHV

    def _next(self, call: AttentionCall) -> LayerLayout:
        """The layout entry of this call; raises where the model calls in another order than in the probe."""
        expected = self.calls[self.place] if self.place < len(self.calls) else None
        if expected is None or self.runner.shard.model.get_submodule(expected.module) is not call.module:
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

    def _measure(self, kind: KindLayout | None, rows: _ChunkRows) -> dispatch.Measure:
        if kind is None:
            return dispatch.Measure()
        statistics = self.runner.keep == "statistics"
        return dispatch.Measure(
            names=statistic_names(same_axis=kind.same_axis, sinks=kind.has_sinks) if statistics else (),
            histogram=statistics,
            head_gram=statistics,
            heads=None if len(kind.heads) == rows.layout.heads else np.array(kind.heads),
            rows=rows.chosen_R,
            tile_bytes=self.runner.tile_bytes,
        )

    def _extend(self, call: AttentionCall, layout: LayerLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the chunk's keys and values to the layer's buffers; returns all keys and values so far."""
        index, length = self.place - 1, len(self.passage.axes[KINDS[layout.kind][1]])
        if index not in self.buffers:
            k, v = call.k_GMD, call.v_GMV
            self.buffers[index] = _Buffer(
                k_GTD=k.new_empty(k.shape[0], length, k.shape[2]), v_GTV=v.new_empty(v.shape[0], length, v.shape[2])
            )
        buffer, (begin, end) = self.buffers[index], self.chunk
        buffer.k_GTD[:, begin:end] = call.k_GMD
        buffer.v_GTV[:, begin:end] = call.v_GMV
        return buffer.k_GTD[:, :end], buffer.v_GTV[:, :end]

    def _block(self, call: AttentionCall, kind: KindLayout, rows: _ChunkRows, attended: Attended) -> LayerBlock:
        factors, found = self.runner.keep != "statistics", attended.rows
        own_keys = rows.query_axis is rows.key_axis
        first_R = rows.kept(rows.facts.first_N)
        any_row = bool(len(first_R))
        return LayerBlock(
            kind=kind.kind,
            layer=rows.layout.layer,
            query_start=rows.row_start,
            key_start=rows.key_axis.token_start + (rows.rows.start if own_keys else 0),
            q_HND=_host(_picked(call.q_HND, kind.heads, rows.chosen_R)) if factors and any_row else None,
            k_GMD=_host(_picked(call.k_GMD, kind.kv_heads, None)) if factors else None,
            lse_HN=_host(found.lse_HN) if any_row else None,
            interval_start_N=(rows.kept(rows.start_N) - first_R).astype(np.int32) if any_row else None,
            interval_stop_N=(rows.kept(rows.stop_N) - first_R).astype(np.int32) if any_row else None,
            statistics={name: _host(value) for name, value in found.statistics.items()},
            histogram_HB=None if found.histogram_HB is None else _host(found.histogram_HB),
            head_gram_HH=None if found.head_gram_HH is None else _host(found.head_gram_HH),
        )

    def _write_maps(
        self, call: AttentionCall, k_GMD: torch.Tensor, kind: KindLayout, rows: _ChunkRows, attended: Attended
    ) -> None:
        """Materialise the kept rows tile by tile; a tile lies within one document and starts on a multiple of
        MAP_ROWS of its rows."""
        own = rows.rows
        position_R, document_R = rows.kept(rows.query_axis.position_T[own]), rows.kept(rows.query_axis.document_T[own])
        first_R = rows.kept(rows.facts.first_N)
        start_R, stop_R = rows.kept(rows.start_N) - first_R, rows.kept(rows.stop_N) - first_R
        q_HRD = _picked(call.q_HND, kind.heads, rows.chosen_R)
        if len(kind.heads) != call.q_HND.shape[0]:
            k_GMD = k_GMD[np.array(kind.heads) // kind.group]
        rule = call.rule.for_heads(np.array(kind.heads))
        edges = np.flatnonzero((rows.ordinal_R % MAP_ROWS == 0) | (np.diff(document_R, prepend=-1) != 0))
        for begin, end in zip(edges, [*edges[1:], len(position_R)], strict=True):
            tile, first = slice(int(begin), int(end)), int(first_R[begin])
            low, high = int(start_R[tile].min()) // MAP_ROWS * MAP_ROWS, int(stop_R[tile].max())
            for key in range(low, high, MAP_ROWS):
                key_stop = min(key + MAP_ROWS, high)
                a_HQK = weights(
                    q_HRD[:, tile],
                    k_GMD[:, first + key : first + key_stop],
                    attended.rows.lse_HN[:, tile],
                    rule,
                    start_Q=start_R[tile],
                    stop_Q=stop_R[tile],
                    query_positions_Q=position_R[tile],
                    key_positions_K=np.arange(key, key_stop),
                )
                self.sink.write_map(
                    MapTile(
                        kind=kind.kind,
                        layer=rows.layout.layer,
                        document=int(document_R[begin]),
                        query_start=int(rows.ordinal_R[begin]),
                        key_start=key,
                        a_HQK=_host(a_HQK),
                    )
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Where:
    """Where a chunk's rows and keys lie, for the message of an error."""

    document_ids: Callable[[int], str]
    chunk: _ChunkRows

    def check_factors(self, q_HND: torch.Tensor, k_GMD: torch.Tensor) -> None:
        chunk = self.chunk
        own_keys = chunk.query_axis is chunk.key_axis
        key_place = np.arange(chunk.rows.start, chunk.rows.stop) if own_keys else np.arange(len(chunk.key_axis))
        row_place = np.arange(chunk.rows.start, chunk.rows.stop)
        self._check("q", q_HND, chunk.query_axis, row_place, None, "head")
        self._check("k", k_GMD, chunk.key_axis, key_place, None, "kv head")

    def check_rows(self, lse_HN: torch.Tensor, measure: dispatch.Measure) -> None:
        row_place = self.chunk.kept(np.arange(self.chunk.rows.start, self.chunk.rows.stop))
        self._check("the score", lse_HN[:, :, None], self.chunk.query_axis, row_place, measure.heads, "head")

    def _check(
        self, what: str, x_HND: torch.Tensor, axis: AxisTokens, place_N: Indices, heads: Indices | None, head_word: str
    ) -> None:
        layout = self.chunk.layout
        check_finite(
            x_HND,
            lambda head, row, value: (
                f"{what} is {value} in document {self.document_ids(int(axis.document_T[place_N[row]]))!r}, "
                f"{layout.kind} layer {layout.layer}, {head_word} {head if heads is None else heads[head]}, "
                f"token {int(axis.position_T[place_N[row]])}: the weights, or {layout.dtype} arithmetic, "
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


def _facts(query_axis: AxisTokens, key_axis: AxisTokens, rows: slice, keys: int) -> TokenFacts:
    same_axis = query_axis is key_axis
    return TokenFacts(
        first_N=query_axis.first_T[rows] if same_axis else np.zeros(rows.stop - rows.start, dtype=np.int64),
        own_N=np.arange(rows.start, rows.stop) if same_axis else None,
        ids_N=query_axis.ids_T[rows],
        ids_M=key_axis.ids_T[:keys],
        special_M=key_axis.special_T[:keys],
    )


def _picked(x_HND: torch.Tensor, heads: tuple[int, ...], rows: Indices | None) -> torch.Tensor:
    """Some heads and rows; x itself where that is all of them."""
    if len(heads) != x_HND.shape[0]:
        x_HND = x_HND[list(heads)]
    return x_HND if rows is None else x_HND[:, rows]


def _host(x: torch.Tensor) -> torch.Tensor:
    return x.detach().cpu()
