"""The lazy mask: what transformers' mask functions return to the model instead of a Q x K tensor.

A model passes it on untouched; the capture asks it for the key interval of each row, by index arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.errors import UnsupportedModelError

__all__ = ["LazyMask", "lazy_mask", "mask_intervals"]

MaskFunction = Callable[..., Any]
Indices = NDArray[np.int64]

CHECKED_ROWS = 64
CHECKED_CELLS = 4096


class LazyMask:
    """A mask as a rule on (query index, key index), evaluated on `device`, where the rule's own tensors lie."""

    def __init__(self, mask_function: MaskFunction, device: torch.device | None = None) -> None:
        self._mask_function, self._device = mask_function, device
        self._kept: dict[bytes, tuple[Indices, Indices]] = {}

    def __getattr__(self, name: str) -> Any:
        """Only what a model that handles the mask as a tensor asks for is missing; raises UnsupportedModelError."""
        if name.startswith("_") or name == "to" or not hasattr(torch.Tensor, name):  # accelerate asks what can be moved
            raise AttributeError(name)
        raise UnsupportedModelError(
            f"the model makes a mask of its own from the one it is given (it asks for {name}), from which no key "
            "interval can be told"
        )

    def visible(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Whether each query index sees the key index beside it; both int64 on the CPU, of one shape."""
        zero = torch.zeros((), dtype=torch.int64, device=self._device)
        seen = self._mask_function(zero, zero, query.to(self._device), key.to(self._device))
        return torch.as_tensor(seen, dtype=torch.bool).cpu().expand(query.shape)

    def check_full(self, queries: int, keys: int) -> None:
        """Raise UnsupportedModelError unless every query sees every key, as cross-attention does."""
        cells = torch.from_numpy(np.unique(np.linspace(0, queries * keys - 1, CHECKED_CELLS, dtype=np.int64)))
        query, key = cells // keys, cells % keys
        if not bool(self.visible(query, key).all()):
            raise UnsupportedModelError("cross-attention under a mask: only unmasked cross-attention can be captured")

    def intervals(self, query_N: Indices, length_N: Indices) -> tuple[Indices, Indices]:
        """Key interval [start, stop) of each query, both in the indices of the mask function.

        query_N: query positions within their documents. length_N: the documents' lengths. Layers of one forward pass
        share the mask, so the answer to the last question is kept.
        """
        key = query_N.tobytes() + length_N.tobytes()
        if key not in self._kept:
            self._kept = {key: mask_intervals(self.visible, query_N, length_N)}
        return self._kept[key]


def lazy_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction | None = None,
    attention_mask: torch.Tensor | None = None,
    device: torch.device | None = None,
    **_unused: Any,
) -> LazyMask:
    """The mask twin registered with transformers' AttentionMaskInterface; the signature is theirs.

    A capture has neither padding nor a cache, so the rule needs no offset and no 2-D mask.
    """
    if attention_mask is not None and not bool(attention_mask.all()):
        raise UnsupportedModelError("a padded batch reached the capture, which takes documents without padding")
    if mask_function is None or batch_size != 1 or q_offset != 0 or kv_offset != 0:
        raise UnsupportedModelError("the model asked for a mask over a cache or a batch; a capture has neither")
    return LazyMask(mask_function, device)


def mask_intervals(
    visible: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], query_N: Indices, length_N: Indices
) -> tuple[Indices, Indices]:
    """Find each row's key interval by binary search from the query's own key, then check random rows densely.

    The search assumes that what a query sees is one run of keys with the query's own position in it; the check and
    `UnsupportedModelError` are for masks of which that is not true. N log N evaluations of the mask.
    """
    query = torch.from_numpy(query_N)
    length = torch.from_numpy(length_N)
    if not bool(visible(query, query).all()):
        raise UnsupportedModelError("the mask is not an interval: some query does not see its own position")
    start = _edge(visible, query, query, torch.full_like(query, -1))
    stop = _edge(visible, query, query, length)
    start_N, stop_N = (start + 1).numpy(), stop.numpy()
    _check_rows(visible, query_N, length_N, start_N, stop_N)
    return start_N, stop_N


def _edge(
    visible: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    seen: torch.Tensor,
    unseen: torch.Tensor,
) -> torch.Tensor:
    """The unseen key next to the run, between a key that is seen and one that is not; bisects all rows at once."""
    while bool(((unseen - seen).abs() > 1).any()):
        middle = torch.div(seen + unseen, 2, rounding_mode="floor")
        open_rows = (unseen - seen).abs() > 1
        found = visible(query, torch.where(open_rows, middle, seen))
        seen, unseen = (
            torch.where(open_rows & found, middle, seen),
            torch.where(open_rows & ~found, middle, unseen),
        )
    return unseen


def _check_rows(
    visible: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    query_N: Indices,
    length_N: Indices,
    start_N: Indices,
    stop_N: Indices,
) -> None:
    rows = len(query_N)
    if rows > CHECKED_ROWS:
        random = np.random.default_rng(rows).choice(rows, CHECKED_ROWS - 2, replace=False)
        chosen = np.unique(np.concatenate([[0, rows - 1], random]))
    else:
        chosen = np.arange(rows)
    for row in chosen:
        keys = torch.arange(int(length_N[row]))
        seen = visible(torch.full_like(keys, int(query_N[row])), keys).numpy()
        if not np.array_equal(seen, (keys.numpy() >= start_N[row]) & (keys.numpy() < stop_N[row])):
            raise UnsupportedModelError(
                f"the mask is not an interval: the query at position {query_N[row]} sees separate runs of keys"
            )
