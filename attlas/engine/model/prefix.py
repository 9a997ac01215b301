"""Prefix: what each layer of a model gave in one forward pass, so that other passes can begin behind any of them.

A pass that differs from the first only from some layer on need not run the layers below again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from attlas.engine.model.shard import find_stacks

__all__ = ["Prefix"]


class Prefix:
    """The outputs of all layers of a causal model, chunk by chunk, kept from one pass and given back in others.

    Memory: hidden states of every layer, (layers, tokens, hidden). Raises UnsupportedModelError where something else
    than hidden states passes between the layers, see `find_stacks`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        (stack,) = find_stacks(model)
        layers = model.get_submodule(stack.name)
        assert isinstance(layers, nn.ModuleList)
        self.layers, self.name = layers, stack.name
        self._kept: dict[tuple[int, int], Any] = {}

    def begin_of(self, module: str) -> int:
        """Which place in the stack the layer has that an attention module, by its qualified name, belongs to."""
        return int(module.removeprefix(f"{self.name}.").partition(".")[0])

    @contextmanager
    def keeping(self, chunk: int) -> Iterator[None]:
        """Inside, a forward pass of this chunk is kept."""

        def keep(place: int) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                self._kept[chunk, place] = _copied(output)

            return hook

        handles = [layer.register_forward_hook(keep(place)) for place, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def begun(self, chunk: int, first: int) -> Iterator[None]:
        """Inside, a forward pass of this chunk begins with layer `first`: those below give what they gave."""
        below = list(self.layers)[:first]
        own = [vars(layer).get("forward") for layer in below]
        try:
            for place, layer in enumerate(below):
                output = self._kept[chunk, place]
                vars(layer)["forward"] = _giving(_copied(output) if place == first - 1 else output)
            yield
        finally:
            for layer, forward in zip(below, own, strict=True):
                del vars(layer)["forward"]
                if forward is not None:  # as accelerate's hooks have put there
                    vars(layer)["forward"] = forward


def _giving(output: Any) -> Any:
    def forward(*_: Any, **__: Any) -> Any:
        return output

    return forward


def _copied(output: Any) -> Any:
    """A layer may change in place what it is given."""
    if isinstance(output, torch.Tensor):
        return output.clone()
    if isinstance(output, tuple):
        return tuple(_copied(one) for one in output)
    return output
