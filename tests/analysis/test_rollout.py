"""Rollout against dense float64 products of the model's own eager attention, of the page's weights, and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import attlas
from attlas import analysis
from attlas.analysis.rollout import CrossStack, Mix, Stack
from attlas.engine.kernels.discard import Discard
from attlas.errors import InputError, TierError
from attlas.storage import Atlas
from tests.engine.kernels.operator_conformance import discarded
from tests.families import BY_NAME, build_model, documents, eager_attention

Float = NDArray[np.float64]
TEXT = "the cat sat on the mat. the cat sat on the mat."


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return attlas.capture("demo", [TEXT], "memory://rollout", ids=["a"])


def mixed(a_NN: Float, residual: float) -> Float:
    """(1 - residual) A + residual I, rows to sum 1."""
    full = (1 - residual) * a_NN + residual * np.eye(len(a_NN))
    return full / full.sum(axis=1, keepdims=True)


def product(a_LHNN: Float, residual: float) -> Float:
    found = np.eye(a_LHNN.shape[-1])
    for a_HNN in a_LHNN:
        found = mixed(a_HNN.mean(axis=0), residual) @ found
    return found


def cross_product(encoder: Float, decoder: Float, cross: Float, residual: float) -> Float:
    """Of the source's part, through one matrix a sublayer over the tokens of target and source together."""
    targets, sources = cross.shape[-2:]
    states = np.eye(targets + sources)
    states[targets:, targets:] = product(encoder, residual)
    for own_HNN, across_HNS in zip(decoder, cross, strict=True):
        step = np.eye(targets + sources)
        step[:targets, :targets] = mixed(own_HNN.mean(axis=0), residual)
        states = step @ states
        step = np.eye(targets + sources)
        rows = np.hstack([residual * np.eye(targets), (1 - residual) * across_HNS.mean(axis=0)])
        step[:targets] = rows / rows.sum(axis=1, keepdims=True)
        states = step @ states
    return states[:targets, targets:]


def weights(atlas: Atlas, document: str, kind: str) -> Float:
    """(L, H, N, M)"""
    return atlas.attention(document, kind).values.astype(np.float64)


@pytest.mark.parametrize("residual", [0.5, 0.0, 0.9])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss", "gemma3", "bert"])
def test_the_product_of_the_models_eager_attention(name: str, residual: float) -> None:
    model, given = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(23, 12))
    atlas = attlas.capture(model, given, f"memory://rollout-{name}", overwrite=True)
    for document, one in zip(atlas, given, strict=True):
        found = analysis.rollout(atlas, document, residual=residual, save=False).rollout
        eager = np.stack([a.double().numpy() for a in eager_attention(model, one)["self"]])
        np.testing.assert_allclose(found.values, product(eager, residual), atol=1e-5, rtol=0)
        exact = product(weights(atlas, document, "self"), residual)
        np.testing.assert_allclose(found.values, exact, atol=1e-6, rtol=0)
        np.testing.assert_allclose(found.values.sum(axis=1), 1, atol=2e-6)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoder_and_cross(name: str) -> None:
    model, given = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(17, 9))
    atlas = attlas.capture(model, given, f"memory://rollout-{name}", overwrite=True)
    for document in atlas:
        maps = {kind: weights(atlas, document, kind) for kind in ("encoder", "decoder", "cross")}
        for kind in ("encoder", "decoder"):
            found = analysis.rollout(atlas, document, kind=kind, residual=0.3, save=False).rollout.values
            np.testing.assert_allclose(found, product(maps[kind], 0.3), atol=1e-6, rtol=0)
        found = analysis.rollout(atlas, document, kind="cross", residual=0.3, save=False).rollout.values
        expected = cross_product(**maps, residual=0.3)
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
        assert found.shape[0] != found.shape[1]
        assert (found.sum(axis=1) < 1).all()
        column = analysis.rollout(atlas, document, kind="cross", keys=[2, -1], residual=0.3, save=False).rollout
        np.testing.assert_allclose(column.values, expected[:, [2, -1]], atol=1e-6, rtol=0)
        row = analysis.rollout(atlas, document, kind="cross", queries=[3], residual=0.3, save=False).rollout
        np.testing.assert_allclose(row.values, expected[[3]], atol=1e-6, rtol=0)


