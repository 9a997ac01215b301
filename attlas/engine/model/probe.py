"""The probe: a short run that learns a model's attention layout and proves that it is read exactly.

Before anything is stored, a few tokens go through the model twice: once under its own eager attention and once
through the capture point. Where the two disagree, the model does something the score rule does not cover, and is
refused. Layouts, score rules and positions come out of the same run, so no family needs code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel

from attlas.engine.attention.interface import attending, own_attention
from attlas.engine.listeners.probe import LayoutListener
from attlas.engine.listeners.recording import Recording
from attlas.engine.listeners.sink import LayerRows, MapTile
from attlas.engine.model.layout import LayerLayout, ModelLayout
from attlas.engine.model.load import LoadedModel
from attlas.engine.model.positions import rotary_depends_on_length
from attlas.engine.model.shard import Shard
from attlas.engine.model.support import interface_modules, unfaithful
from attlas.engine.passage.documents import Document, Tokens, plan_packs
from attlas.engine.passage.passage import Passage, passages
from attlas.engine.passage.runner import ShardRunner, final_states
from attlas.errors import UnsupportedModelError

__all__ = ["LocalStage", "ProbeStage", "layout_of", "own_layout", "probe", "probe_stages"]

PROBE_TOKENS = 24
SOURCE_TOKENS, TARGET_TOKENS = 17, 11
LENGTHS = {"text": PROBE_TOKENS, "source": SOURCE_TOKENS, "target": TARGET_TOKENS}
TOLERANCE = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest accepted |capture - eager| / |eager| of the last hidden state; rounding alone stays far below."""
SAME_RUN = 1e-5
"""Largest |a - b| / |b| between two runs that ask for the same arithmetic."""


_LEARNT: WeakKeyDictionary[PreTrainedModel, tuple[str, ModelLayout]] = WeakKeyDictionary()


class ProbeStage(Protocol):
    """A shard as the probe asks it: in this process, or an actor."""

    def forward(
        self, inputs: dict[str, Any], state: Any, attention: str
    ) -> tuple[Any, tuple[LayerLayout, ...]]:  # fmt: skip
        """Run the shard under "eager" or captured attention; returns what it hands on (the last one: the final states)
        and the attention layers that were called under capture."""

    def passage(self, layout: ModelLayout, passage: Passage, states: list[Any]) -> list[Any]:
        """Run the chunks of a passage, keeping nothing; a state in and a state out for each chunk."""


def layout_of(loaded: LoadedModel) -> ModelLayout:
    """The probe's layout of a loaded model, learnt once for as long as the model object lives and its weights stay."""
    weights, layout = _LEARNT.get(loaded.model, (None, None))
    if layout is None or weights != loaded.identity.weights:
        try:
            layout = probe(loaded.model)
        except UnsupportedModelError as error:
            reason = unfaithful(loaded.model)
            if reason is None:
                raise
            raise UnsupportedModelError(f"{loaded.identity.name} cannot be captured: {reason}") from error
        _LEARNT[loaded.model] = (loaded.identity.weights, layout)
    return layout


def probe(model: PreTrainedModel, *, compare: bool = True) -> ModelLayout:
    """Learn the layout of a whole model's attention; see `probe_stages`."""
    return probe_stages([LocalStage(Shard.whole(model))], model.config, str(model.dtype), compare=compare)


def probe_stages(
    stages: Sequence[ProbeStage], config: PreTrainedConfig, dtype: str, *, compare: bool = True
) -> ModelLayout:
    """Learn the layout of the attention of a model, given as its shards in order.

    compare: also run the model's own eager attention, and raise UnsupportedModelError unless the last hidden states
    agree within TOLERANCE. Raises MissingAttentionError where an attention layer of the model does not take part.
    """
    run = _Run(stages, config, dtype.removeprefix("torch."))
    inputs = _inputs(config)
    hidden, calls = run.captured(inputs)
    if compare:
        run.compare_with_eager(inputs, hidden)
    layout = ModelLayout(calls=_number_layers(calls), position_offset=None)
    if rotary_depends_on_length(config):
        return layout
    positioned = replace(layout, position_offset=run.position_offset(inputs, hidden))
    return positioned if positioned.packable and run.keeps_documents_apart(positioned) else layout


def own_layout(layout: ModelLayout, modules: Collection[str]) -> ModelLayout:
    """The part of a model's layout that a shard with these attention modules runs."""
    return replace(layout, calls=tuple(call for call in layout.calls if call.module in modules))


def _inputs(config: PreTrainedConfig) -> dict[str, Any]:
    vocabulary = int(config.get_text_config().vocab_size)
    # ids that repeat little and lie away from the low ids, where padding and special tokens usually are
    ids = torch.arange(PROBE_TOKENS) * 37 % max(vocabulary - 10, 1) + min(10, vocabulary - 1)
    ids = ids.clamp(max=vocabulary - 1)
    if config.is_encoder_decoder:
        return {
            "input_ids": ids[None, :SOURCE_TOKENS],
            "decoder_input_ids": ids[None, -TARGET_TOKENS:],
            "use_cache": False,
        }
    return {"input_ids": ids[None], "use_cache": False}


