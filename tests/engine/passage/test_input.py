"""What the door of a capture takes, and what it refuses, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding

from attlas.engine.passage.input import parse_documents
from attlas.engine.passage.raw import Chat, Ids, RawDocument
from attlas.errors import InputError

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def told(documents: list[RawDocument]) -> list[tuple[str | None, Any]]:
    """(id, text or list of ids) of each document."""
    return [(d.id, d.side.ids_N.tolist() if isinstance(d.side, Ids) else d.side) for d in documents]


TEXTS = [("doc-0", "a"), ("doc-1", "b")]
ROWS = [("doc-0", [5, 6]), ("doc-1", [7, 8])]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("a", TEXTS[:1]),
        (np.str_("a"), TEXTS[:1]),
        (["a", "b"], TEXTS),
        (("a", "b"), TEXTS),
        ((text for text in "ab"), TEXTS),
        ({1: "a", 2: "b"}.values(), TEXTS),
        (np.array(["a", "b"]), TEXTS),
        (np.array(["a", "b"], dtype=object), TEXTS),
        (np.array(["a", "b"], dtype=np.dtypes.StringDType()), TEXTS),
        (pd.Series(["a", "b"]), TEXTS),
        ({"x": "a", "y": [5, 6], 3: "c"}, [("x", "a"), ("y", [5, 6]), ("3", "c")]),
        ([5, 6], ROWS[:1]),
        (range(5, 7), ROWS[:1]),
        (np.array([5, 6], dtype=np.uint8), ROWS[:1]),
        (torch.tensor([5, 6]), ROWS[:1]),
        ([torch.tensor(5), torch.tensor(6)], ROWS[:1]),
        ([[5, 6], [7, 8]], ROWS),
        ([np.array([5, 6]), torch.tensor([7, 8])], ROWS),
        (np.array([[5, 6], [7, 8]]), ROWS),
        (torch.tensor([[5, 6], [7, 8]]), ROWS),
        (pd.Series([[5, 6], [7, 8]]), ROWS),
        ({"input_ids": [5, 6]}, ROWS[:1]),
        ({"input_ids": [[5, 6], [7, 8]]}, ROWS),
        (BatchEncoding({"input_ids": [[5, 6], [7, 8]], "length": [2, 2]}), ROWS),
        ({"input_ids": torch.tensor([[5, 6], [7, 8]]), "attention_mask": torch.ones(2, 2, dtype=torch.bool)}, ROWS),
        ([{"input_ids": [5, 6]}, {"input_ids": [7, 8]}], ROWS),
        ([{"text": "a"}, {"id": "y", "text": "b"}], [("doc-0", "a"), ("y", "b")]),
        ({"text": ["a", "b"], "id": ["x", None]}, [("x", "a"), ("doc-1", "b")]),
        (pd.DataFrame({"text": ["a", "b"], "id": [7, 8]}), [("7", "a"), ("8", "b")]),
        (pd.DataFrame({"text": ["a"]}, index=pd.Index(["x"], name="id")), [("x", "a")]),
        (pa.table({"text": ["a", "b"]}), TEXTS),
    ],
)  # fmt: skip
def test_what_people_hold_is_taken(texts: Any, expected: Any) -> None:
    assert told(parse_documents(texts)) == expected


def test_chats() -> None:
    (one,) = parse_documents(CHAT)
    assert isinstance(one.side, Chat)
    assert [dict(message) for message in one.side.messages] == CHAT
    assert [type(d.side) for d in parse_documents([CHAT, "a", {"messages": CHAT}])] == [Chat, str, Chat]
    assert [d.id for d in parse_documents({"first": CHAT, "second": CHAT[:1]})] == ["first", "second"]


def test_pairs() -> None:
    (one,) = parse_documents([("a", "b")], pairs="sentence")
    assert (one.side, one.pair) == ("a", "b")
    (two,) = parse_documents(("a", "b"), pairs="target")
    assert (two.side, two.pair) == ("a", "b")
    (record,) = parse_documents([{"source": "a", "target": "b"}])
    assert (record.pair, record.is_target) == ("b", True)
    (batch,) = parse_documents({"input_ids": [[5, 0]], "attention_mask": [[1, 0]], "labels": [[7, 8, -100]]})
    assert isinstance(batch.pair, Ids)
    assert batch.pair.ids_N.tolist() == [7, 8]
    assert batch.pair.labels


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "more.jsonl").write_text('{"text": "b"}\n{"id": "z", "text": "c"}\n')
    found = parse_documents([tmp_path / "one.txt", tmp_path / "more.jsonl", "d"])
    assert told(found) == [("one", "a"), ("more-1", "b"), ("z", "c"), ("doc-3", "d")]
    with pytest.raises(InputError, match="there is no file"):
        parse_documents(tmp_path / "none.txt")


def test_fields_are_kept() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "year": [1920, 1930], "score": [0.5, np.nan], "tags": [["x"], None]})
    fields = [dict(document.fields) for document in parse_documents(frame)]
    assert fields == [
        {"year": 1920, "score": 0.5, "tags": '["x"]'},
        {"year": 1930, "score": None, "tags": None},
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "is None"), (True, "True"), (3.5, "3.5"), (7, "7"), (b"a", "bytes"), ({"a", "b"}, "of type set"),
        (np.array(5), "array of int64"), (np.zeros((2, 2, 2), dtype=int), r"shape \(2, 2, 2\)"),
        (np.array([0.5]), "float64"), (np.array([True]), "bool"), (torch.tensor([0.5]), "float32"),
        (torch.ones(2, dtype=torch.bool), "torch.bool"),
        (np.zeros((0,), dtype=np.int64), "non-empty"), ([], "nothing to capture"), ({}, "nothing to capture"),
        ("", "is empty"), (" \n", "is empty"), (["a", ""], "'doc-1' is empty"), (["a", None], "'doc-1' is None"),
        ([[]], "non-empty"), ([b"a"], "of type bytes"), ([{"a"}], "of type set"),
        ([[0.5]], "non-empty sequence of token ids"),
        ([[True, False]], "non-empty sequence of token ids"),
        ([[5, True]], "list of bool and int"), ([[5, "a"]], "token ids"),
        ([["a"]], "token ids"), ([["a", "b", "c"]], "token ids"), ([["a", "b"]], "tuple"), ([[[5, 6]]], "token ids"),
        ([5, "a"], "token ids"), ([("a",)], "token ids"), ([2**70], "token ids"), (open, "builtin_function"),
        (np.array([2**63], dtype=np.uint64), "no vocabulary has"),
        ("\ud83d", r"surrogate pair \(U\+D83D at character 0"), ([{"id": "\ud83d", "text": "a"}], "surrogate"),
        ({"text": "a"}, "one record"), ({"role": "user", "content": "a"}, "one chat message"),
        ([{"role": "user", "content": "a"}, "b"], "one chat message among"), ([{"x": "a"}], "needs either text"),
        ([[{"role": "user"}]], "content must be a string"), ([[{"role": 1, "content": "a"}]], "role must be"),
        ([[{"role": "user", "content": [{"type": "image"}]}]], "not text"),
        ({"input_ids": [5], "pixel_values": [1]}, "'pixel_values' beside input_ids"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1]]}, "1 places, and its token ids 2"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1, 1], [1, 1]]}, "has 2 rows, and input_ids has 1"),
        ({"input_ids": [[5, 6]], "attention_mask": [[2, 1]]}, "attention_mask with 2 in it"),
        ({"input_ids": [[5, 6]], "attention_mask": [[0, 0]]}, "padding alone"),
        ({"input_ids": [[5, 6, 7]], "attention_mask": [[1, 0, 1]]}, "hole at place 1"),
        ({"input_ids": []}, "input_ids is empty"), ({"input_ids": "abc"}, "input_ids"),
        ({None: "a"}, "None"), ({"": "a"}, "empty id"), ({"x": None}, "'x' is None"),
        (pd.DataFrame({"words": ["a"]}), "no column text"),
        (pd.DataFrame({"text": [np.nan]}), "row 0 of the frame: text"),
        ([{"text": "a", "source": "b"}], "needs either"), ([{"text": 5}], "text must be a string"),
        ([{"text": "a", "id": 0.5}], "id must be a string or an integer"), ([{"text": "a", "id": ""}], "empty id"),
        ([("a", None)], "is None"), ([("a", ("b", "c"))], "token ids"), ([("a", CHAT)], "is a chat"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_in_one_line(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        parse_documents(texts)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("ab", "ids is the string 'ab'"), ([["x"], ["y"]], "id 0 must be"), ([True, False], "True"),
        ([0.5, 1.5], "0.5"),
        (["x"], "1 ids for 2 documents"), (["x", "x"], "two documents have the id 'x'"), (["x", ""], "empty id"),
        (5, "ids is 5"), ({"x": 1}, "ids is"), ([10**5000, 1], "too many digits"),
    ],
)  # fmt: skip
def test_bad_ids_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_documents(["a", "b"], ids=ids)


def test_ids_are_given_once() -> None:
    with pytest.raises(InputError, match="an id of its own"):
        parse_documents({"x": "a"}, ids=["y"])
    assert told(parse_documents(["a", "b"], ids=[7, None])) == [("7", "a"), ("doc-1", "b")]
    with pytest.raises(InputError, match="two documents have the id 'doc-1'"):
        parse_documents(["a", "b"], ids=["doc-1", None])


def test_a_mask_belongs_to_token_ids() -> None:
    for texts in ("a", ["a"], {"x": "a"}, [("a", "b")], None):
        with pytest.raises(InputError, match="attention_mask belongs to token ids"):
            parse_documents(texts, attention_mask=[[1]])
    with pytest.raises(InputError, match="given twice"):
        parse_documents({"input_ids": [5], "attention_mask": [1]}, attention_mask=[1])


@given(
    rows=st.lists(st.lists(st.integers(5, 90), min_size=1, max_size=6), min_size=1, max_size=5),
    left=st.booleans(),
    form=st.sampled_from([list, np.array, torch.tensor]),
)
def test_padding_is_left_out(rows: list[list[int]], left: bool, form: Any) -> None:
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)]
    masks = [
        [0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad)
        for row, pad in zip(rows, pads, strict=True)
    ]
    found = parse_documents(form(ids), attention_mask=form(masks), token_type_ids=form(masks))
    assert [document for _, document in told(found)] == rows
    for document, pad in zip(found, pads, strict=True):
        assert isinstance(document.side, Ids)
        assert document.side.padding_left == (len(pad) if left else 0)
        assert document.side.type_N is not None
        assert document.side.type_N.tolist() == [1] * len(document.side.ids_N)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), begin=st.integers(0, 3))
def test_packed_rows_are_cut_where_positions_restart(lengths: list[int], begin: int) -> None:
    ids = np.arange(5, 5 + sum(lengths))
    positions = np.concatenate([np.arange(begin, begin + n) for n in lengths])
    found = parse_documents(ids[None], position_ids=positions[None])
    expected = np.split(ids, np.cumsum(lengths)[:-1])
    assert [document for _, document in told(found)] == [part.tolist() for part in expected]
    assert all(isinstance(d.side, Ids) and d.side.first_position == begin for d in found)
    assert [isinstance(d.side, Ids) and d.side.packed for d in found] == [False] + [True] * (len(lengths) - 1)
