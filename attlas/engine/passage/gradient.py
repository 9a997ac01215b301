"""A passage run forward and back: what `ShardRunner` records, and the gradient of every kept layer's output."""

from __future__ import annotations

import torch

from attlas.engine.attention.interface import held
from attlas.engine.listeners.gradient import KeepGradient
from attlas.engine.listeners.sink import Sink
from attlas.engine.model.embedded import constant_weights
from attlas.engine.model.head import WithHead
from attlas.engine.passage.passage import Passage
from attlas.engine.passage.runner import ShardRunner
from attlas.engine.passage.target import Target
from attlas.errors import GradientError

__all__ = ["run_with_gradient"]


def run_with_gradient(runner: ShardRunner, passage: Passage, sink: Sink, target: Target) -> None:
    """Run a passage through a whole model with its head, and the target's gradient back. No weight takes a gradient.

    Memory: the activations of the whole passage. Raises GradientError, NotFiniteError, and as `ShardRunner.open`.
    """
    shard = runner.shard
    assert isinstance(shard, WithHead)
    keeping = KeepGradient(sink, kinds=runner.kinds, document_ids=runner.document_ids)
    with held(shard.model), torch.inference_mode(False), torch.enable_grad(), constant_weights(shard.whole_model):
        output = runner.open(passage, sink, finish=True, listeners=[keeping], grad=True).step(0)
        value = target.scalar(output, passage)
        if not bool(torch.isfinite(value)):
            raise GradientError(f"the target is {value.item()}: its gradient says nothing")
        value.backward()
    keeping.check()
