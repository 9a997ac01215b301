"""The row statistics: one registry of names, definitions, units and functions, from which everything else derives.

A statistic is a function of one query's weights `a` on its key interval. Its `reference` computes it from a tile of
whole rows; a `slot` says where the fast kernels compute it in their one pass, and without one they call the reference.
To add a statistic, add an entry here (and, if it must be fast, a slot to the passes of the kernels): the store, the
page, `verify`, plans and tables hold it from then on.

Suffixes: H heads, Q rows and K keys of a tile, M all keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from attlas.registry import Registry

if TYPE_CHECKING:
    import torch

    from attlas.engine.kernels.row_tile import RowTile

__all__ = ["STATISTICS", "RowStatistic", "Slot", "statistic_names"]


class Slot(IntEnum):
    """What the fast kernels find of each row in one pass over its weights; the order is that of the Triton kernel."""

    ENTROPY = 0
    LARGEST = 1
    LARGEST_KEY = 2
    ON_FIRST = 3
    ON_SELF = 4
    ON_PREVIOUS = 5
    DISTANCE = 6
    SQUARED = 7
    ON_SPECIAL = 8
    ON_COPIES = 9
    BEHIND_COPIES = 10
    SINK = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStatistic:
    """One row statistic.

    reference: whole rows of a tile -> (H, Q). slot: where the fast kernels compute it. same_axis: it relates a query to
    keys on its own token axis, which cross-attention lacks. sink_only: it has a meaning only beside a sink logit.
    averaged: its mean over rows tells something of a head, under the same name.
    """

    name: str
    definition: str
    units: str
    reference: Callable[[RowTile], torch.Tensor]
    slot: Slot | None = None
    same_axis: bool = False
    sink_only: bool = False
    averaged: bool = True


def _entropy(tile: RowTile) -> torch.Tensor:
    # -a ln a = a (lse - s); the weight 0 of an unseen key has s = -inf, and counts nothing
    return (tile.a_HQK * (tile.lse_HQ[:, :, None] - tile.s_HQK)).where(tile.a_HQK > 0, 0.0).sum(2)


def _argmax_key(tile: RowTile) -> torch.Tensor:
    return (tile.a_HQK.argmax(2) + tile.key_K[0] - tile.first_Q).to(tile.a_HQK.dtype)


def _previous_weight(tile: RowTile) -> torch.Tensor:
    return tile.at(tile.own_Q - 1).where(tile.own_Q > tile.first_Q, 0.0)


def _mean_distance(tile: RowTile) -> torch.Tensor:
    return tile.on((tile.own_Q[:, None] - tile.key_K).abs().to(tile.a_HQK.dtype))


def _duplicate_weight(tile: RowTile) -> torch.Tensor:
    return tile.on((tile.ids_Q[:, None] == tile.ids_K()) & (tile.key_K < tile.own_Q[:, None]))


def _induction_weight(tile: RowTile) -> torch.Tensor:
    earlier_QK = (tile.position_K > 0) & (tile.key_K <= tile.own_Q[:, None])
    return tile.on((tile.ids_Q[:, None] == tile.ids_K(back=1)) & earlier_QK)


STATISTICS: Registry[RowStatistic] = Registry(
    "row statistic",
    RowStatistic(
        name="entropy", definition="-sum(a ln a) over the key interval", units="nat", reference=_entropy,
        slot=Slot.ENTROPY,
    ),
    RowStatistic(
        name="max_weight", definition="max(a)", units="1", reference=lambda tile: tile.a_HQK.amax(2),
        slot=Slot.LARGEST, averaged=False,
    ),
    RowStatistic(
        name="argmax_key", definition="position of the key with the largest weight", units="token",
        reference=_argmax_key, slot=Slot.LARGEST_KEY, averaged=False,
    ),
    RowStatistic(
        name="first_weight", definition="weight on the document's first token", units="1",
        reference=lambda tile: tile.at(tile.first_Q), slot=Slot.ON_FIRST,
    ),
    RowStatistic(
        name="self_weight", definition="weight on the query's own position", units="1",
        reference=lambda tile: tile.at(tile.own_Q), slot=Slot.ON_SELF, same_axis=True,
    ),
    RowStatistic(
        name="previous_weight", definition="weight on the token before the query", units="1",
        reference=_previous_weight, slot=Slot.ON_PREVIOUS, same_axis=True,
    ),
    RowStatistic(
        name="mean_distance", definition="sum(a |i - j|)", units="token", reference=_mean_distance,
        slot=Slot.DISTANCE, same_axis=True,
    ),
    RowStatistic(
        name="squared_sum", definition="sum(a^2)", units="1", reference=lambda tile: tile.a_HQK.square().sum(2),
        slot=Slot.SQUARED, averaged=False,
    ),
    RowStatistic(
        name="special_weight", definition="weight on special tokens", units="1",
        reference=lambda tile: tile.on(tile.special_K), slot=Slot.ON_SPECIAL,
    ),
    RowStatistic(
        name="duplicate_weight", definition="weight on earlier copies of the query's token", units="1",
        reference=_duplicate_weight, slot=Slot.ON_COPIES, same_axis=True, averaged=False,
    ),
    RowStatistic(
        name="induction_weight", definition="weight on tokens that follow an earlier copy of the query's token",
        units="1", reference=_induction_weight, slot=Slot.BEHIND_COPIES, same_axis=True, averaged=False,
    ),
    RowStatistic(
        name="sink_residual", definition="1 - sum(a), the share of the sink logit", units="1",
        reference=lambda tile: 1 - tile.a_HQK.sum(2), slot=Slot.SINK, sink_only=True, averaged=False,
    ),
)  # fmt: skip
"""In the order in which stores, pages and tables list them."""


def statistic_names(*, same_axis: bool, sinks: bool) -> tuple[str, ...]:
    """The statistics that have a meaning for a kind of attention.

    same_axis: queries and keys lie on one token axis. sinks: some layer has a sink logit.
    """
    return tuple(one.name for one in STATISTICS if (same_axis or not one.same_axis) and (sinks or not one.sink_only))
