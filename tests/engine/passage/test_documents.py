"""Documents from text and ids, and packs as values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.engine.model.load import LoadedModel, load_model
from attlas.engine.passage.documents import plan_packs
from attlas.engine.passage.tokenize import make_documents
from attlas.errors import InputError
from tests.families import BY_NAME, build_model


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model("demo")


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    pack_tokens=st.integers(1, 500),
    block=st.sampled_from([1, 16, 64]),
)
def test_packs_hold_every_document_once_and_share_no_block(lengths: list[int], pack_tokens: int, block: int) -> None:
    packs = plan_packs([{"text": n} for n in lengths], pack_tokens=pack_tokens, block=block)
    assert [i for pack in packs for i in pack.documents] == list(range(len(lengths)))
    blocks: set[int] = set()
    for pack in packs:
        start, stop = pack.token_start["text"], pack.token_stop["text"]
        assert start % block == 0
        assert stop - start == sum(lengths[i] for i in pack.documents)
        assert stop - start <= pack_tokens or len(pack.documents) == 1
        mine = set(range(start // block, -(-stop // block)))
        assert not blocks & mine
        blocks |= mine
        ends = [s + lengths[i] for s, i in zip(pack.document_start["text"], pack.documents, strict=True)]
        assert [start, *ends[:-1]] == list(pack.document_start["text"])


def test_text_spans_and_special_tokens(demo: LoadedModel) -> None:
    (document,) = make_documents("héllo\n", demo)
    tokens = document.tokens["text"]
    assert tokens.ids.tolist() == [256, *"héllo\n".encode()]
    assert tokens.special.tolist() == [True] + [False] * 7
    assert tokens.char_start.tolist() == [-1, 0, 1, 1, 2, 3, 4, 5]
    assert tokens.text[1] == "h"
    assert tokens.text[-1] == "\n"


def test_ids_are_taken_as_they_are(demo: LoadedModel) -> None:
    mixed: list[Any] = [[1, 2, 3], np.array([4, 5])]
    one, two = make_documents(mixed, demo, ids=["x", "y"])
    assert (one.id, one.tokens["text"].ids.tolist()) == ("x", [1, 2, 3])
    assert two.tokens["text"].ids.dtype == np.int32
    (single,) = make_documents([7, 8, 9], demo)
    assert single.tokens["text"].ids.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "nothing to capture"),
        ([""], {}, "'doc-0' is empty"),
        (["a", "b"], {"ids": ["x"]}, "1 ids for 2 documents"),
        (["a", "b"], {"ids": ["x", "x"]}, "two documents have the id 'x'"),
        ([[1, 999]], {}, "token ids from 1 to 999"),
        ([[0.5]], {}, "non-empty sequence of token ids"),
        ([("a", "b")], {}, "source and target pair"),
        (["a"], {"max_tokens": 0}, "give 1 or more"),
        (["a" * 2000], {}, r"2,001 tokens.*--max-tokens 1024"),
    ],
)
def test_bad_documents_are_refused(demo: LoadedModel, texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_documents(texts, demo, **options)


def test_a_model_without_tokenizer_asks_for_ids() -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        make_documents("text", load_model(build_model(BY_NAME["llama"])))


def test_pairs_are_for_encoder_decoders() -> None:
    loaded = load_model(build_model(BY_NAME["bart"]))
    (document,) = make_documents(([5, 6, 7], [8, 9]), loaded)
    assert {axis: tokens.ids.tolist() for axis, tokens in document.tokens.items()} == {
        "source": [5, 6, 7],
        "target": [8, 9],
    }
    with pytest.raises(InputError, match="give \\(source, target\\)"):
        make_documents([[5, 6, 7]], loaded)
