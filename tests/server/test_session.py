"""Every question a session answers, against numpy on the dense weights; errors; many askers at once."""

from __future__ import annotations

import json
import re
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import attlas
from attlas.errors import (
    AttlasError,
    DocumentMissingError,
    InputError,
    QuestionCancelledError,
    StoreMissingError,
    TierError,
)
from attlas.server import tiles
from attlas.server.questions import heads, weights
from attlas.server.session import OPS, Session
from attlas.server.status import status_of
from tests.analysis.test_statistics import write
from tests.families import BY_NAME, build_model, documents
from tests.server.asking import asked, full_map, visible
from tests.storage.synthetic import Synthetic, synthetic


@pytest.fixture(scope="module")
def made() -> Synthetic:
    return synthetic((70, 20, 41), seed=3, window=17)


@pytest.fixture(scope="module")
def atlas(made: Synthetic) -> attlas.Atlas:
    return write(made, "session")


@pytest.fixture(scope="module")
def pairs() -> attlas.Atlas:
    family = BY_NAME["bart"]
    return attlas.capture(build_model(family), documents(family), "memory://session-pairs", overwrite=True)


@pytest.fixture
def session(atlas: attlas.Atlas) -> Session:
    return Session(atlas)


def test_info_and_documents(atlas: attlas.Atlas, pairs: attlas.Atlas) -> None:
    session = Session({"one": atlas, "two": pairs})
    data, _ = asked(session, "info")
    assert data["version"] == attlas.__version__
    assert data["atlases"] == [
        {"name": "one", "model": "synthetic", "keep": "factors", "kinds": ["self"], "documents": 3},
        {"name": "two", "model": pairs.model["name"], "keep": "factors", "kinds": ["encoder", "decoder", "cross"],
         "documents": 3},
    ]  # fmt: skip
    data, _ = asked(session, "documents", atlas="one", text="OC-1")
    assert data == {"total": 1, "documents": [{"id": "doc-1", "tokens": 20}]}
    data, _ = asked(session, "documents", atlas="two", start=1, stop=2)
    target = len(documents(BY_NAME["bart"])[1][1])
    assert data == {
        "total": 3, "documents": [{"id": "doc-1", "tokens": 5 + target, "queries": target, "keys": 5}]
    }  # fmt: skip


def test_document(atlas: attlas.Atlas, pairs: attlas.Atlas) -> None:
    data, _ = asked(Session(atlas), "document", document="doc-0")
    assert (data["document"], data["model"], data["keep"]) == ("doc-0", "synthetic", "factors")
    found = data["kinds"]["self"]
    assert {name: found[name] for name in ("queries", "keys", "causal", "same_axis", "top_level", "rows_kept")} == {
        "queries": 70, "keys": 70, "causal": True, "same_axis": True, "top_level": 0, "rows_kept": "all"
    }  # fmt: skip
    assert (found["layers"], found["heads"]) == ([0, 1], [0, 1, 2, 3])
    assert {"entropy", "received", "log_sum_exp", "induction_weight"} <= set(found["statistics"])
    data, _ = asked(Session(pairs), "document", document="doc-0")
    told = {kind: (one["queries"], one["keys"], one["causal"]) for kind, one in data["kinds"].items()}
    assert told == {"encoder": (23, 23, False), "decoder": (9, 9, True), "cross": (9, 23, False)}
    assert "previous_weight" not in data["kinds"]["cross"]["statistics"]


def test_tokens_and_find() -> None:
    atlas = attlas.capture("demo", ["The cat. the CAT sat"], "memory://session-find", ids=["a"], overwrite=True)
    session = Session(atlas)
    data, _ = asked(session, "tokens", start=1, stop=6)
    page = atlas["a"]
    assert data["tokens"] == page["key_token"].values[1:6].tolist()
    assert data["word"] == page["key_word"].values[1:6].tolist()
    assert (data["start"], data["total"]) == (1, page.sizes["key"])
    whole, _ = asked(session, "tokens")
    assert whole["special"] == [0]
    text = "".join(whole["tokens"][1:])
    assert text == "The cat. the CAT sat"
    data, _ = asked(session, "find", text="the")  # small letters find large ones too
    assert data["total"] == 2
    assert ["".join(one) for one in data["tokens"]] == ["The", "the"]
    assert data["places"] == [[1, 4], [10, 13]]
    assert asked(session, "find", text="CAT")[0]["places"] == [[14, 17]]
    assert asked(session, "find", text="at", limit=1)[0] == {"total": 3, "places": [[6, 8]], "tokens": [["a", "t"]]}
    assert asked(session, "find", text="dog")[0]["total"] == 0


