"""How much an atlas will take on disk, before anything is captured."""

from __future__ import annotations

from attlas.engine.model.shape import ModelShape
from attlas.errors import InputError
from attlas.storage.sizes import factor_bytes, row_bytes
from attlas.storage.tiers import TIERS

__all__ = ["tier_bytes"]

MAP_ITEMSIZE = 2


def tier_bytes(shape: ModelShape, *, tokens: int, documents: int = 1) -> dict[str, int]:
    """Bytes on disk of each tier for `documents` documents of `tokens` tokens.

    Maps are counted in float16, uncompressed, and whole: what a causal model leaves empty and what compresses is
    bytes saved against this figure. Raises InputError where there is nothing to plan for.
    """
    if tokens < 1 or documents < 1:
        raise InputError(f"cannot plan for {documents} documents of {tokens} tokens: give 1 or more of each")
    maps = sum(layer.heads for layer in shape.layers) * tokens * tokens * documents * MAP_ITEMSIZE
    disk = {}
    for tier in TIERS:
        wide = sum(factor_bytes(shape, tier, layer, wide=True) for layer in shape.layers)
        disk[tier.name] = (wide + row_bytes(shape, tier)) * tokens * documents + (maps if tier.maps else 0)
    return disk
