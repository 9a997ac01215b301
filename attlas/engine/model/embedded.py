"""A model whose weights are constants: gradients flow from its embeddings on, and to no parameter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["constant_weights"]


@contextmanager
def constant_weights(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter takes a gradient, and what every embedding gives does.

    Not the tables of relative positions, which are scores and not states.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    hooks = []
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding) and not name.endswith("bias"):
                hooks.append(module.register_forward_hook(_tracked))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, required in before:
            parameter.requires_grad_(required)


def _tracked(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output if output.requires_grad or not torch.is_grad_enabled() else output.requires_grad_()
