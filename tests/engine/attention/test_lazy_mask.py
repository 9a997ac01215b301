"""Key intervals found by bisection against the mask written out densely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import masking_utils

from attlas.engine.attention.lazy_mask import LazyMask, lazy_mask, mask_intervals
from attlas.errors import UnsupportedModelError


@pytest.mark.parametrize(
    "mask_function",
    [
        masking_utils.causal_mask_function,
        masking_utils.bidirectional_mask_function,
        masking_utils.sliding_window_causal_mask_function(7),
        masking_utils.sliding_window_bidirectional_mask_function(5),
        masking_utils.chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.int64)),
    ],
)
@pytest.mark.parametrize("length", [1, 2, 8, 33, 130])
def test_transformers_masks(mask_function: Any, length: int) -> None:
    positions = torch.arange(length)
    dense = (
        LazyMask(mask_function)
        .visible(positions.repeat_interleave(length), positions.repeat(length))
        .reshape(length, length)
    )
    keys = positions.numpy()
    start, stop = LazyMask(mask_function).intervals(keys, np.full(length, length))
    np.testing.assert_array_equal((keys >= start[:, None]) & (keys < stop[:, None]), dense)


@settings(max_examples=50, deadline=None)
@given(left=st.integers(0, 40), right=st.integers(0, 40), lengths=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_any_band_in_any_documents(left: int, right: int, lengths: list[int]) -> None:
    def visible(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key >= query - left) & (key <= query + right)

    query = np.concatenate([np.arange(n) for n in lengths])
    length = np.repeat(lengths, lengths)
    start, stop = mask_intervals(visible, query, length)
    np.testing.assert_array_equal(start, np.maximum(query - left, 0))
    np.testing.assert_array_equal(stop, np.minimum(query + right + 1, length))


def test_a_mask_with_a_hole_is_refused() -> None:
    def visible(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key % 5 != 3) | (key == query)

    with pytest.raises(UnsupportedModelError, match="not an interval"):
        mask_intervals(visible, np.arange(40), np.full(40, 40))


def test_a_query_that_does_not_see_itself_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="does not see its own position"):
        mask_intervals(lambda query, key: key < query, np.arange(4), np.full(4, 4))


def test_padding_and_caches_are_refused() -> None:
    padded = torch.tensor([[True, True, False]])
    with pytest.raises(UnsupportedModelError, match="padded"):
        lazy_mask(1, 3, 3, mask_function=masking_utils.causal_mask_function, attention_mask=padded)
    with pytest.raises(UnsupportedModelError, match="cache"):
        lazy_mask(1, 1, 9, q_offset=8, mask_function=masking_utils.causal_mask_function)


def test_masked_cross_attention_is_refused() -> None:
    mask = LazyMask(lambda _b, _h, _q, k: k < 7)
    mask.check_full(3, 7)
    with pytest.raises(UnsupportedModelError, match="cross-attention under a mask"):
        mask.check_full(3, 8)
