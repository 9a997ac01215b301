"""Threads in which torch uses one thread each, for work that is spread by hand, and for work too small to spread.

Torch has one number of threads for each thread that asks, and one default that threads made later start from. Setting
the number sets the default too: here it is put back before anyone else can start from it, and the caller's own number
is never touched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

__all__ = ["alone", "available", "spread"]

T = TypeVar("T")

_MAKING = threading.Lock()
_own = threading.local()


def alone(task: Callable[[], T]) -> T:
    """Run a task with torch on one thread, without gradients, in the caller's inference mode; the caller waits.

    A question of a few rows, or of one tile, is answered sooner so: waking torch's threads takes longer than the work.
    """
    if _is_alone():
        with torch.no_grad():
            return task()
    return _pool().submit(_in_mode, torch.is_inference_mode_enabled(), task).result()


def available() -> int:
    """Threads over which `spread` would spread here."""
    return 1 if _is_alone() else torch.get_num_threads()


def spread(task: Callable[[int], None], costs: Sequence[int], *, small: int = 0) -> None:
    """Run task(0), task(1), ... on as many threads as torch has in the caller, those that cost most first.

    All run on one thread where they cost `small` together, or less.
    """
    order = iter(sorted(range(len(costs)), key=lambda i: -costs[i]))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                i = next(order, None)
            if i is None:
                return
            task(i)

    threads = 1 if sum(costs) <= small else min(available(), len(costs))
    if threads == 1:
        alone(work)
        return
    mode = torch.is_inference_mode_enabled()
    for running in [_pool().submit(_in_mode, mode, work) for _ in range(threads)]:
        running.result()


def _is_alone() -> bool:
    return getattr(_own, "alone", False) or torch.get_num_threads() == 1


def _in_mode(inference: bool, task: Callable[[], T]) -> T:
    with torch.inference_mode(inference), torch.no_grad():  # each thread has modes of its own
        return task()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """More threads than any caller spreads over, since several callers ask at once; one that waits costs nothing."""
    return ThreadPoolExecutor(4 * (os.cpu_count() or 1), thread_name_prefix="attlas-kernel", initializer=_become_alone)


def _become_alone() -> None:
    """Let torch use one thread in this thread, and leave the default of threads made later as it is."""
    with _MAKING:
        known, done = threading.Event(), threading.Event()

        def keep_default() -> None:
            default = torch.get_num_threads()  # a thread's first look is at the default
            known.set()
            done.wait()
            torch.set_num_threads(default)

        keeper = threading.Thread(target=keep_default)
        keeper.start()
        known.wait()
        torch.get_num_threads()  # a thread that has not looked yet would take the default at its first operation
        torch.set_num_threads(1)
        done.set()
        keeper.join()
    _own.alone = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process has none of its parent's threads
