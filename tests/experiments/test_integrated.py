"""Gradients integrated over scaled attention, beside the same by autograd on a model whose layer is scaled by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.engine.model.load import load_model
from attlas.errors import InputError
from tests.families import BY_NAME, build_model

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 21, 30, 12]
STEPS = 6


def by_hand(model: Any, layer: int, token: int) -> tuple[Any, float]:
    """(head, key) in float64: eager weights, times the mean gradient of the scaled weights; and the target's change."""
    model = model.double()
    attention = model.model.layers[layer].self_attn
    total: Any = 0.0
    values = {}
    for alpha in [*(np.arange(STEPS) + 0.5) / STEPS, 0.0, 1.0]:
        hook = attention.o_proj.register_forward_pre_hook(lambda _, given, a=alpha: (given[0] * a,))
        out = model(torch.tensor([IDS]), output_attentions=True, use_cache=False)
        value = out.logits[0, -1].log_softmax(0)[token]
        values[alpha] = value.item()
        if 0 < alpha < 1:  # the gradient of the scaled weight is that of the weight, over alpha
            (gradient,) = torch.autograd.grad(value, [out.attentions[layer]])
            total = total + (out.attentions[layer] * gradient / alpha)[0].detach().numpy() / STEPS
        hook.remove()
    model.float()
    return total.sum(axis=1), values[1.0] - values[0.0]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_equal_to_autograd_on_a_scaled_layer(name: str) -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[name]).config).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        token = int(model(torch.tensor([IDS])).logits[0, -1].argmax())
    found = experiments.integrated(model, IDS, target={"token": token}, steps=STEPS)
    for layer in (0, 1):
        expected, change = by_hand(model, layer, token)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.relevance[layer], expected, atol=1e-4 * scale)
        assert found.change[layer].item() == pytest.approx(change, abs=1e-4)
        error = abs(expected.sum() - change) / abs(change)
        assert found.completeness_error[layer].item() == pytest.approx(error, abs=1e-2)


def test_the_likeliest_token_is_one_all_along_the_path() -> None:
    text = "one two, one two"
    plain = experiments.integrated("demo", text, layers=1, steps=8)
    with torch.no_grad():
        demo = load_model("demo", head=True)
        assert demo.tokenizer is not None
        assert demo.with_head is not None
        token = int(demo.with_head(**demo.tokenizer(text, return_tensors="pt")).logits[0, -1].argmax())
    named = experiments.integrated("demo", text, target={"token": token}, layers=1, steps=8)
    np.testing.assert_array_equal(plain.relevance, named.relevance)
    np.testing.assert_array_equal(plain.change, named.change)


def test_more_steps_add_up_better() -> None:
    few, many = (experiments.integrated("demo", "one two, one two, one", layers=[1, 2], steps=n) for n in (2, 40))
    assert (many.completeness_error < 0.01).all()
    assert few.completeness_error.max() > many.completeness_error.max()
    np.testing.assert_allclose(many.head_importance.sum("head"), many.change, rtol=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": lambda output: output.logits.sum()}, "integrated is of a loss or of tokens"),
        ({"target": "losses"}, "gradients is 'losses'"),
        ({"steps": 0}, "steps is 0"),
        ({"target": {"token": 5, "position": 900}}, "position is 900, and document 'doc-0' has"),
        ({"predicted": "2:"}, "integrated is of its target: leave it out"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiments.integrated("demo", "a text", **given)
