"""A capture in a process of its own that is killed or interrupted at a moment of its writing, counted, not timed.

Before a file is written, while it has no name yet, once it has one, and before and after a file is deleted are five
moments. Processes are forked from one that has everything imported, so that a run takes a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401  imported before the fork
from zarr.storage import LocalStore, _local

import attlas
from attlas.capture import plan as plan_module
from attlas.engine.passage.documents import plan_packs

__all__ = ["run"]

TEXTS = [f"{'the cat sat on the mat. ' * (2 + i % 4)}the lamp {i} went out." for i in range(9)]
PACK_TOKENS = 60
MOST_SECONDS = 240
AGAIN = 0.03
"""Seconds to an impatient user's second interrupt."""


def run(store: Path, *, keep: str, shards: int = 1, stop: str = "", moment: int = -1) -> tuple[int, int]:
    """Capture into `store`, going on with what lies there; returns the exit code and how many moments there were.

    stop: "" not at all; "kill", "interrupt" or "interrupt twice" at the moment of that number. Exit code 130: it ended
    by the interrupt.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    counted = context.Value("i", 0)
    process: Any = context.Process(target=_capture, args=(store, keep, shards, stop, moment, counted))
    process.start()
    process.join(MOST_SECONDS)
    assert process.exitcode is not None, "a capture hangs"
    return process.exitcode, counted.value


def _capture(store: Path, keep: str, shards: int, stop: str, moment: int, counted: Any) -> None:
    torch.set_num_threads(1)
    vars(plan_module)["plan_packs"] = _small_packs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _watch(stop, moment, counted)
    code = 0
    with (store.parent / "log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            attlas.capture("demo", TEXTS, store, keep=keep, shards=shards, resume=True, chunk_tokens=16)
        except KeyboardInterrupt:
            code = 130
        except attlas.errors.AttlasError as error:
            print(f"{type(error).__name__}: {error}")
            code = 1
    os._exit(code)  # as fast as a shell's ^C leaves: nothing that still writes is waited for


def _small_packs(lengths: Any, *, pack_tokens: int, block: int) -> Any:
    return plan_packs(lengths, pack_tokens=min(pack_tokens, PACK_TOKENS), block=block)


def _watch(stop: str, moment: int, counted: Any) -> None:
    """Count the moments, and stop at one."""
    write, delete, lock = _local._atomic_write, LocalStore.delete, threading.Lock()

    def tick() -> None:
        with lock:
            number = counted.value
            counted.value += 1
        if number == moment and stop == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == moment and stop:
            os.kill(os.getpid(), signal.SIGINT)
            if stop == "interrupt twice":
                threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(AGAIN / 3)

    @contextmanager
    def watched(path: Path, mode: Any, exclusive: bool = False) -> Iterator[Any]:
        tick()
        with write(path, mode, exclusive) as file:
            yield file
            tick()
        tick()

    async def deleted(self: LocalStore, key: str) -> None:
        tick()
        await delete(self, key)
        tick()

    vars(_local)["_atomic_write"] = watched
    LocalStore.delete = deleted  # type: ignore[method-assign]
