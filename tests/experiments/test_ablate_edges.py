"""Edges cut layer by layer, beside the same edit run whole, and beside eager weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attlas
from attlas import experiments
from attlas.engine.model.load import load_model
from attlas.errors import InputError
from tests.engine.edit.eager import edited_eagerly

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 2, 30, 12, 3, 9, 14]


def test_each_layer_and_all_together_are_as_by_hand() -> None:
    demo: Any = load_model("demo", head=True).with_head
    found = experiments.ablate_edges("demo", [IDS], "10:", "0:3", answers=[(9, 4)])

    def logits(layers: set[int]) -> Any:
        def cut(layer: int, a: Any) -> Any:
            out = a.copy()
            if layer in layers:
                out[:, 10:, :3] = 0
                out /= out.sum(axis=2, keepdims=True)
            return out

        with edited_eagerly(demo, cut), torch.no_grad():
            return demo(torch.tensor([IDS]), use_cache=False).logits[0].double()

    plain = logits(set()).log_softmax(1)[:-1]
    for layers, kl, difference in [
        *(({at}, found.kl[0, at], found.logit_difference[0, at]) for at in range(4)),
        (set(range(4)), found.kl_together, found.logit_difference_together),
    ]:
        cut = logits(layers)
        q = cut.log_softmax(1)[:-1]
        assert kl.item() == pytest.approx((plain.exp() * (plain - q)).sum(1).mean().item(), abs=1e-5)
        assert difference.item() == pytest.approx((cut[-1, 9] - cut[-1, 4]).item(), abs=1e-4)
    assert found.kl.max() > 1e-3


def test_windows_and_heads() -> None:
    wide = experiments.ablate_edges("demo", [IDS], "10:", "0:3", window=3, layers="1:4")
    expected = [
        experiments.run("demo", [IDS], attlas.Edit(
            do="knock_out", layer=layers, query="10:", key="0:3", renormalise="scores"
        )).kl.item()
        for layers in ([1, 2], [1, 2, 3], [2, 3])
    ]  # fmt: skip
    np.testing.assert_allclose(wide.kl[0], expected, atol=1e-6)
    heads = experiments.ablate_edges("demo", [IDS], "10:", "0:3", each="head", layers=2, heads="1,3")
    one = experiments.run(
        "demo", [IDS], attlas.Edit(do="knock_out", layer=2, head=3, query="10:", key="0:3", renormalise="scores")
    )
    assert heads.loss_change.values[0, 0, 1] == pytest.approx(one.loss_change.item(), abs=1e-6)
    assert heads.loss_change.dims == ("document", "layer", "head")


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(InputError, match="give queries, keys, or both"):
        experiments.ablate_edges("demo", [IDS], None, None)
    with pytest.raises(InputError, match="a window is of layers"):
        experiments.ablate_edges("demo", [IDS], 1, 0, each="head", window=2)
