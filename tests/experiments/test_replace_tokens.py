"""Each token left out or replaced in turn, against eager runs of the changed texts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import attlas
from attlas import experiments
from attlas.errors import InputError
from attlas.progress import Progress
from tests.experiments.test_counterfactual import run_by_hand
from tests.families import BY_NAME, build_model

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 21, 30, 12]


def by_hand(model: Any, changed: list[int], place: int) -> tuple[float, float, Any]:
    """kl_last, the mean kl behind the place, and how much of the last row moved (layer, head)."""
    (maps, p), (other, q) = run_by_hand(model, IDS), run_by_hand(model, changed)
    shift = len(changed) - len(IDS)
    kl = [(np.exp(p[n]) * (p[n] - q[n + shift])).sum() for n in range(place + 1, len(IDS))]
    last = other[:, :, -1]
    if shift:
        last = np.insert(last, place, 0, axis=2)
    return kl[-1], float(np.mean(kl)), np.abs(last - maps[:, :, -1]).sum(-1) / 2


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_each_token_is_as_by_hand(family: str) -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[family]).config).eval()
    gone = [by_hand(model, IDS[:place] + IDS[place + 1 :], place) for place in range(11)]
    there = [by_hand(model, [*IDS[:place], 7, *IDS[place + 1 :]], place) for place in range(11)]
    model.set_attn_implementation("sdpa" if family == "llama" else "eager")
    for expected, given in ((gone, {"by": "delete"}), (there, {"by": "token", "token": 7})):
        for chunk_tokens in (1024, 5):
            found = experiments.replace_tokens(model, [IDS], places=None, chunk_tokens=chunk_tokens, **given)
            assert (np.diff(found.kl_last) <= 0).all()
            found = found.sortby("position")
            np.testing.assert_array_equal(found.position, range(11))
            np.testing.assert_allclose(found.kl_last, [one[0] for one in expected], atol=1e-5)
            np.testing.assert_allclose(found.kl, [one[1] for one in expected], atol=1e-5)
            by_layer = np.stack([one[2].mean(axis=1) for one in expected])
            np.testing.assert_allclose(found.variation_by_layer, by_layer, atol=1e-5)
            np.testing.assert_allclose(found.variation, by_layer.mean(axis=1), atol=1e-5)
            assert np.isnan(found.kl_deviation).all()


def test_draws_are_of_the_seed_and_never_the_token_itself(tmp_path: Path) -> None:
    seen: list[Progress] = []
    given: dict[str, Any] = {"by": "random", "draws": 3, "places": "2:9", "answers": [("a", "b"), ("c", "d")]}
    texts = ["one two three, one", "the cat sat on the mat"]
    one = experiments.replace_tokens("demo", texts, progress=seen.append, keep=tmp_path, seed=4, **given)
    again = experiments.replace_tokens("demo", texts, keep=tmp_path, seed=4, **given)
    other = experiments.replace_tokens("demo", texts, seed=5, **given)
    assert one.identical(again)
    assert not np.array_equal(one.kl_last, other.kl_last)
    assert one.sizes["rank"] == 14
    assert (one.kl_last > 0).all()
    assert (one.kl_deviation > 0).all()
    assert (seen[-1].done, seen[-1].total) == (2, 2)
    assert set(one.document.values) == {"doc-0", "doc-1"}
    assert np.abs(one.logit_difference_change).max() > 0.01
    row = one.isel(rank=0)
    text = texts[int(str(row.document.item())[-1])]
    assert row.token.item() == text[row.position.item() - 1]  # behind the one that begins a text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "token"}, "give both, or neither"),
        ({"token": "a"}, "give both, or neither"),
        ({"by": "token", "token": "two"}, "token, 'two', is 3 tokens, and is to be one"),
        ({"by": "mask"}, "demo has no mask token and no unknown token"),
        ({"places": "last:1"}, "no token of document 'doc-0' can be replaced"),
        ({"by": "token", "token": "a", "places": {"tokens": ["a"]}}, "no token of document 'doc-0' can be replaced"),
    ],
)
def test_what_cannot_be_done_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attlas.experiments.replace_tokens("demo", "a text", **given)
