"""Which edits a layer has, and the cheapest exact way to carry them out. Values and pure functions; no torch.

Five ways. An edit of the output changes what the layer has computed. An edit of the call changes what is computed, so
that it costs nothing more. Two heads that swap weights are attended again, by q and k of the other. All others are of
whole rows of weights, a block at a time, edited, and multiplied with the values: one edit by compiled passes ("rows",
on the CPU), several one after the other ("tiles").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.edit.edit import Edit
from attlas.engine.model.layout import LayerLayout, ModelLayout
from attlas.errors import InputError

__all__ = ["REPLACING", "LayerEdits", "plan_edits"]

Indices = NDArray[np.int64]

REPLACING = ("patch", "mean")
"""What puts values in the place of a head's output."""
COMPILED = ("knock_out", "zero", "scale", "temperature", "noise", "drop_top", "drop_random")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerEdits:
    """The edits of one layer, in order, each with its heads, ascending. way: "output", "call", "heads", "rows" or
    "tiles"; why: a line.

    layers: for each edit, the place of the layer among the layers that it is of, which its `values` are ordered by.
    """

    kind: str
    layer: int
    edits: tuple[Edit, ...]
    heads: tuple[Indices, ...]
    places: tuple[int, ...]
    way: str
    why: str

    @property
    def union(self) -> Indices:
        """All heads that are edited, and those they are swapped with."""
        others = [np.array([edit.other]) for edit in self.edits if edit.other is not None]
        return np.unique(np.concatenate([*self.heads, *others]))


def plan_edits(edits: Sequence[Edit], layout: ModelLayout) -> dict[str, LayerEdits]:
    """Module name -> its edits, of the layers that have any; raises InputError where an edit is of nothing."""
    found: dict[str, list[tuple[Edit, Indices, int]]] = {}
    calls = {call.module: call for call in layout.calls}
    for edit in edits:
        if edit.do == "mean" and edit.values is None:
            raise InputError(
                "an edit that does mean needs values, the mean output of each head: experiments.mean_outputs finds "
                "them, or experiments.run with reference="
            )
        kinds = {call.kind for call in layout.calls}
        if edit.kind is not None and edit.kind not in kinds:
            raise InputError(f"the model has no {edit.kind} attention: it has {', '.join(sorted(kinds))}")
        of_kind = [call for call in layout.calls if edit.kind in (None, call.kind)]
        labels = sorted({call.layer for call in of_kind})
        layers = labels if edit.layer is None else list(edit.layer.choose(labels, "layer"))
        for call in of_kind:
            if call.layer in layers:
                heads = _heads(edit, call)
                found.setdefault(call.module, []).append((edit, heads, layers.index(call.layer)))
    return {module: _plan(calls[module], some) for module, some in found.items()}


def _heads(edit: Edit, call: LayerLayout) -> Indices:
    have = range(call.heads)
    if edit.other is not None and edit.other not in have:
        raise InputError(f"there is no head {edit.other} to swap with: the layer has heads 0 to {call.heads - 1}")
    return np.array(have if edit.head is None else edit.head.choose(have, "head", "the layer"))


def _plan(call: LayerLayout, some: Sequence[tuple[Edit, Indices, int]]) -> LayerEdits:
    edits, heads, places = tuple(e for e, _, _ in some), tuple(h for _, h, _ in some), tuple(p for _, _, p in some)
    last = max((i for i, edit in enumerate(edits) if edit.do not in REPLACING), default=-1)
    for i, edit in enumerate(edits[: last + 1]):
        if edit.do in REPLACING and any(np.intersect1d(heads[i], later).size for later in heads[i + 1 : last + 1]):
            raise InputError(
                f"{edit.do} replaces a head's output, of which no weights can be edited any more: put it last"
            )
    way, why = _way(call.rule, edits)
    return LayerEdits(
        kind=call.kind, layer=call.layer, edits=edits, heads=heads, places=places, way=way, why=why
    )  # fmt: skip


def _way(rule: ScoreRule, edits: Sequence[Edit]) -> tuple[str, str]:
    if all(_is_of_output(edit) for edit in edits):
        return "output", "whole rows are scaled or replaced: of the head's output alone"
    if len(edits) == 1 and edits[0].do == "uniform" and rule.sink_H is None:
        return "output", "the mean of the values that a query sees, by running sums"
    plain = rule.softcap is None and rule.bias is None
    if len(edits) == 1 and edits[0].do == "temperature" and plain and (rule.sink_H is None or edits[0].query is None):
        return "call", "the queries are divided by the temperature"
    if len(edits) == 1 and edits[0].do == "swap":
        return "heads", "both heads again, by the queries and keys of the other"
    if len(edits) == 1 and edits[0].do in COMPILED:
        return "rows", "whole rows, by one compiled pass"
    return "tiles", "whole rows, edit after edit"


def _is_of_output(edit: Edit) -> bool:
    return edit.do in REPLACING or (edit.do in ("zero", "scale") and edit.key is None and edit.offset is None)