def test_of_a_real_encoder_in_512_tokens(minilm: Any) -> None:
    text = "Rivers carry what the hills lose, and the sea keeps all of it. " * 34
    atlas = attlas.capture(str(minilm), [text], "memory://rollout-minilm", overwrite=True)
    found = analysis.rollout(atlas, save=False).rollout
    assert found.shape[0] > 480
    np.testing.assert_allclose(found.values, product(weights(atlas, "doc-0", "self"), 0.5), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_of_a_real_decoder_in_512_tokens_through_30_layers(smollm2: Any) -> None:
    text = "Rivers carry what the hills lose, and the sea keeps all of it. " * 32
    atlas = attlas.capture(str(smollm2), [text], "memory://rollout-smollm2", overwrite=True)
    found = analysis.rollout(atlas, save=False).rollout
    assert found.shape[0] > 440
    np.testing.assert_allclose(found.values, product(weights(atlas, "doc-0", "self"), 0.5), atol=1e-6, rtol=0)


@dataclass(frozen=True)
class Given:
    """An operator of a matrix, to work out by hand what rollout does with three tokens."""

    a_NM: Float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a_NM.shape

    def apply(self, x: Any, head: str, discard: Any) -> Any:
        return self.a_NM @ x

    def apply_transposed(self, x: Any, head: str, discard: Any) -> Any:
        return self.a_NM.T @ x


def mix(a_NM: Any) -> Mix:
    operator: Any = Given(np.array(a_NM))
    return Mix(operator=operator, residual=0.5, discard=None, sums_N=operator.a_NM.sum(axis=1))


LOWER = [[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.2, 0.6]]
UPPER = [[1, 0, 0], [0, 1, 0], [0, 0.8, 0.2]]
# lower, half of it residual: [1 0 0] [.25 .75 0] [.1 .1 .8]; upper: [1 0 0] [0 1 0] [0 .4 .6]
# row 2 of upper @ lower: .4 [.25 .75 0] + .6 [.1 .1 .8] = [.16 .36 .48]
BY_HAND: list[list[float]] = [[1, 0, 0], [0.25, 0.75, 0], [0.16, 0.36, 0.48]]


def test_three_tokens_by_hand() -> None:
    stack = Stack(mixes=(mix(LOWER), mix(UPPER)))
    np.testing.assert_allclose(stack.rows([2]), [BY_HAND[2]], rtol=1e-15)
    np.testing.assert_allclose(stack.rows([0, 1, 2]), BY_HAND, rtol=1e-15)
    np.testing.assert_allclose(stack.columns([1]), np.array([[0.0], [0.75], [0.36]]), rtol=1e-15)


def test_a_sink_by_hand() -> None:
    """A row that gives 0.4 to a sink: 0.3 of the other key and 0.5 of the residual, to sum 1: 3/8 and 5/8."""
    np.testing.assert_allclose(Stack(mixes=(mix([[1, 0], [0.6, 0]]),)).rows([1]), [[0.375, 0.625]], rtol=1e-15)


def test_cross_attention_by_hand() -> None:
    """Of one target token: half of what it takes from the source, which the encoder has mixed to [.75 .25]."""
    encoder = Stack(mixes=(mix([[0.5, 0.5], [0, 1]]),))
    stack = CrossStack(encoder=encoder, decoder=(mix([[1]]), mix([[1]])), cross=(mix([[1, 0]]), mix([[0, 1]])))
    # lower cross: .5 [.75 .25]; upper: half of that, and .5 [0 1] -> [.1875 .5625], and .25 stays with the target
    np.testing.assert_allclose(stack.rows([0]), [[0.1875, 0.5625]], rtol=1e-15)
    np.testing.assert_allclose(stack.columns([0, 1]), [[0.1875, 0.5625]], rtol=1e-15)


@pytest.mark.parametrize("discard", [{"discard": 0.6}, {"threshold": 0.04}, {"discard": 0.3, "threshold": 0.03}])
def test_the_smallest_weights_are_dropped_and_never_the_largest(atlas: Atlas, discard: dict[str, Any]) -> None:
    a_LNN = weights(atlas, "a", "self").mean(axis=1)
    seen = np.tril(np.ones(a_LNN.shape[1:], dtype=bool))
    rule = Discard(share=discard.get("discard", 0.0), threshold=discard.get("threshold", 0.0))
    kept = np.stack([discarded(a_NN, seen, rule) for a_NN in a_LNN])[:, None]
    found = analysis.rollout(atlas, save=False, **discard).rollout.values
    np.testing.assert_allclose(found, product(kept, 0.5), atol=1e-5, rtol=0)
    assert np.abs(found - product(weights(atlas, "a", "self"), 0.5)).max() > 1e-3
    row = analysis.rollout(atlas, queries=-1, save=False, **discard).rollout.values
    column = analysis.rollout(atlas, keys=0, save=False, **discard).rollout.values
    np.testing.assert_allclose(row[0], found[-1], atol=1e-6)
    np.testing.assert_allclose(column[:, 0], found[:, 0], atol=1e-6)


def test_rows_columns_and_layers_are_those_of_the_whole(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = product(weights(atlas, "a", "self")[1:3], 0.5)
    some: dict[str, Any] = {"layers": "1:3", "save": False}
    found = analysis.rollout(atlas, queries="5,9,last:2", **some).rollout
    np.testing.assert_allclose(found.values, whole[found["query"].values], atol=1e-6)
    assert found["query"].values.tolist() == [5, 9, len(whole) - 2, len(whole) - 1]
    tokens = atlas.attention("a")["query_token"].values
    assert found["query_token"].values.tolist() == tokens[found["query"].values].tolist()
    found = analysis.rollout(atlas, keys=[0, 3], **some).rollout
    np.testing.assert_allclose(found.values, whole[:, [0, 3]], atol=1e-6)
    found = analysis.rollout(atlas, queries=[7, 8, 9], keys=[0, 3], **some).rollout
    np.testing.assert_allclose(found.values, whole[7:10][:, [0, 3]], atol=1e-6)
    monkeypatch.setitem(analysis.rollout.__globals__, "COLUMN_BYTES", 8 * 2 * len(whole) * 7)
    np.testing.assert_allclose(analysis.rollout(atlas, **some).rollout.values, whole, atol=1e-6)


def test_the_answer_is_kept_and_says_what_it_is(atlas: Atlas) -> None:
    first = analysis.rollout(atlas, queries=-1)
    again = analysis.rollout(atlas, queries=[first["query"].item()])
    assert again.attrs["reused"] == "yes"
    np.testing.assert_array_equal(first.rollout.values, again.rollout.values)
    others: tuple[dict[str, Any], ...] = ({"residual": 0.4}, {"layers": "0:2"}, {"discard": 0.1}, {"threshold": 0.1})
    for other in others:
        assert "reused" not in analysis.rollout(atlas, queries=-1, **other).attrs
    assert first.attrs["source"] == "Abnar and Zuidema 2020"
    assert first.rollout.attrs["units"] == "1"
    assert [first.attrs["residual"], first.attrs["layers"]] == [0.5, [0, 1, 2, 3]]


def test_what_cannot_be_rolled_out_is_refused(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"residual": 1.5}, {"residual": "x"}, {"discard": 1.0}, {"discard": -0.1}, {"threshold": 2}, {"layers": [0, 2]},
        {"layers": 9}, {"queries": 5_000}, {"keys": "x"}, {"kind": "cross"}, {"save": "perhaps"},
    )  # fmt: skip
    for given in wrong:
        with pytest.raises(InputError):
            analysis.rollout(atlas, **given)
    some = attlas.capture("demo", [TEXT], "memory://rollout-rows", queries="last:4", overwrite=True)
    with pytest.raises(InputError, match=r"has 4 query rows of \d+: capture it without queries"):
        analysis.rollout(some)
    bare = attlas.capture("demo", [TEXT], "memory://rollout-statistics", keep="statistics", overwrite=True)
    with pytest.raises(TierError):
        analysis.rollout(bare)
    monkeypatch.setitem(analysis.rollout.__globals__, "MOST_CELLS", 100)
    with pytest.raises(InputError, match=r"takes .* GB: give up to \d+ queries"):
        analysis.rollout(atlas)
