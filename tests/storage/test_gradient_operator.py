"""Gradients as linear maps, against products with the page's own gradients, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attlas
from attlas.errors import InputError, TierError
from attlas.storage import gradient_operator
from tests.capture.test_gradients import probe
from tests.families import BY_NAME, build_model, documents

NAMES = ("attention_gradient", "attention_x_gradient", "score_gradient")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss", "bert", "deepseek_v3", "t5"])
def test_equal_to_dense_products(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_operator, "COLUMN_BYTES", 1)
    model, (document, *_) = build_model(BY_NAME[family]), documents(BY_NAME[family])
    atlas = attlas.capture(model, [document], f"memory://map-{family}", gradients=probe, overwrite=True)
    page, draw = atlas["doc-0"], np.random.default_rng(0)
    for kind in atlas.kinds:
        dense = page[name if kind == "self" else f"{kind}_{name}"].values[-1].astype(np.float64)
        gradient = atlas.operator("doc-0", atlas.layers(kind)[-1], kind).gradient(name)
        heads, queries, keys = dense.shape
        x, y = draw.normal(size=(keys, 3)), draw.normal(size=(queries, 3))
        scale = np.abs(dense).max() * 10
        np.testing.assert_allclose(gradient.apply(x), dense @ x, atol=1e-6 * scale)
        np.testing.assert_allclose(gradient.apply_transposed(y), dense.transpose(0, 2, 1) @ y, atol=1e-6 * scale)
        np.testing.assert_allclose(gradient.apply(x[:, 0], "mean"), dense.mean(0) @ x[:, 0], atol=1e-6 * scale)
        np.testing.assert_allclose(gradient.apply_transposed(y, 1), dense[1].T @ y, atol=1e-6 * scale)
        own = draw.normal(size=(heads, keys, 2))
        np.testing.assert_allclose(gradient.apply(own), dense @ own, atol=1e-6 * scale)


def test_what_does_not_fit_is_refused() -> None:
    graded = attlas.capture("demo", "a text", "memory://refused", gradients="loss", overwrite=True)
    operator = graded.operator("doc-0", 0)
    with pytest.raises(InputError, match="name is 'attention'"):
        operator.gradient("attention")
    given: Any = np.ones(3)
    with pytest.raises(InputError, match=r"x is of shape \(3,\)"):
        operator.gradient("score_gradient").apply(given)
    plain = attlas.capture("demo", "a text", "memory://plain", overwrite=True)
    with pytest.raises(TierError, match="captured without gradients"):
        plain.operator("doc-0", 0).gradient("score_gradient")
