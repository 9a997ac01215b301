"""What was made last, up to a number of bytes, each thing made once however many ask for it at the same time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

from attlas.errors import QuestionCancelledError, ServerBusyError

__all__ = ["Cache"]

T = TypeVar("T")

MOST_BYTES = 128 * 2**20
MOST_HEAVY = 2
"""Things of the costly sort that are made side by side: each holds tens of megabytes while it is made."""
MOST_WAITING = 32
LOOK_AGAIN = 0.05
"""Seconds after which one who waits looks whether the answer is still wanted."""


def _always() -> bool:
    return True


def _nbytes(made: Any) -> int:
    return int(made.nbytes)


class Cache:
    """Arrays, and what else has a size, by their key, least recently used first out. Safe to use from several threads.

    most_bytes: of the arrays kept. most_heavy: of the costly ones, how many are made at once. most_waiting: how many
    may wait for their turn at those.
    """

    def __init__(
        self, most_bytes: int = MOST_BYTES, *, most_heavy: int = MOST_HEAVY, most_waiting: int = MOST_WAITING
    ) -> None:
        self.most_bytes, self.most_heavy, self.most_waiting = most_bytes, most_heavy, most_waiting
        self.bytes = self.hits = self.misses = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._making: set[Hashable] = set()
        self._heavy = self._waiting = 0
        self._changed = threading.Condition()

    @property
    def heavy(self) -> int:
        """Things of the costly sort that are being made."""
        return self._heavy

    @property
    def waiting(self) -> int:
        """Askers who wait for their turn at those."""
        return self._waiting

    def get(
        self,
        key: Hashable,
        make: Callable[[], T],
        *,
        heavy: bool = False,
        wanted: Callable[[], bool] = _always,
        size: Callable[[T], int] = _nbytes,
    ) -> T:
        """What is kept under a key, made first where it is not; nobody may write into it.

        One asker makes it, in its own thread, and those who ask meanwhile wait for that. heavy: of the costly sort.
        wanted: asked while waiting, and before anything is made; False drops the question. size: bytes of what is made.
        Raises QuestionCancelledError where it is no longer wanted, ServerBusyError where too many wait already, and
        what `make` raises, which the next asker then tries again.
        """
        with self._changed:
            waits = False
            try:
                while True:
                    if key in self._kept:
                        self._kept.move_to_end(key)
                        self.hits += 1
                        found: T = self._kept[key][0]
                        return found
                    if not wanted():
                        raise QuestionCancelledError("the question was cancelled before it was answered: ask it again")
                    if key not in self._making and not (heavy and self._heavy >= self.most_heavy):
                        break
                    if not waits and heavy:
                        if self._waiting >= self.most_waiting:
                            raise ServerBusyError(
                                f"{self._waiting} questions of the costly sort wait already: ask again in a second"
                            )
                        waits = True
                        self._waiting += 1
                    self._changed.wait(LOOK_AGAIN)
            finally:
                self._waiting -= waits
            self._making.add(key)
            self.misses += 1
            self._heavy += heavy
        try:
            made = make()
            with self._changed:
                self._keep(key, made, size(made))
            return made
        finally:
            with self._changed:
                self._making.discard(key)
                self._heavy -= heavy
                self._changed.notify_all()

    def _keep(self, key: Hashable, made: Any, size: int) -> None:
        if isinstance(made, np.ndarray):
            made.setflags(write=False)
        self._kept[key] = made, size
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.bytes -= self._kept.popitem(last=False)[1][1]
