"""What a model's attention looks like: learnt once by the probe, before anything is written. Values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from attlas.engine.rules import ScoreRule
from attlas.errors import UnsupportedModelError

__all__ = ["KINDS", "KindLayout", "LayerLayout", "ModelLayout"]

KINDS: dict[str, tuple[str, str]] = {
    "self": ("text", "text"),
    "encoder": ("source", "source"),
    "decoder": ("target", "target"),
    "cross": ("target", "source"),
}
"""kind -> (query axis, key axis)."""


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
    """All layers of one kind, ready to be stored as rectangular arrays.

    Feature sizes may differ between layers: the store is as wide as the widest, the rest is zeros, which no dot
    product sees. Head counts may not differ.
    """

    kind: str
    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    features: int
    dtype: str
    rules: tuple[ScoreRule, ...]

    @property
    def query_axis(self) -> str:
        return KINDS[self.kind][0]

    @property
    def key_axis(self) -> str:
        return KINDS[self.kind][1]

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
        heads=head_count,
        kv_heads=kv_heads,
        features=max(call.features for call in calls),
        dtype=dtype,
        rules=tuple(call.rule for call in calls),
    )
