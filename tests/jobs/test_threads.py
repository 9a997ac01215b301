"""Jobs leave torch's number of threads as they found it, in the caller, in its threads, and in threads made later."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from attlas import analysis
from attlas.jobs.threads import one_thread
from tests.analysis.test_statistics import write
from tests.storage.synthetic import synthetic


def default_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_tasks_that_overlap_put_back_what_the_first_found(three_threads: None) -> None:
    """B begins beside A, in a thread that is new and so finds A's 1, and ends after it: the default is 3 again."""
    a_inside, b_inside, a_done = threading.Event(), threading.Event(), threading.Event()
    alone: list[int] = []

    def first() -> None:
        with one_thread():
            a_inside.set()
            b_inside.wait()
        a_done.set()

    def second() -> None:
        a_inside.wait()
        with one_thread():
            b_inside.set()
            a_done.wait()
            alone.append(torch.get_num_threads())

    threads = [threading.Thread(target=task) for task in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == [1]
    assert default_of_a_new_thread() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("question", ["statistics", "head_diversity"])
def test_a_job_leaves_the_default_of_new_threads(three_threads: None, question: str) -> None:
    atlas = write(synthetic((150, 70, 120), seed=1), "threads")
    choices = {"pair_rows": 24} if question == "head_diversity" else {"sample": 120}
    for seed in range(12):
        getattr(analysis, question)(atlas, workers=2, save=False, seed=seed, **choices)
        assert default_of_a_new_thread() == 3, f"run {seed}"
        assert torch.get_num_threads() == 3
        time.sleep(0)
