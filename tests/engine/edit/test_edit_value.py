"""Edits as values: what they take, JSON and back, and one line for what has no meaning."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import attlas
from attlas.engine.edit.edit import Edit, parse_edits
from attlas.errors import InputError

GOOD: list[dict[str, Any]] = [
    {"do": "knock_out", "layer": "1:3", "head": [0, 2], "query": "last:4", "key": {"tokens": ["Paris", " the "]}},
    {"do": "zero", "kind": "cross", "offset": [-1, 0]},
    {"do": "scale", "factor": 2, "key": "special"},
    {"do": "temperature", "temperature": 0.5},
    {"do": "noise", "size": 0.1, "on": "weights", "seed": 4},
    {"do": "drop_top", "share": 0.1, "renormalise": "none"},
    {"do": "drop_random", "top": 3},
    {"do": "swap", "head": 1, "other": 0},
    {"do": "set", "values": np.ones((1, 1, 1, 2)).tolist()},
]


@pytest.mark.parametrize("given", GOOD, ids=lambda given: given["do"])
def test_json_and_back(given: dict[str, Any]) -> None:
    edit = Edit(**given)
    again = Edit.from_json(edit.to_json())
    assert (again, hash(again), str(again)) == (edit, hash(edit), str(edit))
    assert parse_edits(json.dumps([given]) if given["do"] != "set" else [given]) == (edit,)
    assert "\n" not in str(edit)


def test_defaults_are_told() -> None:
    edit = attlas.Edit(do="noise", size=1)
    assert (edit.on, edit.seed) == ("scores", 0)
    assert str(attlas.Edit(do="knock_out", layer=1, head=0, query="10:", key="first")) == (
        "knock_out renormalise=rest of layer 1, head 0, query 10:, key first"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"do": "dance"}, "do is 'dance': choose"),
        ({"do": "scale"}, "an edit that does scale needs factor$"),
        ({"do": "zero", "factor": 1}, "an edit that does zero takes no factor: it takes no parameter$"),
        ({"do": "uniform", "key": 3}, "of whole rows: leave key and offset out$"),
        ({"do": "temperature", "temperature": 0}, "temperature is 0: give a number above 0$"),
        ({"do": "drop_top"}, r"needs one of top=1 and share=0\.1$"),
        ({"do": "drop_top", "top": 1, "share": 0.5}, r"needs one of top=1 and share=0\.1$"),
        ({"do": "swap", "other": 1}, "swap is of one head: give head=2, other=5$"),
        ({"do": "set", "values": [1, 2]}, r"values' shape is \(2,\): give finite numbers"),
        ({"do": "zero", "query": {"words": ["a"]}}, r"query is \{'words': \['a'\]\}: give positions"),
        ({"do": "zero", "offset": 0.5}, "offset is 0.5: give whole numbers"),
        ({"do": "zero", "layers": 3}, "an edit has no 'layers': it has"),
        ({"layer": 3}, "an edit says what it does: give do, one of knock_out"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_edits([given])


@pytest.mark.parametrize("given", ["{", "3", "zero", 3, None, [3]])
def test_what_is_no_edit_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="give"):
        parse_edits(given)
