"""What is recorded of a layer: a plain value that says which factors are taken, and how each is taken. Light.

Suffixes: H query heads, G kv heads, N query rows of a chunk, R the kept ones, M key tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from attlas.engine.attention.call import AttentionCall
    from attlas.engine.kernels.measure import Attended

__all__ = ["OUTPUT_GRADIENT", "AttendedRows", "Recording", "Take"]

OUTPUT_GRADIENT = "output_gradient"
"""The factor that comes with the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttendedRows:
    """One layer's attention over one chunk, from which factors are taken.

    call: what the model asked for, all heads and rows, and the keys of all chunks so far. attended: the kernel's
    answer, kept heads and rows alone. heads, kv_heads: the kept ones, by their places in the call. chosen_R: the kept
    rows of the N; None for all. own_keys: the chunk's own among the M keys.
    start_R, stop_R: key intervals of the kept rows, int32, counted from the document's first key.
    """

    call: AttentionCall
    attended: Attended
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    chosen_R: NDArray[np.int64] | None
    own_keys: slice
    start_R: torch.Tensor
    stop_R: torch.Tensor

    def rows_of(self, x_HND: torch.Tensor) -> torch.Tensor:
        """The kept heads and rows of (H, N, ...); x_HND itself where that is all of them."""
        x_HND = _picked(x_HND, self.heads)
        return x_HND if self.chosen_R is None else x_HND[:, self.chosen_R]

    def keys_of(self, x_GMD: torch.Tensor) -> torch.Tensor:
        """The kept kv heads of (G, M, ...), and the chunk's own keys."""
        return _picked(x_GMD[:, self.own_keys], self.kv_heads)


Take = Callable[[AttendedRows], "torch.Tensor"]
"""Takes one factor: (heads, rows, ...) or (rows,) of a query factor, (kv heads, keys, ...) of a key factor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """What a capture hands to its sink. queries, keys: factors by name, with a row a query and a row a key."""

    queries: Mapping[str, Take] = field(default_factory=dict)
    keys: Mapping[str, Take] = field(default_factory=dict)
    statistics: bool = False
    maps: bool = False


def _picked(x_HND: torch.Tensor, heads: tuple[int, ...]) -> torch.Tensor:
    return x_HND if len(heads) == x_HND.shape[0] else x_HND[list(heads)]
