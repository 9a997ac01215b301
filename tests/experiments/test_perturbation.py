"""Noise on attention, beside the same noise on eager weights."""

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

IDS = [list(range(5, 30)), [3, 9, 3, 9, 4, 4, 4, 8]]


def test_measures_are_those_by_hand() -> None:
    demo: Any = load_model("demo", head=True)
    found = experiments.perturbation("demo", IDS, sizes=[0.5], draws=2, seed=3, layers=1, heads="0:2")
    for number, ids in enumerate(IDS):
        tv, kl = [], []
        for seed in (3, 4):

            def shaken(layer: int, a: Any, seed: int = seed) -> Any:
                if layer != 1:
                    return a
                places = np.arange(a.shape[1])
                drawn = noise.normal(seed, 1, np.arange(2), places, places).double().numpy() * 0.5
                out = a.copy()
                out[:2] *= np.exp(drawn)
                out[:2] /= out[:2].sum(axis=2, keepdims=True)
                return out

            p, q = (predictions(demo, ids, change) for change in (lambda _, a: a, shaken))
            tv.append((p.exp() - q.exp()).abs().sum(1).mean().item() / 2)
            kl.append((p.exp() * (p - q)).sum(1).mean().item())
        document = found.isel(document=number, size=0)
        assert document.total_variation.item() == pytest.approx(np.mean(tv), abs=1e-5)
        assert document.robustness.item() == pytest.approx(1 - np.mean(tv), abs=1e-5)
        assert document.kl.item() == pytest.approx(np.mean(kl), abs=1e-5)
        assert document.kl_deviation.item() == pytest.approx(np.std(kl, ddof=1), abs=1e-5)
        assert np.mean(tv) > 1e-3


def predictions(demo: Any, ids: list[int], change: Any) -> Any:
    """Log-probabilities of all predictions that count, in float64."""
    with edited_eagerly(demo.with_head, change), torch.no_grad():
        return demo.with_head(torch.tensor([ids]), use_cache=False).logits[0, :-1].double().log_softmax(1)


def test_more_noise_moves_more() -> None:
    found = experiments.perturbation("demo", IDS, sizes=[1e-4, 0.5, 3], draws=2)
    assert found.robustness_mean[0] > 0.999
    assert (found.robustness_mean.diff("size") < 0).all()
    assert (found.robustness_low <= found.robustness_mean).all()
    on_weights = experiments.perturbation("demo", IDS, sizes=[0.05], draws=1, on="weights")
    assert 0 < on_weights.total_variation_mean.item() < 1
    assert np.isnan(on_weights.kl_deviation).all()


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(InputError, match="size"):
        experiments.perturbation("demo", IDS, sizes=[0])
    with pytest.raises(InputError, match="on"):
        experiments.perturbation("demo", IDS, on="values")
