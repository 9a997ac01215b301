"""Relevance from factors and gradients, against dense arithmetic on autograd's own gradients."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import attlas
from attlas.analysis import relevance
from attlas.errors import InputError, TierError
from tests.capture.test_gradients import by_autograd, likeliest, probe
from tests.families import BY_NAME, build_model, documents


def captured(name: str) -> tuple[attlas.Atlas, Any, Any]:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[name]).config).eval()
    (ids,) = documents(BY_NAME[name])[:1]
    atlas = attlas.capture(model, [ids], f"memory://relevance-{name}", gradients="next_token", overwrite=True)
    a, gradient = by_autograd(model, ids, likeliest)["self"]
    return atlas, a, gradient


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "gpt2", "deepseek_v3"])
def test_equal_to_dense_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("attlas.analysis.relevance"), "STEP", 5)
    atlas, a, gradient = captured(name)
    product = a * gradient
    found = relevance(atlas, save=False)
    scale = np.abs(product.sum(2)).max()
    np.testing.assert_allclose(found.relevance, product.sum(axis=2), atol=1e-5 * scale)
    np.testing.assert_allclose(found.head_importance, product.sum(axis=(2, 3)), atol=3e-5 * scale)
    dense = np.eye(a.shape[-1])
    for layer in range(len(a)):
        dense = dense + np.maximum(product[layer], 0).mean(axis=0) @ dense
    for queries in (None, [-1, 7]):
        rows = relevance(atlas, method="chefer", queries=queries, save=False).relevance
        expected = dense[[-1]] if queries is None else dense[[7, -1]]
        np.testing.assert_allclose(rows.sortby("query"), expected, atol=1e-5 * np.abs(dense).max())


def test_an_encoder() -> None:
    model = build_model(BY_NAME["bert"])
    (ids,) = documents(BY_NAME["bert"])[:1]
    atlas = attlas.capture(model, [ids], "memory://relevance-bert", gradients=probe, overwrite=True)
    a, gradient = by_autograd(model, ids, probe)["self"]
    dense = np.eye(a.shape[-1])
    for layer in range(len(a)):
        dense = dense + np.maximum(a * gradient, 0)[layer].mean(axis=0) @ dense
    rows = relevance(atlas, method="chefer", queries=0, save=False).relevance
    np.testing.assert_allclose(rows, dense[[0]], atol=1e-5 * np.abs(dense).max())


def test_values_are_weighed_by_their_length() -> None:
    atlas, a, _ = captured("llama")
    root = atlas.root
    v = torch.from_numpy(np.asarray(root["self/v"])).double().numpy()  # (layer, kv head, token, value feature)
    heads = a.shape[1]
    norm = np.linalg.norm(v, axis=3).repeat(heads // v.shape[1], axis=1)[..., : a.shape[-1]]
    found = relevance(atlas, method="value_norm", save=False)
    np.testing.assert_allclose(found.relevance, a.sum(axis=2) * norm, rtol=1e-5)


def test_what_the_answer_says_of_itself() -> None:
    atlas, *_ = captured("llama")
    found = relevance(atlas, method="chefer")
    assert found.attrs["target"] == '{"name": "next_token"}'
    assert found.attrs["shows"].startswith("positive contributions")
    assert "Chefer et al. 2021" in found.attrs["source"]
    again = relevance(atlas, method="chefer")
    np.testing.assert_array_equal(found.relevance, again.relevance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "saliency"}, "method is 'saliency'"),
        ({"queries": 3}, "queries are of chefer"),
        ({"method": "chefer", "queries": 900}, "there is no"),
        ({"layers": 9}, "there is no"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], message: str) -> None:
    atlas, *_ = captured("llama")
    with pytest.raises(InputError, match=message):
        relevance(atlas, **options)


def test_chosen_rows_are_refused_of_every_kind() -> None:
    model, (document, *_) = build_model(BY_NAME["bart"]), documents(BY_NAME["bart"])
    some: dict[str, Any] = {"gradients": probe, "queries": "last:2", "overwrite": True}
    atlas = attlas.capture(model, [document], "memory://relevance-chosen", **some)
    for kind in atlas.kinds:
        with pytest.raises(InputError, match="has 2 chosen ones: capture it without queries"):
            relevance(atlas, kind=kind)


def test_an_atlas_without_gradients_says_so() -> None:
    atlas = attlas.capture("demo", "a text", "memory://no-gradients", overwrite=True)
    with pytest.raises(TierError, match="captured without gradients"):
        relevance(atlas)
