"""Several askers of one atlas at once, threads over one open atlas and processes of their own: the answers of one."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import attlas
from attlas.storage import Atlas

TEXTS = ["one two three, one two three; and one two three again.", "the cat sat on the mat. the cat sat on the mat."]
ASKERS, TURNS = 8, 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("askers") / "a.zarr")
    attlas.capture("demo", TEXTS, folder, ids=["a", "b"])
    return folder


def questions(seed: int) -> list[tuple[str, int, int, int]]:
    """(document, layer, head, first row), in an order of the asker's own."""
    every = [
        (document, layer, head, row) for document in "ab" for layer in range(4) for head in (0, 3) for row in (5, 30)
    ]
    np.random.default_rng(seed).shuffle(every)
    return every


def answer(atlas: Atlas, question: tuple[str, int, int, int]) -> list[NDArray[np.float32]]:
    document, layer, head, row = question
    page = atlas[document].sel(layer=layer, head=head).isel(query=slice(row, row + 7))
    return [page[name].values for name in ("attention", "entropy", "log_sum_exp", "induction_weight")]


def answers(store: str, seed: int) -> dict[tuple[str, int, int, int], list[NDArray[np.float32]]]:
    atlas = attlas.open_atlas(store)
    return {question: answer(atlas, question) for question in questions(seed)}


def assert_same(told: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert told.keys() == expected.keys()
    for question, values in told.items():
        for value, right in zip(values, expected[question], strict=True):
            np.testing.assert_array_equal(value, right, err_msg=str(question))


def test_threads_that_share_an_open_atlas(store: str) -> None:
    """Each turn opens the atlas anew, so that all find its columns, readers and chunks not yet read."""
    expected = answers(store, 0)
    for turn in range(TURNS):
        atlas, begin = attlas.open_atlas(store), threading.Barrier(ASKERS)

        def ask(seed: int, atlas: Atlas = atlas, begin: threading.Barrier = begin) -> dict[Any, Any]:
            begin.wait()
            return {question: answer(atlas, question) for question in questions(seed)}

        with ThreadPoolExecutor(ASKERS) as pool:
            for told in pool.map(ask, range(turn * ASKERS, (turn + 1) * ASKERS)):
                assert_same(told, expected)


def test_threads_that_share_a_page(store: str) -> None:
    """One page's lazy arrays are asked by all: what they keep of computed rows must not mix."""
    names, page = ("entropy", "max_weight", "attention"), attlas.open_atlas(store)["a"]
    cells = [(name, layer, head, row) for name in names for layer in (0, 2) for head in (1, 3) for row in (3, 20, 50)]
    expected = {(name, *place): page[name][place].values for name, *rest in cells if (place := tuple(rest))}
    shared = attlas.open_atlas(store)["a"]

    def ask(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(len(cells)):
            name, *place = cells[i]
            np.testing.assert_array_equal(shared[name][tuple(place)].values, expected[cells[i]])

    with ThreadPoolExecutor(ASKERS) as pool:
        list(pool.map(ask, range(ASKERS)))


def test_processes_of_their_own(store: str) -> None:
    expected = answers(store, 0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for told in pool.starmap(answers, [(store, 1), (store, 2), (store, 3)]):
            assert_same(told, expected)


def test_readers_while_another_document_is_captured(tmp_path: Path) -> None:
    """A reader that opened the atlas before a capture went on keeps its answers; one that opens later sees more."""
    store = tmp_path / "a.zarr"
    attlas.capture("demo", TEXTS, store, ids=["a", "b"])
    atlas = attlas.open_atlas(store)
    expected = answer(atlas, ("a", 1, 0, 5))
    over = threading.Event()

    def ask() -> int:
        count = 0
        while not over.is_set() or count == 0:
            for value, right in zip(answer(attlas.open_atlas(store), ("a", 1, 0, 5)), expected, strict=True):
                np.testing.assert_array_equal(value, right)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        attlas.capture("demo", TEXTS, tmp_path / "other.zarr", ids=["a", "b"])
        attlas.capture("demo", TEXTS, store, ids=["a", "b"], resume=True)  # nothing left to do
        over.set()
        assert all(one.result() > 0 for one in asked)
