"""Which models can be captured exactly, told from their classes, before anything is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from attlas.errors import UnsupportedModelError

__all__ = ["check_supported", "interface_modules", "unfaithful"]

CROSS_ATTENTION = frozenset({"encoder_attn", "crossattention", "cross_attn", "cross_attention", "EncDecAttention"})
"""What families call the module that attends to states from elsewhere."""
QUANTISED = frozenset({"torchao", "bitsandbytes", "hqq", "quanto", "optimum", "gptqmodel", "awq", "compressed_tensors"})
"""Packages whose weights or layers are quantised."""


def check_supported(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError, with family and reason, unless all attention goes through the interface.

    A model that ignores the interface would run its own attention with our mask, and yield wrong numbers in silence.
    """
    family = f"{type(model).__name__} ({model.config.model_type})"
    if not model._can_set_attn_implementation():
        raise UnsupportedModelError(
            f"{family} has its own attention code and does not use transformers' attention interface, "
            "so its weights cannot be captured; a family that does (most since 2023) can"
        )
    if model.main_input_name != "input_ids":
        raise UnsupportedModelError(f"{family} takes {model.main_input_name}, not text: only text models are captured")
    _check_whole(model, family)
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


def _check_whole(model: PreTrainedModel, family: str) -> None:
    """Raise UnsupportedModelError for half of an encoder-decoder, which says of itself that it is the whole."""
    if model.config.is_encoder_decoder:
        if "decoder_input_ids" not in inspect.signature(model.forward).parameters:
            raise UnsupportedModelError(
                f"{family} is one half of an encoder-decoder: give the whole model, whose atlas has its encoder's, its "
                "decoder's and its cross attention"
            )
        return
    cross = next((name for name, _ in model.named_modules() if name.rpartition(".")[2] in CROSS_ATTENTION), None)
    if cross is not None:
        raise UnsupportedModelError(
            f"{family} attends, in {cross}, to states of an encoder or of an image, which there are none of for text "
            "alone: give the whole encoder-decoder where there is one"
        )


def unfaithful(model: PreTrainedModel) -> str | None:
    """Why a model may not give the same states twice, or none at all: weights that are not finite, or quantised ones.

    Looked for only where a model was found to differ, since every weight is read.
    """
    for name, value in model.named_parameters():
        is_plain = value.device.type != "meta" and not is_traceable_wrapper_subclass(value)
        if is_plain and value.is_floating_point() and not bool(value.detach().isfinite().all()):
            return f"its weight {name} holds NaN or infinity: fetch or save the model again"
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        kinds = {type(weight).__module__.split(".")[0], type(module).__module__.split(".")[0]}
        if QUANTISED.intersection(kinds) or ".quantized." in type(module).__module__:
            kind = type(module if callable(weight) else weight).__name__
            return f"its weights are quantised ({name} as {kind}), which rounds differently: give it unquantised"
    return None


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
