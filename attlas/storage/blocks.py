"""A map in blocks of cells: which of them may be seen, and their weights as bytes.

Suffixes: Q queries, R and C rows and columns of blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOW", "meant", "quantised", "seen_blocks"]

Indices = NDArray[np.int64]

LOW = 1e-5
"""The least weight that a byte tells from 0."""


def quantised(tile: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Weights on a logarithmic scale: 0 masked, 1 for at most LOW, else 1 + 254 (log10 w + 5) / 5; within 2.3%.

    >>> quantised(np.array([np.nan, 0, 1e-5, 1e-3, 1], np.float32)).tolist()
    [0, 1, 1, 103, 255]
    """
    with np.errstate(invalid="ignore"):
        code = np.log10(np.maximum(tile, np.float32(LOW)))  # a NaN stays one
        code = np.minimum(1 + np.rint((code + 5) * np.float32(254 / 5)), 255)
    return np.nan_to_num(code, copy=False, nan=0).astype(np.uint8)


def meant(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The weights that bytes stand for: NaN masked, 0 for what is at most LOW.

    >>> meant(np.array([0, 1, 103, 255], np.uint8)).tolist()
    [nan, 0.0, 0.00102, 1.0]
    """
    weight_C = 10 ** ((np.arange(256) - 1) * (5 / 254) - 5)
    weight_C[:2] = np.nan, 0
    return weight_C.astype(np.float32)[codes]


def seen_blocks(start_Q: Indices, stop_Q: Indices, block: int, keys: int) -> NDArray[np.bool_]:
    """Whether any query of a block may see any key of it (R, C). start_Q, stop_Q: key intervals within the keys.

    >>> seen_blocks(np.array([0, 0, 2]), np.array([1, 2, 3]), 2, 4)
    array([[ True, False],
           [False,  True]])
    """
    rows, columns = -(-len(start_Q) // block), -(-keys // block)
    some = start_Q < stop_Q
    row_Q = (np.arange(len(start_Q)) // block)[some]
    begins_RC = np.zeros((rows, columns + 1), np.int64)
    np.add.at(begins_RC, (row_Q, start_Q[some] // block), 1)
    np.add.at(begins_RC, (row_Q, -(-stop_Q[some] // block)), -1)
    visible: NDArray[np.bool_] = begins_RC.cumsum(axis=1)[:, :-1] > 0
    return visible
