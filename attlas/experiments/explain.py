"""How edits would be carried out: of which layers and heads, by which way, and why."""

from __future__ import annotations

from typing import Any

from attlas.engine.edit.edit import parse_edits
from attlas.engine.edit.plan import plan_edits
from attlas.engine.model.load import load_model
from attlas.engine.model.probe import layout_of
from attlas.engine.model.source import ModelSource

__all__ = ["explain_edits"]


def explain_edits(model: Any, edits: Any) -> list[dict[str, Any]]:
    """A row for each layer that is edited: kind, layer, heads, edits, way and why; ways are "output", "call", "heads",
    "rows" and "tiles".

    >>> attlas.experiments.explain_edits("demo", attlas.Edit(do="zero", layer=1, head=0))[0]["way"]
    'output'

    model: as of `attlas.capture`. edits: one or several, as `parse_edits` reads them. Runs a short probe of the model
    and no text. Raises InputError where an edit is of nothing in the model.
    """
    planned = plan_edits(parse_edits(edits), layout_of(load_model(ModelSource.of(model).model)))
    return [
        {
            "kind": one.kind, "layer": one.layer, "heads": one.union.tolist(), "edits": [str(e) for e in one.edits],
            "way": one.way, "why": one.why,
        }
        for one in planned.values()
    ]  # fmt: skip
