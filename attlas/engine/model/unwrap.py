"""From what people hold as a model to the transformers model inside, where that is the same function.

Wrappers are known by their classes' names, so that none of their packages is imported or needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attlas.engine.model.agreement import text_difference
from attlas.errors import InputError, UnsupportedModelError

__all__ = ["WHAT_A_MODEL_IS", "Unwrapped", "is_path", "unwrap"]

SAME_FUNCTION = 1e-5
"""Largest |a - b| / |b| between a wrapper's output and that of the model inside."""
KEYS_OF_THEIR_OWN = frozenset({"ADAPTION_PROMPT", "CARTRIDGE"})
"""Kinds of adapters of peft that are in the layers, and let queries attend to keys that no token has."""
WHAT_A_MODEL_IS = "give a hub id, a folder, a .gguf file, demo, or a transformers model object"
LOOKED_FOR = ("model", "module", "auto_model", "base_model", "transformer", "pretrained_model")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unwrapped:
    """The transformers model inside a wrapper, and the tokenizer, where the wrapper held one."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None


def is_path(given: Any) -> bool:
    """Whether a model is given by its place rather than as an object."""
    import os

    return isinstance(given, str | os.PathLike)


def unwrap(given: Any) -> Unwrapped:
    """The transformers model inside a compiled, parallel or adapted one, a pipeline or a sentence transformer.

    Raises InputError, naming the wrapper and the remedy, where there is none that is known, and UnsupportedModelError
    where the wrapper changes what the model computes (prefix tuning puts keys before the text, which no document has).
    """
    model, tokenizer = given, None
    for _ in range(8):  # one wrapper in another, as a compiled and parallel model is
        if isinstance(model, PreTrainedModel):
            _check_usable(model)
            return Unwrapped(model=model, tokenizer=tokenizer)
        inner = _inside(model)
        if inner is None:
            break
        held = getattr(model, "tokenizer", None)
        tokenizer = held if tokenizer is None and isinstance(held, PreTrainedTokenizerBase) else tokenizer
        model = inner
    shown = repr(given) if given is None or isinstance(given, int | float) else f"a {_named(given)}"
    raise InputError(f"model is {shown}, no transformers model{_remedy(given)}")


def _inside(model: Any) -> Any:
    """What a known wrapper holds; None where it is not known."""
    names = _class_names(model)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    if "torch._dynamo.eval_frame.OptimizedModule" in names:
        return model._orig_mod
    if "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel" in names:
        raise UnsupportedModelError(
            f"{_named(model)} has its weights spread over processes: save the model with save_pretrained, and give its "
            "folder"
        )
    if any(name.startswith("peft.") for name in names):
        return _adapted(model)
    if any(name.startswith("transformers.pipelines.") for name in names):
        return model.model
    if any(name.startswith("sentence_transformers.") for name in names):
        return _of_sentences(model)
    return None


def _adapted(model: Any) -> Any:
    """The model inside a peft one, into whose layers the adapters are built; checked against the wrapper itself."""
    kinds = sorted({str(getattr(one.peft_type, "value", one.peft_type)) for one in model.peft_config.values()})
    told = f"{_named(model)} ({', '.join(kinds)})"
    learnt_keys = KEYS_OF_THEIR_OWN.intersection(kinds)
    if learnt_keys or any(getattr(one, "is_prompt_learning", False) for one in model.peft_config.values()):
        raise UnsupportedModelError(
            f"{told} puts tokens or keys of its own before the text, which no document has: only adapters in the "
            "layers (LoRA and its kin) can be captured; give model.unload() for the model without"
        )
    inner = model.get_base_model()
    config = getattr(inner, "config", None)
    if isinstance(inner, PreTrainedModel) and config is not None:
        difference = text_difference(model, inner, config)
        if not difference <= SAME_FUNCTION:
            raise UnsupportedModelError(
                f"{told} computes something else than the model inside it ({difference:.1e} apart, relative): only "
                "adapters in the layers (LoRA and its kin) can be captured; merge it with model.merge_and_unload()"
            )
    return inner


def _of_sentences(model: Any) -> Any:
    """The transformer of a sentence transformer or a cross encoder: the module that holds one."""
    modules = model.modules() if isinstance(model, nn.Module) else [model]
    for module in modules:
        for name in ("auto_model", "model"):
            inner = getattr(module, name, None)
            if isinstance(inner, PreTrainedModel):
                return inner
    return None


def _check_usable(model: PreTrainedModel) -> None:
    unplaced = next((name for name, parameter in model.named_parameters() if parameter.device.type == "meta"), None)
    if unplaced is not None and not hasattr(model, "hf_device_map"):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no weights: {unplaced} is on the meta device; load it with from_pretrained, "
            "or give its folder"
        )


def _class_names(value: Any) -> list[str]:
    return [f"{one.__module__}.{one.__qualname__}" for one in type(value).__mro__]


def _named(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _remedy(value: Any) -> str:
    held = next((name for name in LOOKED_FOR if isinstance(getattr(value, name, None), PreTrainedModel)), None)
    if held is not None:
        return f": where the model that it holds is the same function, give that, its .{held}"
    if isinstance(value, type):
        return ": it is a class; give an object made by its from_pretrained"
    if isinstance(value, torch.Tensor | dict):
        return ": give the model, not its weights"
    return f": {WHAT_A_MODEL_IS}"
