"""Runs in a process of their own, so that their peak memory is theirs and no other contender's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attlas.errors import AttlasError, InputError, first_line
from attlas.memory import peak_memory, resident_memory

__all__ = ["Peak", "measure_peaks"]

Works = Sequence[Callable[[], Any]]

CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Bytes of resident memory: once the work was prepared (the model loaded), and the most while it ran.

    device: the most that torch took of a GPU, above what the model takes; 0 without one.
    """

    prepared: int
    most: int
    device: int

    @property
    def above(self) -> int:
        """The most above what was there before it ran."""
        return max(0, self.most - self.prepared)


def measure_peaks(prepare: Callable[..., Works], *arguments: Any) -> list[Peak]:
    """prepare(*arguments) in a fresh process gives one work or more, whose peaks are measured one after another.

    The works go from small to large: what an allocator keeps of one hides in the next. `prepare` and its arguments are
    pickled: a function of a module. Raises what the process raised of attlas's own
    errors, and InputError where it died, most often for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, prepare, arguments), name="attlas-bench", daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError as error:
        process.join()
        raise InputError(
            f"the process that measured memory ended with status {process.exitcode}: most often it had none left; "
            "take fewer --tokens, or leave memory out with --no-peak"
        ) from error
    finally:
        process.join()
        ours.close()
    if isinstance(found, BaseException):
        raise found
    assert isinstance(found, list)
    return found


def _run(told: Connection, prepare: Callable[..., Works], arguments: tuple[Any, ...]) -> None:
    try:
        works, peaks = prepare(*arguments), []
        device = _forget_device_peak()  # imports torch, which takes memory of its own
        prepared = _forget_peak()
        for work in works:
            _forget_peak()
            _forget_device_peak()
            work()
            peaks.append(Peak(prepared=prepared, most=peak_memory(), device=_device_peak() - device))
        told.send(peaks)
    except AttlasError as error:
        told.send(error)
    except Exception as error:  # others may not survive pickling, and their traceback is lost on the way anyway
        told.send(RuntimeError(f"{type(error).__name__}: {first_line(error)}"))
    finally:
        told.close()


def _forget_peak() -> int:
    """Begin a new peak, as Linux allows, and return the bytes resident now. Loading may have taken more for a while."""
    with suppress(OSError):
        CLEAR.write_text("5")
    return resident_memory()


def _forget_device_peak() -> int:
    import torch

    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated())


def _device_peak() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0
