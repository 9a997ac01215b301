"""Adversarial weights put into eager attention: they are far from the model's, and the prediction stays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.engine.model.load import load_model
from tests.engine.edit.eager import edited_eagerly
from tests.families import BY_NAME, build_model

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 2, 30, 12]


@pytest.mark.parametrize("family", ["demo", "gpt_oss"])
def test_found_weights_hold_in_eager_attention(family: str) -> None:
    if family == "demo":
        given: Any = "demo"
        whole: Any = load_model("demo", head=True).with_head
    else:
        given = whole = AutoModelForCausalLM.from_config(build_model(BY_NAME[family]).config).eval()
    found = experiments.adversarial(given, [IDS], limit=0.02, steps=60, layers="0:2")
    with edited_eagerly(whole, lambda _, a: a) as own, torch.no_grad():
        p = whole(torch.tensor([IDS]), use_cache=False).logits[0, -1].double().softmax(0)
    for layer in range(2):
        np.testing.assert_allclose(found.weights[layer], own[layer][:, -1], atol=1e-5)

    def put(layer: int, a: Any) -> Any:
        out = a.copy()
        if layer < 2:
            out[:, -1] = found.found_weights.values[layer]
        return out

    with edited_eagerly(whole, put), torch.no_grad():
        q = whole(torch.tensor([IDS]), use_cache=False).logits[0, -1].double().softmax(0)
    moved = (p - q).abs().sum().item() / 2
    assert found.total_variation.item() == pytest.approx(moved, abs=1e-4)
    assert moved <= 0.02 + 1e-4
    distance = [
        [jensenshannon(found.weights[at, head], found.found_weights[at, head]) ** 2 for head in range(4)]
        for at in range(2)
    ]
    np.testing.assert_allclose(found.weights_js[0], distance, atol=1e-4)
    assert (0.1 if family == "demo" else 0.005) < found.weights_js.mean() < math.log(2)


def test_the_same_seed_finds_the_same() -> None:
    one, other = (experiments.adversarial("demo", [IDS], steps=5, layers=1, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.weights_js, other.weights_js)
