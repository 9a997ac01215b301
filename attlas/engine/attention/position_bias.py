"""The lazy position bias: relative-bias models hand a small table on to attention instead of an H x N x N tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from attlas.engine.attention.score_rule import PositionBias

__all__ = ["LazyBias", "bias_table", "lazy_position_bias"]

REACH = 4096
"""Offsets examined on either side; where the bias is constant from some offset on, the table stops there."""


class LazyBias:
    """Stands in for a (1, H, Q, K) position bias on its way through the model; `bias` is None for all zeros."""

    def __init__(self, bias: PositionBias | None) -> None:
        self.bias = bias


@contextmanager
def lazy_position_bias(model: nn.Module) -> Iterator[None]:
    """Inside, every T5-like attention module of `model` yields a LazyBias where it would build its N x N bias.

    Such a module has `compute_bias(query_length, key_length, device, past_seen_tokens)` and
    `has_relative_attention_bias`; one without a bias of its own would otherwise allocate N x N zeros.
    """
    changed: list[tuple[Any, bool]] = []
    try:
        module: Any
        for module in model.modules():
            if hasattr(module, "has_relative_attention_bias") and callable(getattr(module, "compute_bias", None)):
                lazy = LazyBias(bias_table(module) if module.has_relative_attention_bias else None)
                changed.append((module, bool(module.has_relative_attention_bias)))
                module.has_relative_attention_bias = True
                module.compute_bias = _constant(lazy)
        yield
    finally:
        for module, had_bias in changed:
            module.has_relative_attention_bias = had_bias
            del module.compute_bias


def bias_table(module: Any) -> PositionBias:
    """The bias of a T5-like module by offset, from one row of its own `compute_bias`: O(REACH), never N x N."""
    with torch.no_grad():
        row = module.compute_bias(1, 2 * REACH + 1, past_seen_tokens=REACH)
    table_HR = row[0, :, 0, :].float().cpu().numpy()
    left = _constant_run(table_HR)
    right = _constant_run(table_HR[:, ::-1])
    stop = table_HR.shape[1] - right
    return PositionBias(
        table_HR=np.ascontiguousarray(table_HR[:, left:stop]),
        first_offset=left - REACH,
        saturates_left=left > 0,
        saturates_right=right > 0,
    )


def _constant(lazy: LazyBias) -> Any:
    def compute_bias(*_args: Any, **_kwargs: Any) -> LazyBias:
        return lazy

    return compute_bias


def _constant_run(table_HR: np.ndarray[Any, np.dtype[np.float32]]) -> int:
    """How many leading offsets repeat the next one; the last of a run of equal values stays in the table."""
    same_R = (table_HR[:, 1:] == table_HR[:, :-1]).all(axis=0)
    return int(same_R.size if same_R.all() else np.argmin(same_R))
