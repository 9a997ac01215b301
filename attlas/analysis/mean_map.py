"""The map of a head, or the mean over heads, some rows at a time: no N x N array is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["BLOCK_BYTES", "mean_blocks"]

BLOCK_BYTES = 32 * 2**20
"""Weights that are held at a time."""


def mean_blocks(attention: xr.DataArray, dtype: type, *, multiple: int = 1) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row, and the mean over heads (rows, key) of blocks of rows in BLOCK_BYTES, or of `multiple` rows.

    attention: (head, query, key), lazy or not. dtype: of the sums, and of what is given. Every block but the last holds
    a multiple of so many rows.
    """
    heads, queries, keys = (attention.sizes[dim] for dim in ("head", "query", "key"))
    step = max(1, BLOCK_BYTES // (np.dtype(dtype).itemsize * max(keys, 1) * multiple)) * multiple
    for begin in range(0, queries, step):
        rows = attention.isel(query=slice(begin, begin + step))
        total_QK: NDArray[Any] = np.zeros((rows.sizes["query"], keys), dtype)
        for head in range(heads):
            total_QK += rows.isel(head=head).transpose("query", "key").values
        yield begin, total_QK / dtype(heads)
