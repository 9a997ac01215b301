"""Another text in the place of one, against both texts' eager maps and logits compared in float64 by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.errors import InputError
from tests.engine.edit.eager import edited_eagerly
from tests.families import BY_NAME, build_model

OWN = list(range(3, 27))
REPLACED = [*OWN[:6], 30, *OWN[7:]]
LONGER = [*OWN[:6], 30, 31, 29, *OWN[7:]]
SHORTER = [*OWN[:6], *OWN[9:]]


def run_by_hand(whole: Any, ids: list[int]) -> tuple[Any, Any]:
    """Maps (layer, head, query, key), and log-probabilities (T, W)."""
    with edited_eagerly(whole, lambda _, a: a) as maps, torch.no_grad():
        p = whole(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(1).numpy()
    length = len(ids)
    return np.stack([one[..., :length] for one in maps]), p


def moved_by_hand(own: Any, other: Any, keys: list[tuple[int, int]], rows: list[tuple[int, int]]) -> Any:
    """(layer, head): with a column for each pair of keys and one for all others, a learned sink among them."""
    total = 0.0
    for n, m in rows:
        a = np.stack([own[:, :, n, one] for one, _ in keys], axis=-1)
        b = np.stack([other[:, :, m, two] for _, two in keys], axis=-1)
        elsewhere = np.abs((1 - a.sum(-1)) - (1 - b.sum(-1)))  # a learned sink too
        total = total + (np.abs(a - b).sum(-1) + elsewhere) / 2
    return total / len(rows)


def pairs_of(other: list[int]) -> list[tuple[int, int]]:
    """Places of OWN's tokens in another: all are different."""
    return [(place, other.index(one)) for place, one in enumerate(OWN) if one in other]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "gpt2", "deepseek_v3"])
@pytest.mark.parametrize("other", [REPLACED, LONGER, SHORTER], ids=["replaced", "longer", "shorter"])
def test_predictions_and_weights_are_those_by_hand(family: str, other: list[int]) -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[family]).config).eval()
    (own_maps, p), (other_maps, q) = run_by_hand(model, OWN), run_by_hand(model, other)
    keys = pairs_of(other)
    rows = [(n, m) for n, m in keys if n >= 6]
    kl = [(np.exp(p[n]) * (p[n] - q[m])).sum() for n, m in rows]
    moved = moved_by_hand(own_maps, other_maps, keys, rows)
    model.set_attn_implementation("eager" if family in ("gemma2", "gpt_oss") else "sdpa")
    for chunk_tokens in (1024, 7):
        found = experiments.counterfactual(model, [OWN], [other], answers=[(5, 11)], chunk_tokens=chunk_tokens)
        assert found.kl.item() == pytest.approx(np.mean(kl), abs=1e-5)
        assert found.kl_last.item() == pytest.approx(kl[-1], abs=1e-5)
        variation = [(np.abs(np.exp(p[n]) - np.exp(q[m]))).sum() / 2 for n, m in rows]
        assert found.total_variation.item() == pytest.approx(np.mean(variation), abs=1e-5)
        same = np.mean([p[n].argmax() == q[m].argmax() for n, m in rows])
        assert found.agreement.item() == pytest.approx(same)
        assert found.logit_difference.item() == pytest.approx(p[-1, 5] - p[-1, 11], abs=1e-4)
        assert found.logit_difference_other.item() == pytest.approx(q[-1, 5] - q[-1, 11], abs=1e-4)
        assert (found.compared.item(), found.aligned.item()) == (len(rows), len(keys))
        np.testing.assert_allclose(found.variation[0], moved, atol=1e-5)
    assert found.variation.max() > 1e-3


def test_texts_that_end_with_other_tokens_are_compared_there() -> None:
    found = experiments.counterfactual("demo", [[5, 6, 7]], [[5, 6, 9]])
    assert (found.compared.item(), found.aligned.item()) == (1, 3)
    assert found.kl.item() == pytest.approx(found.kl_last.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ([5, 6, 7], [5, 6, 7], "has the same tokens as its other text"),
        ([5, 6, 7], [5, 6, 7, 8], "the same tokens up to where one ends as its other text"),
    ],
)
def test_texts_that_do_not_differ_in_time_are_refused(own: list[int], other: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiments.counterfactual("demo", [own], [other])


def test_only_chosen_predictions_count() -> None:
    found = experiments.counterfactual("demo", [[5, 6, 7, 8, 9]], [[5, 3, 7, 8, 9]], predicted="last:1")
    assert found.compared.item() == 2  # behind the token before the last, and behind the last
