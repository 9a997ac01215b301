"""What of a model and of its documents is kept: an option value of `capture`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from attlas.engine.passage.selection import Selection, parse_selection
from attlas.parse import parse_count, parse_flag, parse_seed

__all__ = ["Rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """layers, heads, queries: what is kept of each; None for all. seed: of queries drawn at random. max_tokens: longer
    documents are cut there. extrapolate: documents may be longer than the model's trained positions."""

    layers: Selection | None = None
    heads: Selection | None = None
    queries: Selection | None = None
    seed: int = 0
    max_tokens: int | None = None
    extrapolate: bool = False

    @classmethod
    def of(
        cls,
        *,
        layers: Any = None,
        heads: Any = None,
        queries: Any = None,
        seed: Any = 0,
        max_tokens: Any = None,
        extrapolate: Any = False,
    ) -> Self:
        """Read each as given; raises InputError."""
        return cls(
            layers=None if layers is None else parse_selection(layers, "layers", random=False),
            heads=None if heads is None else parse_selection(heads, "heads", random=False),
            queries=None if queries is None else parse_selection(queries, "queries"),
            seed=parse_seed(seed),
            max_tokens=None if max_tokens is None else parse_count(max_tokens, "max_tokens"),
            extrapolate=parse_flag(extrapolate, "extrapolate"),
        )

    def record(self) -> dict[str, Any]:
        """What an atlas records of it; packs of another record may not be added."""
        return {
            "layers": None if self.layers is None else self.layers.spec,
            "heads": None if self.heads is None else self.heads.spec,
            "queries": None if self.queries is None else self.queries.spec,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "extrapolate": self.extrapolate,
        }
