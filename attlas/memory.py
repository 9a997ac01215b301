"""Memory of this process, as the system counts it. Light: imports nothing heavy."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["peak_memory", "resident_memory"]

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """The most bytes that were resident at once, so far.

    Where Linux tells it, its own count: getrusage's survives the exec that made a process, and so may be the parent's.
    """
    told = _status("VmHWM")
    if told is not None:
        return told
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory() -> int:
    """Bytes resident now; the peak where the system does not tell."""
    return _status("VmRSS") or peak_memory()


def _status(field: str) -> int | None:
    with suppress(OSError):
        found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
        return None if found is None else int(found.group(1)) * 1024
    return None
