"""Explanations tested by taking tokens out: probabilities by hand, orders by each method's own scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.analysis.head_probe import repeated_documents
from attlas.errors import InputError
from tests.capture.test_gradients import by_autograd, likeliest
from tests.families import BY_NAME, build_model

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 21, 30, 12]


def test_probabilities_are_those_by_hand() -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME["llama"]).config).eval()
    a, gradient = by_autograd(model, IDS, likeliest)["self"]

    def p_of(ids: list[int]) -> Any:
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(0).numpy()

    own = p_of(IDS)
    token = int(own.argmax())
    scores = {"attention": a[:, :, -1].mean((0, 1)), "attention_x_gradient": (a * gradient).sum((0, 1, 2))}
    rolled, relevant = np.eye(12), np.eye(12)
    for layer in range(len(a)):
        rolled = (0.5 * a[layer].mean(0) + 0.5 * np.eye(12)) @ rolled
        relevant = relevant + np.maximum(a[layer] * gradient[layer], 0).mean(0) @ relevant
    scores |= {"rollout": rolled[-1], "chefer": relevant[-1]}
    found = experiments.faithfulness(model, [IDS], methods=list(scores), shares=[0.1, 0.5], draws=2, seed=3)
    assert found.probability.item() == pytest.approx(own[token], abs=1e-6)
    for name, score in scores.items():
        np.testing.assert_allclose(found.score.sel({"method": name}), score, rtol=1e-3, atol=1e-5)
        order = np.argsort(-score[:-1], kind="stable").tolist()
        for share, count in ((0.1, 1), (0.5, 6)):
            one = found.sel(explanation=name, share=share)
            without = [IDS[place] for place in range(12) if place not in order[:count]]
            only = [IDS[place] for place in range(12) if place not in order[count:]]
            assert one.without.item() == pytest.approx(p_of(without)[token], abs=1e-6)
            assert one.only.item() == pytest.approx(p_of(only)[token], abs=1e-6)
    of_shares = (found.probability - found.without).mean("share")
    np.testing.assert_allclose(found.comprehensiveness, of_shares, atol=1e-12)
    assert found.explanation.values.tolist() == [*scores, "random"]


def test_the_token_that_an_induction_head_copies_from_is_found() -> None:
    """Random tokens twice over: what is needed is the earlier copy of the next one, and of the last."""
    ids = [one.tolist()[:80] for one in repeated_documents(256, length=50, count=6)]
    ranks: dict[str, list[int]] = {}
    for one in ids:
        found = experiments.faithfulness("demo", [one], shares=[0.05], draws=3)
        for name in found.method.values:
            score = found.score.sel({"method": name}).values
            ranks.setdefault(str(name), []).append(int((score > score[79 - 50 + 1]).sum()))
    means = {name: float(np.median(some)) for name, some in ranks.items()}
    assert means["chefer"] <= 3
    assert means["attention_x_gradient"] <= 3
    assert means["attention"] <= 6
    drawn = experiments.faithfulness("demo", ids, shares=[0.05], draws=3)
    mean = drawn.comprehensiveness_mean
    assert mean.sel(explanation="chefer") > 2 * mean.sel(explanation="random")
    assert "random ones by" in drawn.attrs["says"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": "saliency"}, "methods is 'saliency': choose of attention"),
        ({"by": "random"}, "by is 'random'"),
        ({"by": "mask"}, "no mask token"),
        ({"shares": [2.0]}, "shares"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiments.faithfulness("demo", "a text", **given)


def test_a_text_without_tokens_to_take_out_is_refused() -> None:
    with pytest.raises(InputError, match="no two tokens before its last"):
        experiments.faithfulness("demo", [[5, 6]])