@pytest.mark.parametrize("head", [2, "mean"])
def test_rows_columns_and_cells(atlas: attlas.Atlas, made: Synthetic, session: Session, head: Any) -> None:
    a_QK = made.dense(0)[1]
    a_QK = a_QK.mean(axis=0) if head == "mean" else a_QK[head]
    seen_QK = visible(atlas, "doc-0", "self", 1, 70)
    where = {"document": "doc-0", "layer": 1, "head": head}
    ids = made.documents[0].tokens["text"].text
    for place in (0, 5, 44, 69):
        data, (a_K,) = asked(session, "row", query=place, top=4, **where)
        np.testing.assert_allclose(a_K, np.where(seen_QK[place], a_QK[place], np.nan), atol=1e-6)
        assert (data["query"], data["token"]) == (place, ids[place])
        assert data["seen"] == [max(0, place - 16), place + 1]
        best = np.argsort(-a_QK[place], kind="stable")[: min(4, place + 1)]
        assert [one["key"] for one in data["top"]] == best.tolist()
        assert [one["token"] for one in data["top"]] == [ids[key] for key in best]
        np.testing.assert_allclose([one["weight"] for one in data["top"]], a_QK[place, best], atol=1e-6)
        data, (a_Q,) = asked(session, "column", key=place, top=3, **where)
        np.testing.assert_allclose(a_Q, np.where(seen_QK[:, place], a_QK[:, place], np.nan), atol=1e-6)
        best = np.argsort(-a_QK[:, place], kind="stable")[: min(3, 70 - place)]
        assert [one["query"] for one in data["top"]] == best.tolist()
    data, buffers = asked(session, "cell", query=30, key=20, **where)
    assert data["weight"] == pytest.approx(a_QK[30, 20], abs=1e-6)
    assert (data["seen"], data["query_token"], data["key_token"], buffers) == (True, ids[30], ids[20], [])
    data, _ = asked(session, "cell", query=30, key=40, **where)
    assert (data["seen"], data["weight"]) == (False, 0.0)


