"""Checkpoints (Chen et al. 2016, https://arxiv.org/abs/1604.06174): a layer's activations are made again on the way
back, and only what goes into it is held meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from attlas.engine.model.support import interface_modules

__all__ = ["checkpointed"]


@contextmanager
def checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Inside, every layer of a stack with attention in it runs under a checkpoint."""
    attention = list(interface_modules(model))
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(one.startswith(f"{name}.") for one in attention)
    ]
    outer = [module for name, module in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    layers = [layer for module in outer for layer in module]
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(_again, layer.forward)
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = own


def _again(forward: Callable[..., Any], *given: Any, **more: Any) -> Any:
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, **more)
