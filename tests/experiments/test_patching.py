"""Attention of one run put into another, beside the same put in by hand: eager weights, and outputs before o_proj."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.engine.model.load import load_model
from attlas.errors import InputError
from tests.engine.edit.eager import edited_eagerly
from tests.families import BY_NAME, build_model

CLEAN, OTHER, ANSWER = list(range(3, 23)), [7, *range(4, 22), 9], (5, 11)


def difference_of(logits: Any) -> float:
    return (logits[0, -1, ANSWER[0]] - logits[0, -1, ANSWER[1]]).item()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "gpt2"])
def test_weights_are_those_of_the_other_run(family: str) -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[family]).config).eval()
    with torch.no_grad():
        with edited_eagerly(model, lambda _, a: a) as clean:
            own = difference_of(model(torch.tensor([CLEAN]), use_cache=False).logits)

        def patched(layer: int, a: Any) -> Any:
            out = a.copy()
            out[2] = clean[layer][2] if layer == 1 else a[2]
            return out

        with edited_eagerly(model, patched):
            expected = difference_of(model(torch.tensor([OTHER]), use_cache=False).logits)
        model.set_attn_implementation("sdpa" if family == "llama" else "eager")
        corrupted = difference_of(model(torch.tensor([OTHER]), use_cache=False).logits)
    for chunk_tokens in (1024, 7):
        found = experiments.patching(
            model, [CLEAN], [OTHER], [ANSWER], what="weights", chunk_tokens=chunk_tokens, layers="0:2"
        )
        assert found.logit_difference.item() == pytest.approx(own, abs=1e-4)
        assert found.logit_difference_other.item() == pytest.approx(corrupted, abs=1e-4)
        assert found.logit_difference_patched.values[0, 1, 2] == pytest.approx(expected, abs=1e-4)
        share = (found.logit_difference_patched - corrupted) / (own - corrupted)
        np.testing.assert_allclose(found.recovered, share, rtol=2e-2, atol=1e-3)


def test_outputs_are_those_of_the_other_run() -> None:
    whole: Any = load_model("demo", head=True).with_head
    kept: dict[int, Any] = {}

    def keep(layer: int) -> Any:
        return lambda _, given: kept.setdefault(layer, given[0].clone()) is None or None

    def put(layer: int, heads: list[int], rows: slice) -> Any:
        def hook(_: Any, given: Any) -> Any:
            x = given[0].clone().unflatten(2, (4, -1))
            x[:, rows, heads] = kept[layer].unflatten(2, (4, -1))[:, rows, heads]
            return (x.flatten(2),)

        return hook

    def hooked(ids: list[int], hooks: dict[int, Any]) -> float:
        handles = [
            whole.model.layers[at].self_attn.o_proj.register_forward_pre_hook(hook) for at, hook in hooks.items()
        ]
        try:
            with torch.no_grad():
                return difference_of(whole(torch.tensor([ids])).logits)
        finally:
            for handle in handles:
                handle.remove()

    hooked(CLEAN, {layer: keep(layer) for layer in range(4)})
    by_head = experiments.patching("demo", [CLEAN], [OTHER], [ANSWER]).logit_difference_patched.values[0]
    by_layer = experiments.patching("demo", [CLEAN], [OTHER], [ANSWER], each="layer", heads="0,3")
    by_place = experiments.patching("demo", [CLEAN], [OTHER], [ANSWER], each="position", chunk_tokens=6)
    for layer in range(4):
        for head in range(4):
            assert by_head[layer, head] == pytest.approx(
                hooked(OTHER, {layer: put(layer, [head], slice(None))}), abs=1e-4
            )
        expected = hooked(OTHER, {layer: put(layer, [0, 3], slice(None))})
        assert by_layer.logit_difference_patched.values[0, layer] == pytest.approx(expected, abs=1e-4)
        for place in (0, 11, 19):
            expected = hooked(OTHER, {layer: put(layer, [0, 1, 2, 3], slice(place, place + 1))})
            assert by_place.logit_difference_patched.values[0, layer, place] == pytest.approx(expected, abs=1e-4)
    assert abs(by_head - by_layer.logit_difference_other.item()).max() > 0.1


def test_what_cannot_be_patched_is_refused() -> None:
    with pytest.raises(InputError, match="has 20 tokens, and its other text 19"):
        experiments.patching("demo", [CLEAN], [OTHER[1:]], [ANSWER])
    with pytest.raises(InputError, match="there are 2 other texts of 1 documents"):
        experiments.patching("demo", [CLEAN], [OTHER, OTHER], [ANSWER])
    with pytest.raises(InputError, match="there is nothing to recover"):
        experiments.patching("demo", [CLEAN], [CLEAN], [ANSWER], layers=0)
    with pytest.raises(InputError, match="positions are compared over all"):
        experiments.patching("demo", [CLEAN, CLEAN[1:]], [OTHER, OTHER[1:]], [ANSWER] * 2, each="position")
    with pytest.raises(InputError, match="give answers"):
        experiments.patching("demo", [CLEAN], [OTHER], None)
