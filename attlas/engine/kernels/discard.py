"""Which weights of a row are left when its smallest are discarded, and the row scaled up to the sum that it had.

Suffixes: Q rows, K keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Discard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """Drop the smallest weights of each row, never its largest; what is left is scaled to the sum that the row had.

    share: of the weights that the row sees, rounded down, from 0 to less than 1; of equal weights at the edge all stay.
    threshold: weights below it are dropped too.

    >>> a_QK = np.array([[0.5, 0.3, 0.2, 0.0]])
    >>> Discard(share=0.34).of_rows(a_QK, np.array([0]), np.array([3]))
    >>> a_QK
    array([[0.625, 0.375, 0.   , 0.   ]])
    """

    share: float = 0.0
    threshold: float = 0.0

    @property
    def anything(self) -> bool:
        return self.share > 0 or self.threshold > 0

    def of_rows(self, a_QK: NDArray[np.floating], lo_Q: NDArray[np.int64], hi_Q: NDArray[np.int64]) -> None:
        """Discard in place. lo_Q, hi_Q: the columns that each row sees; a row that sees none is left as it is."""
        for row_K, lo, hi in zip(a_QK, lo_Q.tolist(), hi_Q.tolist(), strict=True):
            seen_K = row_K[lo:hi]
            if not len(seen_K):
                continue
            rank = int(self.share * len(seen_K))
            edge = np.partition(seen_K, rank)[rank] if rank else seen_K.dtype.type(0)
            edge = min(max(edge, seen_K.dtype.type(self.threshold)), seen_K.max())
            before = seen_K.sum(dtype=np.float64)
            seen_K[seen_K < edge] = 0
            left = seen_K.sum(dtype=np.float64)
            if left > 0:  # else all weights of the row have vanished in float32
                seen_K *= before / left
