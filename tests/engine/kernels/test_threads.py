"""Work on threads of our own: torch's numbers of threads stay what they were, and small work takes one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from attlas.engine.kernels import door, threads
from attlas.engine.kernels.measure import Measure
from attlas.engine.kernels.threads import alone, spread
from tests.engine.kernels.cases import Case, case, truth


def default_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """Torch has three threads, and no thread of ours is made yet."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    threads._pool.cache_clear()
    yield
    torch.set_num_threads(before)


def test_a_task_alone_has_one_thread_and_the_caller_keeps_its_own() -> None:
    for _ in range(12):
        threads._pool.cache_clear()
        assert alone(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 3
        assert default_of_a_new_thread() == 3


def test_threads_of_ours_made_at_once_leave_the_default() -> None:
    meet = threading.Barrier(3)
    ones: list[int] = []

    def task(_: int) -> None:
        meet.wait(timeout=20)
        ones.append(torch.get_num_threads())

    for _ in range(12):
        threads._pool.cache_clear()
        spread(task, [1, 1, 1])
        assert default_of_a_new_thread() == 3
    assert ones == [1] * 36


def test_every_task_is_run_once_the_costly_first_and_small_work_on_one_thread() -> None:
    order: list[int] = []
    where: set[int] = set()

    def task(i: int) -> None:
        order.append(i)
        where.add(threading.get_ident())

    costs = [3, 9, 1, 7]
    spread(task, costs, small=20)
    assert order == [1, 3, 0, 2]
    assert len(where) == 1
    order.clear()
    spread(task, costs * 50)
    assert sorted(order) == list(range(200))


def test_an_error_in_a_task_reaches_the_caller() -> None:
    def task(i: int) -> None:
        if i == 2:
            raise ValueError("task 2")

    for small in (0, 100):
        with pytest.raises(ValueError, match="task 2"):
            spread(task, [1, 1, 1, 1], small=small)


def test_tensors_made_alone_can_be_changed_where_the_caller_can_change_its_own() -> None:
    assert not alone(lambda: torch.ones(2)).is_inference()
    with torch.inference_mode():
        assert alone(lambda: torch.ones(2)).is_inference()


def test_a_small_tile_wakes_no_thread_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question of one tile runs with one thread; a whole map with the caller's three."""
    problem, _ = case(Case(rows=64))
    lse_HN = torch.from_numpy(truth(Case(rows=64)).lse_HN).float()
    real, seen = torch.bmm, []

    def watched(*args: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return real(*args)

    monkeypatch.setattr(torch, "bmm", watched)
    found = door.weights(problem, lse_HN)
    np.testing.assert_allclose(found.numpy(), truth(Case(rows=64)).a_HNM, atol=2e-6)
    monkeypatch.setattr(door, "SMALL_PRODUCTS", 0)
    door.weights(problem, lse_HN)
    assert seen == [1, 3]


def test_askers_at_once_get_their_own_answers() -> None:
    cases = [Case(rows=70, seed=seed) for seed in range(6)]
    expected = [truth(one) for one in cases]
    wrong: list[str] = []

    def ask(number: int) -> None:
        problem, _ = case(cases[number])
        lse_HN = torch.from_numpy(expected[number].lse_HN).float()
        for _ in range(10):
            found = door.statistics(problem, lse_HN, Measure(names=("entropy",))).statistics["entropy"]
            if not np.allclose(found.numpy(), expected[number].statistics["entropy"], atol=1e-5):
                wrong.append(f"asker {number}")

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert not wrong
