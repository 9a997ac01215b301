"""Which layers and heads an experiment goes through, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from attlas.engine.edit.edit import Edit
from attlas.engine.model.layout import LayerLayout
from attlas.engine.passage.selection import parse_selection
from attlas.errors import InputError
from attlas.experiments.asked import Asked

__all__ = ["HeadChoice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChoice:
    """The model's indices, ascending; every layer has all the heads."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]

    @classmethod
    def of(cls, asked: Asked, layers: Any, heads: Any) -> Self:
        """layers, heads: as `parse_selection` reads them; None for all. Raises InputError."""
        layer_choice = None if layers is None else parse_selection(layers, "layers", random=False)
        head_choice = None if heads is None else parse_selection(heads, "heads", random=False)
        labels = [call.layer for call in asked.layout.calls]
        chosen = labels if layer_choice is None else list(layer_choice.choose(labels, "layer"))
        counts = {call.heads for call in asked.layout.calls if call.layer in chosen}
        if len(counts) > 1:
            raise InputError("layers differ in their number of heads: choose those of one number with layers")
        have = range(counts.pop())
        return cls(layers=tuple(chosen), heads=tuple(have if head_choice is None else head_choice.choose(have, "head")))

    def part(self, edit: Edit, layer: int, head: int) -> Edit:
        """What an edit of all of them is in one head."""
        values = edit.values
        if values is not None:
            at = self.layers.index(layer), self.heads.index(head)
            values = values[at[0] : at[0] + 1, at[1] : at[1] + 1]
        return Edit(do=edit.do, layer=layer, head=head, values=values)

    def calls(self, asked: Asked) -> list[LayerLayout]:
        return [call for call in asked.layout.calls if call.layer in self.layers]
