"""The factors an atlas may keep: what each is, how it lies in the store, and how it is taken from a layer. Light.

Schema, writer, completeness, verification, disk and memory estimates loop over the factors of a tier: a factor is one
entry here, and its name in the tiers that keep it (`attlas.storage.tiers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from attlas.engine.listeners.recording import OUTPUT_GRADIENT, Take
from attlas.registry import Registry

__all__ = ["FACTORS", "FEATURES", "VALUE_FEATURES", "Factor", "LayerSizes", "Width"]


class LayerSizes(Protocol):
    """What the size of a factor depends on. `LayerShape`, `LayerLayout` and `KindLayout` tell it."""

    @property
    def features(self) -> int: ...
    @property
    def value_features(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """The last dimension of a factor that has a vector a row, and its length in a layer."""

    dim: str
    size: Callable[[LayerSizes], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One array a kind: (layer[, heads], token[, width]).

    axis: the token axis its rows are on. heads: the dimension of heads, None where all share a row. width: None: one
    number a row. dtype: None: the one the model computed in. range: what every value must be: finite, or the place of
    a key in its document, its end included. take: from a layer's attention, see `Take`; None: the backward pass has it.
    """

    name: str
    axis: Literal["query", "key"]
    heads: Literal["head", "kv_head"] | None
    width: Width | None
    dtype: str | None
    fill: Any
    long_name: str
    units: str
    take: Take | None
    range: Literal["finite", "key"] = "finite"

    def row_bytes(self, *, heads: int, kv_heads: int, sizes: LayerSizes, itemsize: int) -> int:
        """Bytes of one token's row in one layer. itemsize: of the dtype the model computes in."""
        count = {"head": heads, "kv_head": kv_heads, None: 1}[self.heads]
        width = 1 if self.width is None else self.width.size(sizes)
        return count * width * (itemsize if self.dtype is None else np.dtype(self.dtype).itemsize)


FEATURES = Width(dim="feature", size=lambda sizes: sizes.features)
VALUE_FEATURES = Width(dim="value_feature", size=lambda sizes: sizes.value_features)

FACTORS: Registry[Factor] = Registry(
    "factor",
    Factor(
        name="q", axis="query", heads="head", width=FEATURES, dtype=None, fill=0,
        long_name="queries after rotary and normalisation", units="1", take=lambda rows: rows.rows_of(rows.call.q_HND),
    ),
    Factor(
        name="k", axis="key", heads="kv_head", width=FEATURES, dtype=None, fill=0,
        long_name="keys after rotary and normalisation", units="1", take=lambda rows: rows.keys_of(rows.call.k_GMD),
    ),
    Factor(
        name="log_sum_exp", axis="query", heads="head", width=None, dtype="float32", fill=np.nan,
        long_name="log-sum-exp of the row's scores, sink logit included", units="nat",
        take=lambda rows: rows.attended.rows.lse_HN,
    ),
    Factor(
        name="key_start", axis="query", heads=None, width=None, dtype="int32", fill=-1, range="key",
        long_name="first key that the query sees, counted from the document's first", units="token",
        take=lambda rows: rows.start_R,
    ),
    Factor(
        name="key_stop", axis="query", heads=None, width=None, dtype="int32", fill=-1, range="key",
        long_name="key after the last it sees, counted from the document's first", units="token",
        take=lambda rows: rows.stop_R,
    ),
    Factor(
        name="v", axis="key", heads="kv_head", width=VALUE_FEATURES, dtype=None, fill=0,
        long_name="values", units="1", take=lambda rows: rows.keys_of(rows.call.v_GMV),
    ),
    Factor(
        name=OUTPUT_GRADIENT, axis="query", heads="head", width=VALUE_FEATURES, dtype=None, fill=0,
        long_name="gradient of the target with respect to the head's output", units="target", take=None,
    ),
)  # fmt: skip
"""In the order in which an atlas has them."""
