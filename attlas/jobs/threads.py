"""How many threads torch uses inside tasks that run side by side, without a trace for what runs later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]

_LOCK = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Where `wanted`, torch works on one thread in this thread, until the end.

    What a thread sets for itself torch takes as the default of threads made later, and tasks overlap: one that began
    beside another would find, and put back, the other's 1. So all that overlap put back what the first of them found.
    """
    global _inside, _before
    if not wanted:
        yield
        return
    with _LOCK:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            torch.set_num_threads(_before)
