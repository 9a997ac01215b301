"""The cache: bounded, each thing made once, two costly ones at a time, and what nobody wants any more is dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from attlas.errors import QuestionCancelledError, ServerBusyError
from attlas.server.cache import Cache


def array(size: int = 10) -> NDArray[np.uint8]:
    return np.zeros(size, np.uint8)


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to be within 5 s")


def test_bounded_and_the_least_used_goes_first() -> None:
    cache = Cache(35)
    made: list[int] = []

    def ask(key: int) -> None:
        def make() -> NDArray[np.uint8]:
            made.append(key)
            return array()

        cache.get(key, make)

    for key in (0, 1, 2, 0, 3, 0, 1):
        ask(key)
        assert cache.bytes <= 35
    assert made == [0, 1, 2, 3, 1]
    cache.get("large", lambda: array(1000))
    assert cache.bytes == 0


def test_what_is_kept_cannot_be_written_into() -> None:
    cache = Cache()
    with pytest.raises(ValueError, match="read-only"):
        cache.get("a", array)[0] = 1


def test_many_askers_and_one_maker() -> None:
    cache, made = Cache(), []

    def make() -> NDArray[np.uint8]:
        made.append(threading.get_ident())
        time.sleep(0.1)
        return array()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get("one", make, heavy=True), range(8)))
    assert len(made) == 1
    assert all(one is found[0] for one in found)


def test_a_maker_that_fails_is_followed_by_the_next() -> None:
    cache, tries = Cache(), []

    def make() -> NDArray[np.uint8]:
        tries.append(0)
        if len(tries) == 1:
            raise OSError("the store is away")
        return array()

    with pytest.raises(OSError, match="away"):
        cache.get("one", make, heavy=True)
    assert cache.get("one", make, heavy=True).shape == (10,)
    assert cache.get("one", make, heavy=True).shape == (10,)
    assert len(tries) == 2


def test_two_costly_ones_at_a_time_and_light_ones_beside_them() -> None:
    cache, at_once, most = Cache(), [0], [0]
    lock = threading.Lock()

    def make() -> NDArray[np.uint8]:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.03)
        with lock:
            at_once[0] -= 1
        return array()

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cache.get, key, make, heavy=True) for key in range(8)]
        wait_until(lambda: at_once[0] == 2)
        assert cache.get("light", array).shape == (10,)
        assert all(one.result().shape == (10,) for one in asked)
    assert most[0] == 2


def test_one_that_waits_is_cancelled_and_its_place_is_free() -> None:
    cache, go = Cache(most_heavy=1, most_waiting=2), threading.Event()
    wanted = [True, True]

    def slow() -> NDArray[np.uint8]:
        assert go.wait(5)
        return array()

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(cache.get, "first", slow, heavy=True)
        wait_until(lambda: cache._heavy == 1)
        waiting = [pool.submit(cache.get, key, array, heavy=True, wanted=lambda k=key: wanted[k]) for key in (0, 1)]
        wait_until(lambda: cache._waiting == 2)
        with pytest.raises(ServerBusyError, match="2 questions of the costly sort wait already: ask again"):
            cache.get("third", array, heavy=True)
        wanted[0] = False
        with pytest.raises(QuestionCancelledError, match="cancelled"):
            waiting[0].result(5)
        assert cache._waiting == 1
        go.set()
        assert first.result(5).shape == waiting[1].result(5).shape == (10,)
    assert (cache._waiting, cache._heavy, cache._making) == (0, 0, set())
