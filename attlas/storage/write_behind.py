"""Writing behind: what is gathered goes to the store on a thread of its own, while the next layer is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["WriteBehind"]

QUEUE_BYTES = 256 * 2**20


class WriteBehind:
    """Runs writes in order, one at a time, on a thread; holds at most `most_bytes` of what is not yet written.

    A write that fails fails the next `put` or `drain`, and nothing is written after it.
    """

    def __init__(self, most_bytes: int = QUEUE_BYTES) -> None:
        self.most_bytes = most_bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="attlas-write")
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._error: BaseException | None = None
        self._last: Future[None] | None = None

    def put(self, write: Callable[[], None], size: int) -> None:
        """Queue a write of `size` bytes; waits while the queue is full, but never for a write larger than it."""
        with self._room:
            self._room.wait_for(lambda: not self._waiting_bytes or self._waiting_bytes + size <= self.most_bytes)
            self._raise()
            self._waiting_bytes += size
        self._last = self._pool.submit(self._run, write, size)

    def drain(self) -> None:
        """Wait until everything is written; raises what a write raised."""
        if self._last is not None:
            self._last.result()
        self._raise()

    def close(self, *, drop: bool = False) -> None:
        """End the thread. drop: leave out what has not begun."""
        if drop and self._error is None:
            self._error = RuntimeError("writing was given up")
        self._pool.shutdown(wait=True)

    def _run(self, write: Callable[[], None], size: int) -> None:
        try:
            if self._error is None:
                write()
        except BaseException as error:
            self._error = error
        finally:
            with self._room:
                self._waiting_bytes -= size
                self._room.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
