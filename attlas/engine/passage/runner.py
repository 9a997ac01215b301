"""ShardRunner: runs passages through a model, chunk by chunk, and has every captured layer's rows recorded.

Suffixes: G kv heads, T tokens of a passage, D and V features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.attention.interface import attending
from attlas.engine.kernels.measure import TILE_BYTES, Attended
from attlas.engine.kernels.problem import TokenFacts
from attlas.engine.listeners.record import Record
from attlas.engine.listeners.recording import Recording
from attlas.engine.listeners.sink import Sink
from attlas.engine.model.layout import KINDS, KindLayout, LayerLayout, ModelLayout
from attlas.engine.model.shard import Shard, State
from attlas.engine.passage.chunk_rows import ChunkRows, token_facts
from attlas.engine.passage.passage import Passage
from attlas.errors import InputError, MissingAttentionError, UnsupportedModelError

__all__ = ["PassageRun", "ShardRunner", "final_states", "forward_inputs"]


class ShardRunner:
    """A shard, which may be a whole model, ready to run passages.

    layout: of the shard's own layers. recording: what goes to the sink. kinds: the layers and heads to keep; None for
    all. tile_bytes: the most that a score tile takes, which a caller short of memory may lower between runs.
    Plain Python: a Ray actor is a thin shell around it.
    """

    def __init__(
        self,
        shard: Shard,
        layout: ModelLayout,
        *,
        recording: Recording,
        kinds: Sequence[KindLayout] | None = None,
        document_ids: Callable[[int], str] = str,
        on_layer: Callable[[str, int], None] | None = None,
    ) -> None:
        self.shard, self.layout, self.recording = shard, layout, recording
        self.kinds = {kind.kind: kind for kind in (layout.kinds() if kinds is None else kinds)}
        self.document_ids, self.on_layer = document_ids, on_layer
        self.tile_bytes = TILE_BYTES
        kept = [place for place, call in enumerate(layout.calls) if self.keeps_layer(call)]
        self.calls_needed = kept[-1] + 1 if kept else len(layout.calls)
        """Calls of a forward pass up to the last kept layer."""

    def run(
        self,
        passage: Passage,
        sink: Sink,
        *,
        finish: bool = False,
        listeners: Sequence[Listener] = (),
        grad: bool = False,
    ) -> torch.Tensor | None:
        """Run every chunk of a passage through a whole model, as far as the last kept layer's attention.

        finish: run the model to its end, and return the last chunk's last hidden state, (T, hidden). See `open`.
        """
        opened = self.open(passage, sink, finish=finish, listeners=listeners, grad=grad)
        output = None
        for chunk in range(len(passage.chunks)):
            output = opened.step(chunk)
        if not finish:
            return None
        with torch.inference_mode(not grad), torch.set_grad_enabled(grad):  # whatever mode the caller is in
            return final_states(output)[0]

    def open(
        self,
        passage: Passage,
        sink: Sink | None,
        *,
        finish: bool,
        listeners: Sequence[Listener] = (),
        grad: bool = False,
        train: bool = False,
    ) -> PassageRun:
        """Begin a passage, whose chunks are then run one by one, in order. sink: None where nothing is recorded.

        finish: run on behind the last kept layer, which a shard must that has another behind it. listeners: stand
        inside of the recording, which sees the calls before them and the outputs after them. grad: autograd is on.
        train: dropout is on.
        """
        if len(passage.chunks) > 1 and not self.layout.chunkable:
            raise UnsupportedModelError("this model cannot be run in query chunks: its layers see later tokens")
        if len(passage.chunks) > 1 and grad:
            raise InputError(
                f"gradients flow through a document in one pass, and this one has {len(passage.chunks)} chunks: "
                "raise chunk_tokens, or shorten it with max_tokens"
            )
        return PassageRun(self, passage, sink, finish, tuple(listeners), grad, train)

    def keeps_layer(self, call: LayerLayout) -> bool:
        return call.kind in self.kinds and call.layer in self.kinds[call.kind].layers


class PassageRun:
    """One passage on its way through a shard: keys and values of the chunks so far, and the sink of its rows."""

    def __init__(
        self,
        runner: ShardRunner,
        passage: Passage,
        sink: Sink | None,
        finish: bool,
        listeners: tuple[Listener, ...],
        grad: bool,
        train: bool,
    ) -> None:
        self.runner, self.passage, self.grad, self.train = runner, passage, grad, train
        self.calls = _PassageCalls(runner, passage, finish)
        self.listeners: tuple[Listener, ...] = (self.calls, *listeners)
        if sink is not None:
            record = Record(
                sink,
                recording=runner.recording,
                kinds=runner.kinds,
                document_ids=runner.document_ids,
                tile_bytes=runner.tile_bytes,
            )
            self.listeners = (self.calls, record, *listeners)

    def step(self, index: int, state: State | None = None) -> Any:
        """Run one chunk; returns what the next shard needs, or the model's output, or None where nothing goes on.

        state: what the shard before returned. Raises NotFiniteError naming document, layer, head and token;
        MissingAttentionError where the layers that called differ from those of the probe. The sink then holds a part of
        the pack, which must not be committed.
        """
        runner, chunk, output = self.runner, self.passage.chunks[index], None
        self.calls.begin(chunk)
        with attending(runner.shard.model, *self.listeners, grad=self.grad, train=self.train), suppress(_LastLayerDone):
            output = runner.shard.forward(forward_inputs(runner.layout, self.passage, chunk), state)
        self.calls.end()
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
    if first.type_T is not None:
        inputs["token_type_ids"] = torch.from_numpy(first.type_T[rows])[None]
    if passage.explicit_positions:
        assert layout.position_offset is not None, "the planner packs and chunks only what takes position ids"
        positions = torch.from_numpy(first.number_T[rows] + layout.position_offset)[None]
        # a mask of ones keeps transformers from guessing packed documents out of the positions: the intervals know
        inputs |= {"position_ids": positions, "attention_mask": torch.ones_like(inputs["input_ids"])}
    return inputs


@dataclass(slots=True)
class _Buffer:
    """Keys and values of one layer over a whole passage, filled chunk by chunk."""

    k_GTD: torch.Tensor
    v_GTV: torch.Tensor


class _PassageCalls(Listener):
    """Places the calls of one passage: knows which layer calls, and holds the keys and values of earlier chunks."""

    def __init__(self, runner: ShardRunner, passage: Passage, finish: bool) -> None:
        self.runner, self.passage, self.finish = runner, passage, finish
        self.calls = runner.layout.calls
        self.buffers: dict[int, _Buffer] = {}
        self.number, self.chunk = 0, (0, 0)
        self.tokens: dict[str, TokenFacts] = {}
        """kind -> what all its layers have in common in this chunk."""

    def begin(self, chunk: tuple[int, int]) -> None:
        self.number, self.chunk, self.tokens = 0, chunk, {}

    def end(self) -> None:
        needed = len(self.calls) if self.finish else self.runner.calls_needed
        if self.number < needed:
            missing = ", ".join(call.module for call in self.calls[self.number : needed][:3])
            raise MissingAttentionError(
                f"{needed - self.number} of {needed} attention layers did not call the capture "
                f"({missing}); nothing of this pack is kept"
            )

    def place(self, call: AttentionCall) -> AttentionCall:
        layout = self._next(call)
        if len(self.passage.chunks) > 1:
            k_GMD, v_GMV = self._extend(call, layout)
            call = replace(call, k_GMD=k_GMD, v_GMV=v_GMV)
        if layout.kind not in self.tokens:
            self.tokens[layout.kind] = token_facts(layout.kind, self.passage, self.chunk, call.k_GMD.shape[1])
        rows = ChunkRows.of(call, layout, self.passage, self.chunk, self.tokens[layout.kind])
        return replace(call, start_N=rows.start_N, stop_N=rows.stop_N, tokens=rows.tokens, chunk=rows)

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        layout = call.chunk.layout
        if self.runner.on_layer is not None:
            self.runner.on_layer(layout.kind, layout.layer)
        if self.number == self.runner.calls_needed and not self.finish:
            raise _LastLayerDone
        return attended

    def _next(self, call: AttentionCall) -> LayerLayout:
        """The layout entry of this call; raises where the model calls in another order than in the probe."""
        expected = self.calls[self.number] if self.number < len(self.calls) else None
        if expected is None or self.runner.shard.model.get_submodule(expected.module) is not call.module:
            raise MissingAttentionError(
                f"attention call {self.number} came from another layer than in the probe "
                f"(expected {expected.module if expected else 'none'}); nothing of this pack is kept"
            )
        if not call.rule.same(expected.rule):
            raise UnsupportedModelError(
                f"{expected.module} changed its score rule from one document to the next; an atlas records one a layer"
            )
        self.number += 1
        return expected

    def _extend(self, call: AttentionCall, layout: LayerLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the chunk's keys and values to the layer's buffers; returns all keys and values so far."""
        index, length = self.number - 1, len(self.passage.axes[KINDS[layout.kind][1]])
        if index not in self.buffers:
            k, v = call.k_GMD, call.v_GMV
            self.buffers[index] = _Buffer(
                k_GTD=k.new_empty(k.shape[0], length, k.shape[2]), v_GTV=v.new_empty(v.shape[0], length, v.shape[2])
            )
        buffer, (begin, end) = self.buffers[index], self.chunk
        buffer.k_GTD[:, begin:end] = call.k_GMD
        buffer.v_GTV[:, begin:end] = call.v_GMV
        return buffer.k_GTD[:, :end], buffer.v_GTV[:, :end]
