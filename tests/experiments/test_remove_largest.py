"""Largest weights and random ones removed, beside the same done to eager weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attlas import experiments
from attlas.engine.edit import noise
from attlas.engine.model.load import load_model
from attlas.errors import InputError
from tests.engine.edit.eager import edited_eagerly

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 2, 30, 12, 3, 9, 14]
SHARE = 0.3


def removed(a: Any, value: Any) -> Any:
    """The largest by value of each row, SHARE of what it sees, of heads 1 and 2; the rest keeps the sum."""
    out = a.copy()
    for head in (1, 2):
        for row in range(a.shape[1]):
            count = int(SHARE * (row + 1) + 1e-9)
            out[head, row, np.argsort(-value[head, row, : row + 1], kind="stable")[:count]] = 0
            if out[head, row].sum() > 0:
                out[head, row] /= out[head, row].sum()
    return out


def test_measures_are_those_by_hand() -> None:
    demo: Any = load_model("demo", head=True).with_head
    places = np.arange(len(IDS))
    drawn = {
        layer: -noise.uniform(0, layer, np.arange(4), places, places).double().numpy() for layer in range(4)
    }  # fmt: skip
    changes = {
        "plain": lambda _, a: a,
        "largest": lambda _, a: removed(a, a),
        "random_count": lambda layer, a: removed(a, drawn[layer]),
    }
    logs = {}
    for name, change in changes.items():
        with edited_eagerly(demo, change), torch.no_grad():
            logs[name] = demo(torch.tensor([IDS]), use_cache=False).logits[0, :-1].double().log_softmax(1)
    found = experiments.remove_largest("demo", [IDS], shares=[SHARE], draws=1, heads="1:3")
    plain = logs["plain"]
    for name in ("largest", "random_count"):
        middle = torch.logaddexp(plain, logs[name]) - np.log(2)
        js = sum((x.exp() * (x - middle)).sum(1).mean().item() / 2 for x in (plain, logs[name]))
        assert found.js.sel(removed=name).item() == pytest.approx(js, abs=1e-5)
        assert js > 1e-3
    flipped = {name: (logs[name].argmax(1) != plain.argmax(1)).numpy() for name in changes}
    both = (flipped["largest"] & flipped["random_count"]).mean()
    alone = (flipped["largest"] & ~flipped["random_count"]).mean()
    assert found.flips.sel(flip="both").item() == pytest.approx(both)
    assert found.flips.sel(flip="largest_alone").item() == pytest.approx(alone)
    assert found.flips.sum("flip").values == pytest.approx(1)


def test_as_much_weight_in_random_order() -> None:
    found = experiments.remove_largest("demo", [IDS], shares=[0.01, 0.5], draws=2)
    assert (abs(found.js.sel(share=0.01)) < 1e-7).all()
    assert (found.js.sel(share=0.5) > 0).all()
    with pytest.raises(InputError, match="shares"):
        experiments.remove_largest("demo", [IDS], shares=[1.5])
