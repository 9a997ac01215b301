"""Jobs leave torch's number of threads as they found it, in the caller, in its threads, and in threads made later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from attlas import analysis
from tests.analysis.test_statistics import write
from tests.storage.synthetic import synthetic


def default_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("question", ["statistics", "head_diversity"])
def test_a_job_leaves_the_default_of_new_threads(three_threads: None, question: str) -> None:
    atlas = write(synthetic((150, 70, 120), seed=1), "threads")
    choices = {"pair_rows": 24} if question == "head_diversity" else {"sample": 120}
    for seed in range(12):
        getattr(analysis, question)(atlas, workers=2, save=False, seed=seed, **choices)
        assert default_of_a_new_thread() == 3, f"run {seed}"
        assert torch.get_num_threads() == 3
        time.sleep(0)
