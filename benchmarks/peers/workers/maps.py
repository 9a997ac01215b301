"""The array that every peer writes: float16 (layer, head, query, key), in zarr's own defaults but for the chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import zarr

__all__ = ["create_maps", "write_layer"]

CHUNK = 1024


def create_maps(folder: Path, layers: int, heads: int, tokens: int, dtype: str = "float16") -> zarr.Array[Any]:
    """One head's block of up to 1024 x 1024 cells to a chunk; chunks that are all zero are not written."""
    side = min(tokens, CHUNK)
    return zarr.create_array(
        folder / "maps.zarr",
        shape=(layers, heads, tokens, tokens),
        chunks=(1, 1, side, side),
        dtype=dtype,
        dimension_names=("layer", "head", "query", "key"),
    )


def write_layer(array: zarr.Array[Any], layer: int, weights: torch.Tensor) -> None:
    """weights: (1, head, query, key) or (head, query, key), as the model made them."""
    made = weights[0] if weights.ndim == 4 else weights
    array[layer] = made.detach().to(getattr(torch, array.dtype.name)).numpy()
