"""The score rule: how one layer turns q . k into a score. A value; kernels apply it, storage records it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["PositionBias", "ScoreRule"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PositionBias:
    """An additive bias that depends on the head and on the offset `key position - query position` alone.

    table_HR: (head, offset) float32, in nats, for the offsets `first_offset, first_offset + 1, ...`.
    saturates_left, saturates_right: whether every offset beyond that end of the table takes the end's value.
    """

    table_HR: FloatArray
    first_offset: int
    saturates_left: bool
    saturates_right: bool

    @property
    def last_offset(self) -> int:
        return self.first_offset + self.table_HR.shape[1] - 1

    def check_reach(self, lowest: int, highest: int) -> None:
        """Raise InputError where an offset in [lowest, highest] has no known bias."""
        if (lowest < self.first_offset and not self.saturates_left) or (
            highest > self.last_offset and not self.saturates_right
        ):
            raise InputError(
                f"position bias is known for offsets {self.first_offset} to {self.last_offset}, "
                f"and the document asks for {lowest} to {highest}: shorten it with --max-tokens"
            )

    def same(self, other: PositionBias | None) -> bool:
        return (
            other is not None
            and self.first_offset == other.first_offset
            and self.saturates_left == other.saturates_left
            and self.saturates_right == other.saturates_right
            and np.array_equal(self.table_HR, other.table_HR)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreRule:
    """score = softcap(scaling * q . k) + bias[head, key - query]; then a softmax over the key interval and the sink.

    scaling: factor on q . k.
    softcap: None, or c in `c * tanh(x / c)`, applied before the bias.
    bias: None or a position bias.
    sink_H: None, or one extra logit a head that takes part in the softmax and is dropped after it.
    """

    scaling: float
    softcap: float | None = None
    bias: PositionBias | None = None
    sink_H: FloatArray | None = None

    def for_heads(self, heads: NDArray[np.int64]) -> ScoreRule:
        """The rule of some of the heads, by their place on the head axis."""
        return replace(
            self,
            bias=None if self.bias is None else replace(self.bias, table_HR=self.bias.table_HR[heads]),
            sink_H=None if self.sink_H is None else self.sink_H[heads],
        )

    def same(self, other: ScoreRule) -> bool:
        """Equality by value, arrays included."""
        sinks = (
            self.sink_H is other.sink_H
            if self.sink_H is None or other.sink_H is None
            else np.array_equal(self.sink_H, other.sink_H)
        )
        biases = other.bias is None if self.bias is None else self.bias.same(other.bias)
        return self.scaling == other.scaling and self.softcap == other.softcap and sinks and biases
