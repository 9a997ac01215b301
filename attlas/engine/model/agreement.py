"""Whether two modules are the same function of text: run once over a few token ids, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

__all__ = ["few_ids", "text_difference"]

TOKENS = 8


def text_difference(one: nn.Module, other: nn.Module, config: PreTrainedConfig) -> float:
    """|a - b| / |b| of what two modules make of the same few token ids; infinite where shapes differ.

    Both take `input_ids` and their first output is compared: logits, or the last hidden state. They run as they are,
    in eval mode, and are left as they were.
    """
    a, b = _first_output(one, config), _first_output(other, config)
    if a.shape != b.shape:
        return float("inf")
    return float((a.double() - b.double()).norm() / b.double().norm())


def few_ids(config: PreTrainedConfig, count: int) -> torch.Tensor:
    """(1, count) int64: ids that repeat little and lie away from the low ids, where special tokens usually are."""
    vocabulary = int(config.get_text_config().vocab_size)
    ids = torch.arange(count) * 37 % max(vocabulary - 10, 1) + min(10, vocabulary - 1)
    return ids.clamp(max=vocabulary - 1)[None]


def _first_output(module: nn.Module, config: PreTrainedConfig) -> torch.Tensor:
    place = next((parameter.device for parameter in module.parameters() if parameter.device.type != "meta"), None)
    ids = few_ids(config, TOKENS).to(place)
    inputs: dict[str, Any] = {"input_ids": ids}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with _evaluating(module), torch.inference_mode():
        output: Any = module(**inputs)
    found = getattr(output, "logits", None)
    if found is None:
        found = output["last_hidden_state"] if hasattr(output, "keys") else output[0]
    assert isinstance(found, torch.Tensor)
    return found.cpu()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Every module in eval mode meanwhile, and back in its own after: a model may train in part."""
    training = [one for one in module.modules() if one.training]
    module.eval()
    try:
        yield
    finally:
        for one in training:
            one.training = True
