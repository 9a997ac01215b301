"""What a GPU that runs out of memory is asked to do with less of: first the score tile, then the query chunk.

Values; the loop that retries is the caller's. The text is never shortened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from attlas.engine.kernels.measure import TILE_BYTES

__all__ = ["Headroom", "release_memory"]

TILE_LEAST = 4 * 2**20
CHUNK_LEAST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """tile_bytes: the most that a score tile takes. chunk_tokens: the most query tokens in a forward pass,
    None where the model must take a pack whole."""

    chunk_tokens: int | None
    tile_bytes: int = TILE_BYTES

    def less(self) -> Headroom | None:
        """The next smaller sizes; None where there are none."""
        if self.tile_bytes > TILE_LEAST:
            return replace(self, tile_bytes=self.tile_bytes // 2)
        if self.chunk_tokens is not None and self.chunk_tokens > CHUNK_LEAST:
            return replace(self, chunk_tokens=max(CHUNK_LEAST, self.chunk_tokens // 2))
        return None


def release_memory() -> None:
    """Give what a failed run left in torch's cache back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