@pytest.mark.parametrize("cells", [8, 16, 70])
def test_thumbnails(atlas: attlas.Atlas, session: Session, cells: int) -> None:
    data, (made,) = asked(session, "thumbnails", document="doc-0", cells=cells)
    step = -(-70 // cells)
    rows = np.minimum(np.arange(0, 70, step) + step - 1, 69)
    assert (data["sampled_rows"], data["block_queries"]) == (len(rows), step)
    assert data["shape"] == list(made.shape) == [2, 4, len(rows), -(-70 // step)]
    for layer in (0, 1):
        seen_QK = visible(atlas, "doc-0", "self", layer, 70)[rows]
        for head in range(4):
            a_QK = full_map(atlas, "doc-0", "self", layer, head)[rows]
            for j, key in enumerate(range(0, 70, step)):
                some = a_QK[:, key : key + step].max(axis=1)
                code = np.clip(np.rint(1 + 254 * (np.log10(np.maximum(some, 1e-5)) + 5) / 5), 1, 255)
                code[~seen_QK[:, key : key + step].any(axis=1)] = 0
                assert np.abs(made[layer, head, :, j].astype(int) - code).max() <= 1  # a code's edge, at most
    one, (alone,) = asked(session, "thumbnails", document="doc-0", cells=cells, layer=1)
    np.testing.assert_array_equal(alone[0], made[1])
    assert one["layers"] == [1]
    small, (of_head,) = asked(session, "thumbnails", document="doc-0", cells=cells, layer=1, head=2)
    np.testing.assert_array_equal(of_head[0, 0], made[1, 2])
    assert (small["shape"][:2], small["heads"]) == ([1, 1], [2])


def test_statistics(atlas: attlas.Atlas, session: Session) -> None:
    page, a_HQK = atlas["doc-2"], atlas.attention("doc-2").sel(layer=1).values
    seen_QK = visible(atlas, "doc-2", "self", 1, 41)
    names = ["entropy", "received", "log_sum_exp", "max_weight"]
    data, found = asked(session, "statistics", document="doc-2", layer=1, head=3, names=names)
    for name, values in zip(names, found, strict=True):
        expected = (
            a_HQK[3].sum(axis=0) / seen_QK.sum(axis=0) if name == "received" else page[name].values[1, 3]
        )  # fmt: skip
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        assert values.dtype == np.float32
    assert data["names"] == names
    assert data["units"] == ["nat", "1", page["log_sum_exp"].attrs["units"], "1"]
    assert data["definitions"][0] == page["entropy"].attrs["long_name"]
    entropy = -np.where(a_HQK > 0, a_HQK * np.log(np.maximum(a_HQK, 1e-30)), 0).sum(axis=2).mean(axis=0)
    _, (mean,) = asked(session, "statistics", document="doc-2", layer=1, head="mean")
    np.testing.assert_allclose(mean, entropy, rtol=1e-4, atol=1e-5)


def test_heads(demo_folder: Any) -> None:
    """Of the demo, whose layer 1 has induction heads: the roles of `attlas heads`, best first."""
    atlas = attlas.open_atlas(demo_folder / "demo.zarr")
    data, _ = asked(Session(atlas), "heads")
    roles = attlas.analysis.head_roles(atlas, save=False)
    assert data["exact"] is False or data["rows_used"] == data["rows"]
    best = data["first"]
    induction = roles.role_score.sel(role="induction")
    assert float(induction.sel(layer=best["layer"], head=best["head"])) == float(induction.max())
    assert "induction" in best["why"]
    scores = [one["score"] for one in data["heads"]]
    assert scores == sorted(scores, reverse=True)
    for one in data["heads"]:
        assert bool(roles.has_role.sel(role=one["role"], layer=one["layer"], head=one["head"]))
    assert set(data["roles"]) == set(roles["role"].values.tolist())


def test_the_first_head_of_a_long_document_is_found_soon(
    atlas: attlas.Atlas, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a few rows of some layers: the one with the largest weights far from what is next to the query."""
    short, _ = asked(session, "heads", document="doc-0", brief=True)
    assert short["first"] == asked(session, "heads", document="doc-0")[0]["first"]
    assert short["layers"] == [0, 1]
    monkeypatch.setattr(heads, "BRIEF_CELLS", 1)
    monkeypatch.setattr(heads, "FIRST_KEYS", 1)
    monkeypatch.setattr(heads, "NEAR_KEYS", 3)
    data, _ = asked(session, "heads", document="doc-0", brief=True)
    rows = np.minimum(np.arange(0, 70, 5) + 4, 69)
    strength = np.zeros((2, 4))
    for layer in (0, 1):
        intervals = atlas.key_intervals("doc-0", layer)
        for head in range(4):
            a_QK = full_map(atlas, "doc-0", "self", layer, head)
            ends = zip(intervals.key_start.values[rows], intervals.key_stop.values[rows], strict=True)
            strength[layer, head] = np.mean(
                [a_QK[row, start + 1 : stop - 3].max(initial=0) for row, (start, stop) in zip(rows, ends, strict=True)]
            )
    assert (data["first"]["layer"], data["first"]["head"]) == divmod(int(strength.argmax()), 4)
    assert (data["layers"], data["heads"], data["rows_used"], data["rows"]) == ([0, 1], [], 14, 70)
    assert data["first"]["why"] == "of layers 0, 1 the one with the largest weights far from the query"


def test_what_a_page_asks_first_is_foreseen(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "BRIEF_CELLS", 1)
    monkeypatch.setattr("attlas.server.session.SKETCHED", 0)
    session.foresee()
    computed: list[Any] = []
    monkeypatch.setattr(heads, "_far_looking", lambda *given: computed.append(given))
    monkeypatch.setattr(heads, "thumbnails_of", lambda *given: computed.append(given))
    first = asked(session, "heads", document="doc-0", brief=True)[0]["first"]
    asked(session, "thumbnails", document="doc-0", layer=first["layer"], head=first["head"], cells=256)
    assert not computed


WRONG: list[tuple[str, dict[str, Any], type[AttlasError], str]] = [
    ("tile", {"layer": 9, "head": 0}, InputError, "there is no layer 9: the atlas has 0 to 1"),
    ("tile", {"layer": 0}, InputError, 'head is None: the atlas has 0 to 3, and "mean"'),
    ("tile", {"layer": 0, "head": [1]}, InputError, "head is"),
    ("tile", {"layer": 0, "head": 0, "row": 1}, InputError, "row is 1: at level 0 a map of 70 x 70 has 1 along it"),
    ("tile", {"layer": 0, "head": 0, "level": 1}, InputError, "level is 1"),
    ("tile", {"layer": 0, "head": 0, "level": 0.5}, InputError, "level is 0.5"),
    ("tile", {"layer": 0, "head": 0, "pool": "min"}, InputError, "choose one of max, mass"),
    ("tile", {"layer": 0, "head": 0, "format": "u4"}, InputError, "choose one of u8, f16, f32"),
    ("tile", {"lyaer": 0}, InputError, "tile takes no 'lyaer': it takes atlas, document"),
    ("tile", {"layer": 0, "head": 0, "kind": "cross"}, InputError, "has no cross attention: it has self"),
    ("row", {"layer": 0, "head": 0, "query": 70}, InputError, "query is 70: the document has 70, counted from 0"),
    ("row", {"layer": 0, "head": 0, "query": -1}, InputError, "query is -1"),
    ("column", {"layer": 0, "head": 0}, InputError, "key is None"),
    ("cell", {"layer": 0, "head": 0, "query": 1, "key": 999}, InputError, "key is 999"),
    ("cell", {"layer": "x", "head": 0, "query": 1, "key": 9}, InputError, "layer is 'x'"),
    ("statistics", {"layer": 0, "head": 0, "names": ["beauty"]}, InputError, "there is no statistic 'beauty'"),
    ("thumbnails", {"cells": 5000}, InputError, "cells is 5000"),
    ("find", {"text": "  "}, InputError, "give the text to find"),
    ("tokens", {"axis": "head"}, InputError, "choose one of query, key"),
    ("document", {"document": "doc-9"}, DocumentMissingError, "did you mean 'doc-"),
    ("document", {"document": ["a"]}, DocumentMissingError, "has no document"),
    ("info", {"atlas": "x"}, InputError, "info takes no 'atlas': it takes nothing"),
    ("documents", {"atlas": "x"}, InputError, "choose one of session"),
    ("tyle", {}, InputError, "there is no op 'tyle': choose one of "),
]


@pytest.mark.parametrize(("op", "arguments", "error", "message"), WRONG)
def test_errors(session: Session, op: str, arguments: dict[str, Any], error: type[AttlasError], message: str) -> None:
    where = {} if op in ("info", "documents", "tyle") else {"document": "doc-0"}
    with pytest.raises(error, match=re.escape(message)) as caught:
        session.answer(op, where | arguments)
    reply, buffers = session.reply({"id": "x", "op": op} | where | arguments)
    assert reply == {
        "id": "x", "ok": False,
        "error": {"type": error.__name__, "message": str(caught.value), "status": status_of(caught.value)},
    }  # fmt: skip
    assert buffers == []


@pytest.mark.parametrize("message", [5, None, [], {"id": 1}, {"op": 7}, {1: 2}, {"op": "tile", "document": {}}])
def test_what_is_no_message(session: Session, message: Any) -> None:
    reply, _ = session.reply(message)
    assert reply["ok"] is False
    assert reply["error"]["status"] in (404, 422)


def test_a_document_is_named_where_there_are_several(session: Session) -> None:
    with pytest.raises(InputError, match="holds 3 documents: name one of them"):
        session.answer("document")


def test_a_tier_without_weights(made: Synthetic) -> None:
    session = Session(write(made, "session-statistics", keep="statistics"))
    where = {"document": "doc-0", "layer": 0, "head": 0}
    for op, more in [
        ("tile", {}),
        ("row", {"query": 1}),
        ("cell", {"query": 1, "key": 1}),
        ("thumbnails", {"head": 0}),
    ]:
        arguments = {"document": "doc-0"} if op == "thumbnails" else where | more
        with pytest.raises(TierError, match='capture it again with keep="factors"'):
            session.answer(op, arguments)
    data, _ = asked(session, "document", document="doc-0")
    assert (data["kinds"]["self"]["weights"], data["keep"]) == (False, "statistics")
    assert "received" not in data["kinds"]["self"]["statistics"]
    assert len(asked(session, "statistics", **where)[1][0]) == 70


def test_a_tile_too_large_says_what_to_do(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST_CELLS", 100)
    with pytest.raises(InputError, match=r"made of 1,054 weights, and 100 are computed at a time: .* attlas overview"):
        session.answer("tile", {"document": "doc-0", "layer": 0, "head": 0})


def test_what_is_no_atlas() -> None:
    with pytest.raises(StoreMissingError):
        Session("/nowhere/at/all.zarr")
    with pytest.raises(InputError, match="give one atlas or several"):
        Session({})


def questions() -> list[tuple[str, dict[str, Any]]]:
    some: list[tuple[str, dict[str, Any]]] = []
    for layer in (0, 1):
        for head in (0, 3, "mean"):
            where = {"document": "doc-0", "layer": layer, "head": head}
            some += [("tile", where), ("tile", where | {"format": "f32", "pool": "mass"})]
            some += [("row", where | {"query": 50}), ("column", where | {"key": 30}), ("statistics", where)]
    return [*some, ("thumbnails", {"document": "doc-0"}), ("tokens", {"document": "doc-0"})]


def bytes_of(session: Session, question: tuple[str, dict[str, Any]]) -> tuple[str, list[bytes]]:
    found = session.answer(*question)
    return json.dumps(found.data), [buffer.tobytes() for buffer in found.buffers]


def test_threads_that_ask_at_once_get_the_same_bytes(atlas: attlas.Atlas) -> None:
    alone = Session(atlas)
    expected = [bytes_of(alone, question) for question in questions()]
    together = Session(atlas)
    with ThreadPoolExecutor(8) as pool:
        asked_at_once = list(pool.map(lambda question: bytes_of(together, question), questions() * 3))
    assert asked_at_once == expected * 3


def test_cancel(atlas: attlas.Atlas, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that waits is dropped, one that is answered already is not; ids are each asker's own."""
    go, begun = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> NDArray[np.float32]:
        begun.set()
        assert go.wait(5)
        return tiles.pooled(*arguments)

    monkeypatch.setattr(weights, "pooled", slow)
    session.cache.most_heavy = 1
    tile = {"op": "tile", "document": "doc-0", "layer": 0, "head": "mean"}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.reply, tile | {"id": 1}, asker="a")
        assert begun.wait(5)
        second = pool.submit(session.reply, tile | {"id": 2, "layer": 1}, asker="a")
        while session.cache._waiting == 0:
            pass
        for target, asker in [(2, "b"), (3, "a")]:
            reply, _ = session.reply({"id": 9, "op": "cancel", "target": target}, asker=asker)
            assert reply["data"] == {"cancelled": False}
        reply, _ = session.reply({"id": 9, "op": "cancel", "target": 2}, asker="a")
        assert reply == {"id": 9, "ok": True, "data": {"cancelled": True}}
        told, buffers = second.result(5)
        assert (told["error"]["type"], told["error"]["status"], buffers) == ("QuestionCancelledError", 499, [])
        go.set()
        assert first.result(5)[0]["ok"]
    with pytest.raises(QuestionCancelledError):
        session.answer("tile", {"document": "doc-1", "layer": 0, "head": 0}, wanted=lambda: False)


def test_memory_is_bounded() -> None:
    """A coarse tile of 6,000 tokens (144 MB as float32) holds some rows at a time, and the cache its share."""
    session = Session(write(synthetic((6000,), layers=(0,), heads=2, pack_tokens=8000, block=256), "session-long"))
    session.cache.most_bytes = 2**20
    session.answer("tile", {"layer": 0, "head": 0})
    tracemalloc.start()
    for head in (0, 1, "mean"):
        session.answer("tile", {"layer": 0, "head": head, "level": 5, "pool": "mass"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 110e6
    assert session.cache.bytes <= 2**20


def test_every_question_has_its_tests() -> None:
    """A new one is added to the protocol and to this file."""
    assert set(OPS.names) == {
        "info", "documents", "document", "tokens", "find", "tile", "row", "column", "cell", "thumbnails", "statistics",
        "heads",
    }  # fmt: skip
