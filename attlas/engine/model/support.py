"""Which models can be captured exactly, told from their classes, before anything is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from attlas.errors import UnsupportedModelError

__all__ = ["check_supported", "interface_modules"]


def check_supported(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError, with family and reason, unless all attention goes through the interface.

    A model that ignores the interface would run its own attention with our mask, and yield wrong numbers in silence.
    """
    family = f"{type(model).__name__} ({model.config.model_type})"
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(f"{type(model).__name__} is not a transformers model")
    if not model._can_set_attn_implementation():
        raise UnsupportedModelError(
            f"{family} has its own attention code and does not use transformers' attention interface, "
            "so its weights cannot be captured; a family that does (most since 2023) can"
        )
    if model.main_input_name != "input_ids":
        raise UnsupportedModelError(f"{family} takes {model.main_input_name}, not text: only text models are captured")
    ours = interface_modules(model)
    if not ours:
        raise UnsupportedModelError(f"{family} has no attention layer that uses transformers' attention interface")
    foreign = _foreign_attention(model, set(ours))
    if foreign:
        raise UnsupportedModelError(
            f"{family} mixes in attention of its own that does not use transformers' attention interface: "
            f"{foreign[0]} ({type(model.get_submodule(foreign[0])).__name__})"
            + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else "")
        )


def interface_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Qualified name -> module, for every module whose own forward dispatches to the attention interface."""
    return {name: module for name, module in model.named_modules() if _dispatches(type(module).forward)}


def _foreign_attention(model: nn.Module, ours: set[str]) -> list[str]:
    """Modules named attention that neither are, hold, nor lie in one that uses the interface, and have weights."""
    return [
        name
        for name, module in model.named_modules()
        if "attention" in type(module).__name__.lower()
        and any(True for _ in module.parameters())
        and not any(name == other or other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in ours)
    ]


@cache
def _dispatches(forward: Callable[..., Any]) -> bool:
    try:
        source = inspect.getsource(forward)
    except (OSError, TypeError):  # built without source, as torch's own containers may be: it dispatches to nothing
        return False
    return "ALL_ATTENTION_FUNCTIONS" in source
