"""Experiments on models that tell classes of documents apart, against their own eager attention edited by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import attlas
from attlas import experiments
from attlas.errors import InputError
from tests.engine.edit.eager import edited_eagerly
from tests.families import BY_NAME, build_model

TEXTS = [[3, 9, 14, 9, 4, 17, 4, 8, 2, 21, 30, 12], [7, 5, 30, 12, 9]]


def classifier(name: str) -> Any:
    config = build_model(BY_NAME[name]).config
    config.num_labels, config.pad_token_id = 3, 0
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if part.startswith(("classifier", "score")):
                parameter.normal_(0, 1)
    return model


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2"])
def test_predictions_are_those_by_hand(name: str, tmp_path: Path) -> None:
    model = classifier(name)
    expected = []
    for ids in TEXTS:

        def zero(layer: int, a: Any) -> Any:
            out = a.copy()
            out[[0, 2]] *= layer != 1
            return out

        runs = []
        for change in (zero, lambda _, a: a):
            with edited_eagerly(model, change), torch.no_grad():
                runs.append(model(torch.tensor([ids])).logits[0].double())
        q, p = (one.log_softmax(0) for one in runs)
        expected.append(((p.exp() * (p - q)).sum().item(), (runs[0][1] - runs[0][2]).item()))
    model.set_attn_implementation("sdpa")
    model.save_pretrained(tmp_path / "model")
    edit = attlas.Edit(do="zero", layer=1, head=[0, 2])
    for given in (model, tmp_path / "model"):
        found = experiments.run(given, TEXTS, edit, answers=[(1, 2), (1, 2)], chunk_tokens=4)
        np.testing.assert_allclose(found.kl, [one[0] for one in expected], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.kl_last, found.kl)
        np.testing.assert_allclose(found.logit_difference, [one[1] for one in expected], atol=1e-4)
        assert "loss" not in found
        assert found.attrs["predicted"] == "the class of each document"
        assert found.tokens.values.tolist() == [1, 1]
    assert found.kl.min() > 1e-6


def test_noise_and_removed_weights_move_the_class() -> None:
    model = classifier("bert")
    shaken = experiments.perturbation(model, TEXTS, sizes=[0.1, 3.0], draws=2)
    assert shaken.robustness_mean[0] > shaken.robustness_mean[1]
    assert "loss_change" not in shaken
    removed = experiments.remove_largest(model, TEXTS, shares=[0.5], draws=2)
    assert removed.js.sel(removed="largest").max() > 0
    np.testing.assert_allclose(removed.flips.sum("flip"), 1)


def test_what_is_of_next_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="tells classes of documents apart, and this experiment is of next tokens"):
        experiments.ablate_heads(classifier("bert"), TEXTS)
    with pytest.raises(InputError, match="predicts the class of a document: leave it out"):
        experiments.run(classifier("bert"), TEXTS, [], predicted="2:")
    with pytest.raises(InputError, match="at most 2"):
        experiments.run(classifier("bert"), TEXTS, [], answers=[(1, 3), (1, 2)])
    masked = AutoModelForMaskedLM.from_config(build_model(BY_NAME["bert"]).config)
    with pytest.raises(InputError, match="does not predict the next token"):
        experiments.run(masked, TEXTS, [])
