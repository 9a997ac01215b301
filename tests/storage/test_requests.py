"""How often a store is asked: each request is a trip over the network, and they must not grow with the atlas."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from attlas.storage import AtlasWriter, open_atlas
from tests.storage.slow_store import SlowStore
from tests.storage.synthetic import Synthetic, synthetic


def made_of(packs: int, *, finished: bool) -> tuple[Synthetic, SlowStore]:
    made, store = synthetic(lengths=(10,) * packs, pack_tokens=10, layers=(0,), heads=2, kv_heads=1), SlowStore()
    assert len(made.packs) == packs
    writer = AtlasWriter.create(store, made.spec("factors"))
    made.write_pack(writer, made.packs[0])
    for pack in made.packs[1 : None if finished else -2]:  # a pack without rows is enough to be counted
        writer.commit(pack, seconds=0.0, attempt=1, size=0)
    if not finished:
        writer.fail(made.packs[-1], attempt=1, error="broken")
    store.asked.clear()
    return made, store


@pytest.mark.parametrize("finished", [True, False])
def test_opening_asks_as_often_for_few_packs_as_for_many(finished: bool) -> None:
    counts = {}
    for packs in (10, 100, 400):
        made, store = made_of(packs, finished=finished)
        atlas = open_atlas(store)
        assert len(atlas) == packs - (0 if finished else 2)
        opened = len(store.asked)
        np.testing.assert_allclose(atlas["doc-0"].attention.values, made.dense(0), atol=2e-6)
        paged = len(store.asked)
        if finished:
            assert atlas.packs["attempt"].values.tolist() == [1] * packs
            assert len(store.asked) - paged < 12
        counts[packs] = opened, paged
    assert counts[10] == counts[100] == counts[400]
    assert counts[10][0] <= (10 if finished else 12)
    assert counts[10][1] - counts[10][0] <= 13


def test_what_a_row_a_tile_and_a_warm_row_ask_for() -> None:
    made, store = synthetic(lengths=(600, 40), block=128, pack_tokens=700), SlowStore()
    writer = AtlasWriter.create(store, made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    attention = open_atlas(store).attention("doc-0")
    counts = {}
    tile = {"layer": 1, "head": 3, "query": slice(300, 400), "key": slice(100, 400)}
    places: list[tuple[str, dict[str, Any]]] = [
        ("row", {"layer": 0, "head": 1, "query": 500}),
        ("warm row", {"layer": 0, "head": 1, "query": 501}),
        ("tile", tile),
        ("same tile", tile),
    ]
    for name, place in places:
        store.asked.clear()
        found = attention.isel(place).values
        expected = made.dense(0)[tuple(place.get(str(dim), slice(None)) for dim in attention.dims)]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        counts[name] = len(store.asked)
        assert all(verb == "get" for verb, _ in store.asked)
    # an index and a range of each array's Zarr shards, key starts and stops, q, log-sum-exp and k of five blocks
    assert counts["row"] <= 2 * (4 + 5)
    assert counts["warm row"] == 0
    assert counts["tile"] <= 2 * (2 * 2 + 2 * 2 + 4)
    assert counts["same tile"] == 0


def test_where_tokens_lie_in_the_text_is_read_when_asked_and_once() -> None:
    made, store = made_of(10, finished=True)
    page = open_atlas(store)["doc-0"]
    chosen = page.attention.isel(layer=0, head=0, query=5)
    chosen.values  # noqa: B018
    assert not any("char_" in path or "/word" in path for _, path in store.asked)
    store.asked.clear()
    np.testing.assert_array_equal(page["query_word"].values, made.documents[0].tokens["text"].word)
    asked = len(store.asked)
    assert 0 < asked <= 3
    assert page["key_char_start"].values.tolist() == made.documents[0].tokens["text"].char_start.tolist()
    assert chosen["key_char_end"].values.tolist() == made.documents[0].tokens["text"].char_end.tolist()
    assert len(store.asked) == asked


def test_requests_of_one_question_go_together() -> None:
    """A store with 30 ms a trip: opening is a few trips after one another, not one for each request."""
    _, fast = made_of(40, finished=True)
    begin = time.monotonic()
    atlas = open_atlas(SlowStore(fast, seconds=0.03))
    opened = time.monotonic() - begin
    begin = time.monotonic()
    atlas["doc-0"].attention.isel(layer=0, head=0, query=5).values  # noqa: B018
    asked = time.monotonic() - begin
    assert opened < 10 * 0.03
    assert asked < 12 * 0.03