class LocalStage:
    """Implements ProbeStage for a shard in this process."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    def forward(self, inputs: dict[str, Any], state: Any, attention: str) -> tuple[Any, tuple[LayerLayout, ...]]:
        if attention == "eager":
            return self._eager(inputs, state), ()
        listener = LayoutListener(self.shard.model, LENGTHS)
        with attending(self.shard.model, listener):
            output = self.shard.forward(inputs, state)
        listener.check_all_fired()
        return _handed_on(output), tuple(listener.calls)

    def passage(self, layout: ModelLayout, passage: Passage, states: list[Any]) -> list[Any]:
        own = own_layout(layout, interface_modules(self.shard.model))
        opened = ShardRunner(self.shard, own, recording=Recording(), kinds=()).open(passage, _NoSink(), finish=True)
        return [_handed_on(opened.step(chunk, state)) for chunk, state in enumerate(states)]

    def _eager(self, inputs: dict[str, Any], state: Any) -> Any:
        with own_attention(self.shard.model):
            return _handed_on(self.shard.forward(inputs, state))


def _handed_on(output: Any) -> Any:
    """A shard's state as it is; of a model's output the final states, (1, T, width)."""
    return output if type(output) is dict else final_states(output)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Runs of a whole model through its stages."""

    stages: Sequence[ProbeStage]
    config: PreTrainedConfig
    dtype: str

    def captured(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, list[LayerLayout]]:
        state: Any = None
        calls: list[LayerLayout] = []
        for stage in self.stages:
            state, found = stage.forward(inputs, state, "capture")
            calls += found
        return _tensor(state), calls

    def compare_with_eager(self, inputs: dict[str, Any], hidden: torch.Tensor) -> None:
        state = None
        for stage in self.stages:
            state, _ = stage.forward(inputs, state, "eager")
        error, tolerance = _relative_error(hidden, _tensor(state)), TOLERANCE[self.dtype]
        if not error <= tolerance:
            raise UnsupportedModelError(
                f"a model of type {self.config.model_type} computes attention in a way that the capture does not "
                f"reproduce: its hidden states differ by {error:.1e} (relative) from its own eager attention, more "
                f"than {tolerance:.0e}"
            )

    def position_offset(self, inputs: dict[str, Any], hidden: torch.Tensor) -> int | None:
        """What the model adds to 0, 1, 2, ... when it numbers positions itself; None where it takes no position ids."""
        if self.config.is_encoder_decoder:
            return None
        padding = self.config.get_text_config().pad_token_id
        candidates = [0] if padding is None else [0, int(padding) + 1]
        ids = inputs["input_ids"]
        for offset in candidates:
            positions = torch.arange(ids.shape[1])[None] + offset
            explicit = {"position_ids": positions, "attention_mask": torch.ones_like(ids)}
            try:
                found, _ = self.captured(inputs | explicit)
            except TypeError:  # forward has no such parameter
                return None
            except IndexError:  # past the end of a table of learned positions: not this offset
                continue
            error = _relative_error(found, hidden)
            if error > SAME_RUN:
                continue
            # told the first position for every token, a model that listens to positions gives something else
            still, _ = self.captured(inputs | explicit | {"position_ids": positions[:, :1].expand_as(ids)})
            if _relative_error(still, hidden) > 10 * max(error, 1e-7):
                return offset
        return None

    def keeps_documents_apart(self, layout: ModelLayout) -> bool:
        """Whether a document comes out the same behind another one, and, where it may be chunked, in two chunks.

        Attention keeps to its key intervals; a convolution or a recurrent state beside it would carry one document's,
        or no chunk's, past into the next.
        """
        ids = _inputs(self.config)["input_ids"][0].numpy()
        tokens = [_plain_tokens(part) for part in (ids[:7], ids[7:])]
        documents = [Document(id=str(i), tokens={"text": part}) for i, part in enumerate(tokens)]
        lengths = [{"text": len(part)} for part in tokens]
        (together,) = plan_packs(lengths, pack_tokens=PROBE_TOKENS, block=1)

        def run(part: Passage) -> torch.Tensor:
            states: list[Any] = [None] * len(part.chunks)
            for stage in self.stages:
                states = stage.passage(layout, part, states)
            return torch.cat([_tensor(state)[0] for state in states])

        (packed,) = passages(together, documents, pack_documents=True, chunk_tokens=None)
        _, alone = passages(together, documents, pack_documents=False, chunk_tokens=None)
        expected = run(alone)
        found = [run(packed)[7:]]
        if layout.chunkable:
            _, cut = passages(together, documents, pack_documents=False, chunk_tokens=9)
            found.append(run(cut))
        limit = TOLERANCE[self.dtype] / 10
        return all(_relative_error(states, expected) <= limit for states in found)


def _tensor(state: Any) -> torch.Tensor:
    assert isinstance(state, torch.Tensor), "the last shard hands on the model's final states"
    return state.cpu()


class _NoSink:
    """Takes what a probe's runs produce, and drops it."""

    def write(self, rows: LayerRows) -> None: ...

    def write_map(self, tile: MapTile) -> None: ...


def _plain_tokens(ids: NDArray[np.int64]) -> Tokens:
    none = np.full(len(ids), -1, dtype=np.int32)
    return Tokens(
        ids=ids.astype(np.int32),
        text=("",) * len(ids),
        char_start=none,
        char_end=none,
        special=np.zeros(len(ids), dtype=np.bool_),
    )


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def _number_layers(calls: list[LayerLayout]) -> tuple[LayerLayout, ...]:
    """Give each call the model's own layer index: the first number in its module's name, where that tells them apart.

    A module that fires several times a pass (ALBERT shares one between all layers) counts its calls instead.
    """
    numbered: list[LayerLayout] = []
    for kind in dict.fromkeys(call.kind for call in calls):
        same = [call for call in calls if call.kind == kind]
        found = [re.search(r"(?:^|\.)(\d+)(?:\.|$)", call.module) for call in same]
        named = [int(match.group(1)) for match in found if match is not None]
        indices = named if len(set(named)) == len(same) else list(range(len(same)))
        numbered += [replace(call, layer=index) for call, index in zip(same, indices, strict=True)]
    place = {id(call.rule): order for order, call in enumerate(calls)}
    return tuple(sorted(numbered, key=lambda call: place[id(call.rule)]))
