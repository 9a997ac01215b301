"""A passage run forward and back: what `ShardRunner` records, and the gradient of every kept layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch

from attlas.engine.attention.call import Listener
from attlas.engine.attention.interface import attending, held
from attlas.engine.listeners.gradient import Again, KeepGradient
from attlas.engine.listeners.sink import Sink
from attlas.engine.model.checkpoints import checkpointed
from attlas.engine.model.embedded import constant_weights
from attlas.engine.model.head import WithHead
from attlas.engine.passage.passage import Passage
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.target import Target
from attlas.errors import GradientError

__all__ = ["run_with_gradient"]


def run_with_gradient(
    runner: ShardRunner,
    passage: Passage,
    sink: Sink,
    target: Target,
    *,
    checkpoints: bool = False,
    listeners: Sequence[Listener] = (),
) -> float:
    """Run a passage through a whole model with its head, and the target's gradient back; returns the target's value. No
    weight takes a gradient.

    listeners: stand inside, such as edits: the gradient is that of what they make of the output. checkpoints: each
    layer is run again on the way back. Memory: the activations of the whole passage, or with checkpoints those of a
    layer, and every layer's input. Raises GradientError, NotFiniteError, and as `ShardRunner.open`.
    """
    shard = runner.shard
    assert isinstance(shard, WithHead)
    keeping = KeepGradient(sink, kinds=runner.kinds, document_ids=runner.document_ids)
    shard.keep_rows(target.rows(passage))
    with ExitStack() as stack:
        stack.enter_context(held(shard.model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(constant_weights(shard.whole_model))
        if checkpoints:
            stack.enter_context(checkpointed(shard.model))
        output = runner.open(passage, sink, finish=True, listeners=[keeping, *listeners], grad=True).step(0)
        value = target.scalar(output, passage, rows=shard.rows)
        if not bool(torch.isfinite(value)):
            raise GradientError(f"the target is {value.item()}: its gradient says nothing")
        del output
        stack.enter_context(attending(shard.model, Again(keeping.placed), grad=True))
        value.backward()
    keeping.check()
    return float(value.detach())
