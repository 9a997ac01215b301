"""Weights under dropout, beside the same runs kept dense in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.attention.interface import attending
from attlas.engine.kernels.measure import Attended
from attlas.errors import InputError
from tests.families import BY_NAME, build_model

IDS = [3, 9, 14, 9, 4, 17, 4, 8, 2, 2, 30, 12, 3, 9, 14]


class Dense(Listener):
    """Whole maps in float64, of every call."""

    def __init__(self) -> None:
        self.maps: list[Any] = []

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        k = call.k_GMD.repeat_interleave(len(call.q_HND) // len(call.k_GMD), 0).double()
        s = (call.q_HND.double() @ k.transpose(1, 2)) * call.rule.scaling
        seen = torch.ones(s.shape[1:]).tril().bool()
        self.maps.append(s.masked_fill(~seen, -torch.inf).softmax(2).numpy())
        return attended


def test_sums_are_those_of_a_stack_of_maps() -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME["gpt2"]).config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    draws = []
    for draw in range(4):
        torch.manual_seed(7 + draw)
        dense = Dense()
        with attending(model.base_model, dense, train=True):
            model.base_model(torch.tensor([IDS]), use_cache=False)
        draws.append(np.stack(dense.maps))
    stack = np.stack(draws)  # (draw, layer, head, query, key)
    found = experiments.consistency(model, [IDS], draws=4, seed=7)
    seen = np.tril(np.ones(stack.shape[-2:], dtype=bool))
    sd, mean = stack.std(axis=0, ddof=1), stack.mean(axis=0)
    np.testing.assert_allclose(found.deviation[0], sd[:, :, seen].mean(axis=2), atol=1e-6)
    np.testing.assert_allclose(found.cv[0], (sd.sum(axis=3) / mean.sum(axis=3)).mean(axis=2), atol=1e-5)
    for layer, head in ((0, 0), (1, 2)):
        expected = np.corrcoef(stack[:, layer, head][:, seen])
        np.testing.assert_allclose(found.correlations[0, layer, head], expected, atol=1e-5)
        pairs = expected[np.triu_indices(4, 1)]
        assert found.correlation[0, layer, head].item() == pytest.approx(pairs.mean(), abs=1e-5)
    assert found.cv.max() > 0.05
    few = experiments.consistency(model, [IDS], draws=4, seed=7, memory="1 kB")
    np.testing.assert_allclose(few.correlations, found.correlations, atol=1e-12)
    assert not model.training


def test_a_rate_of_the_user_and_none() -> None:
    with pytest.raises(InputError, match="has no dropout, and every run of it is the same: give rate"):
        experiments.consistency("demo", [IDS])
    given = AutoModelForCausalLM.from_config(build_model(BY_NAME["llama"]).config).eval()
    found = experiments.consistency(given, [IDS], draws=3, rate=0.3)
    assert found.deviation.max() > 1e-4
    assert given.model.layers[0].self_attn.attention_dropout == 0.0
    still = AutoModelForCausalLM.from_config(build_model(BY_NAME["gpt2"]).config).eval()
    for module in still.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1e-12
    none = experiments.consistency(still, [IDS], draws=3)
    assert none.deviation.max() < 1e-7
    np.testing.assert_allclose(none.correlation, 1, atol=1e-6)
