"""The part of a model that reads text: the language model of a multimodal one, or the part that is named.

A checkpoint of several modalities holds a whole language model beside the towers that read images or sounds. For text
alone it is the same function, which is checked on a few tokens.
"""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

from attlas.engine.model.agreement import text_difference
from attlas.errors import InputError, UnsupportedModelError

__all__ = ["find_part", "is_multimodal", "take_part"]

SAME_FUNCTION = 1e-5
"""Largest |a - b| / |b| between the final states of a whole model and of its language model, on text."""


def is_multimodal(config: PreTrainedConfig) -> bool:
    """Whether a configuration is of a model with a part for text beside others."""
    return not config.is_encoder_decoder and config.get_text_config() is not config


def take_part(model: PreTrainedModel, part: str | None, *, check: bool = True) -> tuple[PreTrainedModel, str | None]:
    """The part of a base model that is captured, and its name in the model; None for all of it.

    part: the qualified name of one, as `model.named_modules()` has it; None: what reads text. check: compare it with
    the whole on text, where it is the language model. Raises InputError where there is no such part, and
    UnsupportedModelError where the language model is not what the whole computes for text.
    """
    if part is None:
        if not is_multimodal(model.config):
            return model, None
        name, found = find_part(model)
        if check:
            _check_same(model, found, name)
        return found, name
    parts = _parts(model)
    if part not in parts:
        have = ", ".join(parts) or "none"
        raise InputError(f"{type(model).__name__} has no part {part!r}: its parts are {have}; name one of these")
    return parts[part], part


def find_part(model: PreTrainedModel) -> tuple[str, PreTrainedModel]:
    """The language model of a multimodal one, by name: the outermost part made from its configuration for text."""
    text = model.config.get_text_config()
    found = [(name, one) for name, one in _parts(model).items() if type(one.config) is type(text)]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} ({model.config.model_type}) has no language model of its own that could be taken "
            f"out: its parts are {', '.join(_parts(model)) or 'none'}; name one with part"
        )
    return min(found, key=lambda pair: pair[0].count("."))


def _parts(model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    return {name: one for name, one in model.named_modules() if name and isinstance(one, PreTrainedModel)}


def _check_same(whole: PreTrainedModel, part: PreTrainedModel, name: str) -> None:
    """Raise UnsupportedModelError where the whole computes something else for text; nothing, where it takes no text."""
    try:
        difference = text_difference(whole, part, whole.config)
    except (AttributeError, TypeError, ValueError):  # such as CLIP, which does nothing without an image
        return
    if not difference <= SAME_FUNCTION:
        raise UnsupportedModelError(
            f"{type(whole).__name__} ({whole.config.model_type}) computes something else for text than its part {name} "
            f"({difference:.1e} apart, relative), so that its attention is not that part's; name a part with part"
        )
