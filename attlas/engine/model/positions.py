"""How far a model's positions reach, told from its configuration and its modules."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["beyond_positions", "ends_of_positions", "position_limit", "rotary_depends_on_length", "table_offset"]


def position_limit(config: PreTrainedConfig, position_offset: int | None) -> int | None:
    """The longest document the model was made for, in tokens; None where its positions have no end.

    position_offset: what the model adds to its positions (RoBERTa loses two places of its table to it).
    """
    text = config.get_text_config()
    if getattr(text, "relative_attention_num_buckets", None):
        return None
    for field in ("max_position_embeddings", "n_positions"):
        limit = getattr(text, field, None)
        if limit:
            return int(limit) - (position_offset or 0)
    return None


def rotary_depends_on_length(config: PreTrainedConfig) -> bool:
    """Whether the rotary frequencies change with the longest position in a forward pass (dynamic NTK, LongRoPE).

    A document of such a model must go through it alone and whole: a chunk, or a neighbour in a pack, would turn it.
    """
    parameters: Any = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    return any(kind.get("rope_type") in {"dynamic", "longrope"} for kind in kinds)


def beyond_positions(
    model: PreTrainedModel, limit: int, *, tokens: int, first_position: int = 0, extrapolate: bool = False
) -> str | None:
    """Why so many tokens, which reach beyond `limit`, are refused, and what to do; None where the model may go on.

    It goes behind "a document has". first_position: of the first token. extrapolate: whether positions that go on may.
    """
    end = ends_of_positions(model, limit)
    behind = f" behind {first_position:,} positions" if first_position else ""
    told = f"{tokens:,} tokens{behind}, and the model's positions end at {limit:,}"
    if end is not None:
        refused = ", and cannot be extrapolated" if extrapolate else ""
        return f"{told}{refused}: {end}; shorten it with --max-tokens {limit - first_position}"
    if extrapolate:
        return None
    return f"{told}: shorten it with --max-tokens {limit}, or go beyond them with --extrapolate"


def table_offset(model: PreTrainedModel) -> int:
    """What a model that was not run adds to its positions: a table with a place for padding begins behind it."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and "pos" in name.rpartition(".")[2].lower():
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def ends_of_positions(model: PreTrainedModel, limit: int) -> str | None:
    """Why a model cannot take more than `limit` tokens; None where its positions go on (rotary, ALiBi, relative).

    A table of positions, learned or sinusoidal, ends.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings >= limit:
            last = name.rpartition(".")[2].lower()
            if "pos" in last or last == "wpe":
                return f"its positions are a table of {module.num_embeddings:,} places ({name})"
    return None
