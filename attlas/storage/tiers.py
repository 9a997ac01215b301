"""The tiers: how much an atlas keeps. What differs between them is asked of the tier, never of its name. Light."""

from __future__ import annotations

from dataclasses import dataclass

from attlas.engine.listeners.recording import OUTPUT_GRADIENT, Recording
from attlas.registry import Registry
from attlas.storage.factors import FACTORS, Factor

__all__ = ["DEFAULT_TIER", "TIERS", "Tier", "keeps"]

ROWS = ("log_sum_exp", "key_start", "key_stop")
WEIGHTS = ("q", "k", *ROWS)
"""What a weight is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """factors: names in `FACTORS`, in its order. statistics: row statistics, histograms and head products are stored.
    maps: the weights themselves are stored. gradients: so is what their gradients are made of, which a capture is asked
    for by its target and not by this name. description: what can be asked of it, in a few words.
    """

    name: str
    factors: tuple[str, ...]
    statistics: bool = False
    maps: bool = False
    gradients: bool = False
    description: str

    @property
    def kept(self) -> tuple[Factor, ...]:
        return tuple(FACTORS[name] for name in self.factors)

    @property
    def weights(self) -> bool:
        """Whether any weight can be computed."""
        return set(WEIGHTS) <= set(self.factors)

    def recording(self) -> Recording:
        """What a capture hands on for this tier."""
        return Recording(
            queries={factor.name: factor.take for factor in self.kept if factor.axis == "query" and factor.take},
            keys={factor.name: factor.take for factor in self.kept if factor.axis == "key" and factor.take},
            statistics=self.statistics,
            maps=self.maps,
        )


TIERS: Registry[Tier] = Registry(
    "tier",
    Tier(name="statistics", factors=ROWS, statistics=True, description="row statistics"),
    Tier(name="factors", factors=WEIGHTS, description="every weight, on demand"),
    Tier(name="maps", factors=WEIGHTS, maps=True, description="dense weights too"),
    Tier(
        name="gradients", factors=(*WEIGHTS, "v", OUTPUT_GRADIENT), gradients=True,
        description="every weight and its gradient",
    ),
)  # fmt: skip
DEFAULT_TIER = "factors"


def keeps() -> tuple[str, ...]:
    """What a capture may be asked to keep, by name."""
    return tuple(tier.name for tier in TIERS if not tier.gradients)
