"""What a model's attention looks like: learnt once by the probe, before anything is written. Values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.passage.documents import ROW_AXES
from attlas.engine.passage.selection import Selection, describe_indices
from attlas.errors import InputError, UnsupportedModelError

__all__ = [
    "FACTOR_TOKENS",
    "KINDS",
    "KindLayout",
    "LayerLayout",
    "ModelLayout",
    "factor_span",
    "keep_heads",
    "keep_layers",
    "layer_span",
]

KINDS: dict[str, tuple[str, str]] = {
    "self": ("text", "text"),
    "encoder": ("source", "source"),
    "decoder": ("target", "target"),
    "cross": ("target", "source"),
}
"""kind -> (query axis, key axis)."""

FACTOR_TOKENS = 4_096
"""Most tokens in a Zarr shard of q or k; larger blocks are multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerLayout:
    """One attention layer as the probe saw it. `dtype` is that of q and k ("float32", "bfloat16", "float16").

    causal: no row of the probe saw a later key; such a layer can be run in query chunks.
    """

    kind: str
    layer: int
    module: str
    heads: int
    kv_heads: int
    features: int
    value_features: int
    dtype: str
    rule: ScoreRule
    causal: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindLayout:
    """The kept layers and heads of one kind, ready to be stored as rectangular arrays.

    layers, heads, kv_heads: the model's own indices. group: query heads to a kv head in the model. chosen_rows: only
    some query rows are kept, which then have an axis of their own. layer_span: how many of `layers` one worker writes
    together, in a store shard of what is small; each worker's layers begin at a multiple of it; None for all.
    factor_span: how many lie in a store shard of q or k, a divisor of the layer span.

    Feature sizes may differ between layers: the store is as wide as the widest, the rest is zeros, which no dot product
    sees. Head counts may not differ.
    """

    kind: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    group: int
    features: int
    value_features: int
    dtype: str
    rules: tuple[ScoreRule, ...]
    chosen_rows: bool = False
    layer_span: int | None = None
    factor_span: int = 1

    @property
    def span(self) -> int:
        """Layers in a store shard of what is small."""
        return self.layer_span or len(self.layers)

    @property
    def query_axis(self) -> str:
        """The axis on which query rows lie."""
        axis = KINDS[self.kind][0]
        return ROW_AXES[axis] if self.chosen_rows else axis

    @property
    def key_axis(self) -> str:
        return KINDS[self.kind][1]

    @property
    def same_axis(self) -> bool:
        """Whether queries and keys are tokens of one text."""
        return KINDS[self.kind][0] == KINDS[self.kind][1]

    @property
    def has_sinks(self) -> bool:
        return any(rule.sink_H is not None for rule in self.rules)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelLayout:
    """Every attention layer in the order in which one forward pass calls them.

    position_offset: what the model adds to 0, 1, 2, ... when it numbers positions itself; None where it takes no
    position ids, so that documents can be neither packed nor chunked.
    """

    calls: tuple[LayerLayout, ...]
    position_offset: int | None

    @property
    def axes(self) -> tuple[str, ...]:
        return ("text",) if self.calls[0].kind == "self" else ("source", "target")

    @property
    def chunkable(self) -> bool:
        return self.position_offset is not None and all(call.causal and call.kind == "self" for call in self.calls)

    @property
    def packable(self) -> bool:
        return self.position_offset is not None and all(call.kind == "self" for call in self.calls)

    def kinds(self) -> tuple[KindLayout, ...]:
        """The layers grouped by kind, in model order; raises UnsupportedModelError where head counts differ."""
        grouped: dict[str, list[LayerLayout]] = {}
        for call in self.calls:
            grouped.setdefault(call.kind, []).append(call)
        return tuple(_kind_layout(kind, calls) for kind, calls in grouped.items())


def keep_layers(kinds: tuple[KindLayout, ...], layers: Selection) -> tuple[KindLayout, ...]:
    """The kinds with only the chosen layers.

    An encoder-decoder numbers the layers of each kind anew: a layer is kept in every kind that has it. Raises
    InputError where no kind has it.
    """
    parts = {kind.kind: layers.parts_of(kind.layers) for kind in kinds}
    for part in next(iter(parts.values())):
        if not any(chosen[part] for chosen in parts.values()):
            have = "; ".join(f"{kind.kind} {describe_indices(kind.layers)}" for kind in kinds)
            raise InputError(f"there is no layer {part}: the model has {have}")
    chosen = {kind: set[int]().union(*of_kind.values()) for kind, of_kind in parts.items()}
    kept = []
    for kind in kinds:
        places = [i for i, layer in enumerate(kind.layers) if layer in chosen[kind.kind]]
        if places:
            found = tuple(kind.layers[i] for i in places), tuple(kind.rules[i] for i in places)
            kept.append(replace(kind, layers=found[0], rules=found[1]))
    return tuple(kept)


def layer_span(kind: KindLayout, owners: Sequence[int]) -> int:
    """Layers that share a store shard of what is small: the largest span on whose multiples every worker's begin.

    owners: the worker of each of the kind's layers, in order.
    """
    begins = [i for i in range(1, len(owners)) if owners[i] != owners[i - 1]]
    return gcd(*begins) if begins else len(kind.layers)


def factor_span(span: int, most: int) -> int:
    """Layers that share a store shard of q or k: as many as divide the layer span, and at most `most`."""
    return max(size for size in range(1, span + 1) if span % size == 0 and size <= max(1, most))


def keep_heads(kinds: tuple[KindLayout, ...], heads: Selection) -> tuple[KindLayout, ...]:
    """The kinds with only the chosen heads, and the kv heads these need; raises InputError."""
    kept = []
    for kind in kinds:
        found = heads.choose(kind.heads, "head")
        places = np.array([kind.heads.index(head) for head in found])
        kept.append(
            replace(
                kind,
                heads=found,
                kv_heads=tuple(sorted({head // kind.group for head in found})),
                rules=tuple(rule.for_heads(places) for rule in kind.rules),
            )
        )
    return tuple(kept)


def _kind_layout(kind: str, calls: list[LayerLayout]) -> KindLayout:
    calls = sorted(calls, key=lambda call: call.layer)
    heads = {(call.heads, call.kv_heads) for call in calls}
    dtypes = {call.dtype for call in calls}
    if len(heads) > 1 or len(dtypes) > 1:
        raise UnsupportedModelError(
            f"{kind} layers differ in head counts {sorted(heads)} or dtypes {sorted(dtypes)}; "
            "one atlas holds layers of one shape: capture groups of equal layers with --layers"
        )
    (head_count, kv_heads), (dtype,) = heads.pop(), dtypes
    return KindLayout(
        kind=kind,
        layers=tuple(call.layer for call in calls),
        heads=tuple(range(head_count)),
        kv_heads=tuple(range(kv_heads)),
        group=head_count // kv_heads,
        features=max(call.features for call in calls),
        value_features=max(call.value_features for call in calls),
        dtype=dtype,
        rules=tuple(call.rule for call in calls),
    )
