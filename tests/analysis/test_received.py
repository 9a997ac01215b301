"""Attention received, against sums of the weights cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attlas
from attlas import analysis
from attlas.analysis.words import sentences_of
from attlas.errors import InputError, TierError
from attlas.storage import Atlas
from tests.families import BY_NAME, build_model, documents

TEXT = "the cat sat. the dog ran off! and then? nobody knows"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return attlas.capture("demo", [TEXT], "memory://received", ids=["a"])


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "bert", "bart"])
def test_the_mean_of_the_queries_that_may_see_the_key(name: str) -> None:
    model, given = build_model(BY_NAME[name]), documents(BY_NAME[name], lengths=(23, 12))
    atlas = attlas.capture(model, given, f"memory://received-{name}", overwrite=True)
    for document in atlas:
        for kind in atlas.kinds:
            a = atlas.attention(document, kind).values.astype(np.float64)
            found = analysis.received(atlas, document, kind=kind, save=False)
            for place, layer in enumerate(found["layer"].values.tolist()):
                seen = atlas.key_intervals(document, layer, kind)
                for key in range(a.shape[3]):
                    rows = np.flatnonzero((seen.key_start.values <= key) & (key < seen.key_stop.values))
                    mean = a[place][:, rows, key].mean(axis=1)
                    np.testing.assert_allclose(found.received.values[place, :, key], mean, atol=2e-6)
                    assert found.seen.values[place, key] == len(rows)


def test_a_key_that_no_query_kept_may_see_is_nan() -> None:
    atlas = attlas.capture("demo", [TEXT], "memory://received-rows", queries=[3, 8], overwrite=True)
    found = analysis.received(atlas, save=False)
    assert found.seen.values[0].tolist() == [2] * 4 + [1] * 5 + [0] * (found.sizes["key"] - 9)
    assert np.isnan(found.received.values[..., 9:]).all()
    assert np.isfinite(found.received.values[..., :9]).all()


@pytest.mark.parametrize("by", ["word", "sentence"])
def test_words_and_sentences_receive_what_their_tokens_do(atlas: Atlas, by: str) -> None:
    found, tokens = analysis.received(atlas, by=by, save=False), analysis.received(atlas, save=False)
    assert found.received.dims == ("layer", "head", by)
    assert int(found.tokens.sum()) == tokens.sizes["key"]
    a = atlas.attention("a").values.astype(np.float64)
    for i, (first, count) in enumerate(zip(found.first_token.values, found.tokens.values, strict=True)):
        inside = a[..., first:, first : first + count].sum(axis=-1)  # from its first token on queries see some of it
        np.testing.assert_allclose(found.received.values[..., i], inside.mean(axis=-1), atol=2e-6)
        assert (found.seen.values[:, i] == a.shape[2] - first).all()
    assert found.received.max() <= 1
    if by == "sentence":
        assert [text for text in found["text"].values.tolist() if " " in text] == [
            "the cat sat.", "the dog ran off!", "and then?", "nobody knows",
        ]  # fmt: skip


def test_sentences() -> None:
    def of(*tokens: str, words: Any = None, start: Any = None, end: Any = None) -> list[int]:
        word_N = np.arange(len(tokens)) if words is None else np.array(words)
        return sentences_of(tokens, word_N, start, end).tolist()

    assert of("Hi", "!", " She", " said", ' "', "no", '."', " So") == [0, 0, 1, 1, 1, 1, 1, 2]
    assert of("3", ".", "14", " is", " pi", ".", "\n", "Next") == [0, 0, 0, 0, 0, 0, 0, 1]
    assert of("a", "\n\n", "b", "\n", " c") == [0, 0, 1, 1, 2]
    assert of("你", "好", "。", "我", "们", "！", "」", "好") == [0, 0, 0, 1, 1, 1, 1, 2]
    assert of("[CLS]", "a", ".", "b", "[SEP]", "c", words=[-1, 0, 1, 2, -1, 3]) == [-1, 0, 0, 0, -1, 1]
    start, end = np.array([0, 1, 3]), np.array([1, 2, 4])
    assert of("a", ".", "b", start=start, end=end) == [0, 0, 1]
    assert of("a", ".", "b", start=np.array([0, 1, 2]), end=np.array([1, 2, 3])) == [0, 0, 0]


def test_the_answer_is_kept(atlas: Atlas) -> None:
    first = analysis.received(atlas, layers=[0, 2])
    again = analysis.received(atlas, layers="0,2")
    assert again.attrs["reused"] == "yes"
    np.testing.assert_array_equal(first.received.values, again.received.values)
    assert first.received.attrs["units"] == "1"
    assert "over the number of queries that may see any of it" in first.received.attrs["definition"]
    assert "reused" not in analysis.received(atlas, layers=[0, 2], by="word").attrs


def test_refusals(atlas: Atlas) -> None:
    wrong: tuple[dict[str, Any], ...] = ({"by": "line"}, {"layers": 7}, {"kind": "cross"}, {"save": 2})
    for choice in wrong:
        with pytest.raises(InputError):
            analysis.received(atlas, **choice)
    model, given = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(9,))
    ids = attlas.capture(model, given, "memory://received-ids", overwrite=True)
    with pytest.raises(InputError, match="and so without words: capture its text"):
        analysis.received(ids, by="word")
    bare = attlas.capture("demo", [TEXT], "memory://received-statistics", keep="statistics", overwrite=True)
    with pytest.raises(TierError):
        analysis.received(bare)
