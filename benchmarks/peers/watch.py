"""One process, run under limits: it is killed when it takes too much memory, disk or time, and what it said is kept.

RLIMIT_AS counts what torch only reserves, and a control group needs rights that a user may not have; so the process's
resident memory is looked at every 20 ms, and the disk it fills every few seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["NO_DISK", "NO_MEMORY", "OK", "TOO_LONG", "Limits", "Watched", "watch"]

OK, NO_MEMORY, NO_DISK, TOO_LONG = "ok", "out of memory", "out of disk", "out of time"
LOOK_SECONDS, LOOK_AT_DISK_SECONDS = 0.02, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes resident, bytes in the output folder, seconds from start to end. None: no limit."""

    memory: int | None = None
    disk: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How a process ended. status: `ok`, one of the limits, or `failed: ...` with the error's first line.

    seconds and peak_bytes are the worker's own where it ended well. Where it did not, they are what had been spent,
    above the loaded model, when it ended, so the least that the work takes; None where the work had not begun.
    """

    status: str
    seconds: float | None
    peak_bytes: int | None
    bytes_written: int | None = None


def watch(command: Sequence[str], *, environment: Mapping[str, str], output: Path, limits: Limits) -> Watched:
    """Run a worker to its end, or to a limit. The limits hold for the one process: no worker starts others."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=said, stderr=errors, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            broken, peak = _until_end(process, output, limits)
        finally:
            _kill(process)
        ended = time.time()
        events = {one["event"]: one for one in _json_lines(said)}
        complaint = _last_line(errors)
    done, ready = events.get("done"), events.get("ready")
    if broken is None and process.returncode == 0 and done is not None:
        return Watched(
            status=OK, seconds=done["seconds"], peak_bytes=done["peak_bytes"], bytes_written=done["bytes_written"]
        )
    return Watched(
        status=broken or _why(process.returncode, events.get("failed"), complaint),
        seconds=None if ready is None else ended - ready["time"],
        peak_bytes=None if ready is None else max(0, peak - ready["loaded_bytes"]),
    )


def _until_end(process: subprocess.Popen[bytes], output: Path, limits: Limits) -> tuple[str | None, int]:
    """The limit that was broken, if any, and the most memory seen."""
    begin = looked = time.monotonic()
    peak = 0
    while process.poll() is None:
        now = time.monotonic()
        peak = max(peak, resident_bytes(process.pid))
        if limits.memory is not None and peak > limits.memory:
            return NO_MEMORY, peak
        if limits.seconds is not None and now - begin > limits.seconds:
            return TOO_LONG, peak
        if limits.disk is not None and now - looked > LOOK_AT_DISK_SECONDS:
            if folder_bytes(output) > limits.disk:
                return NO_DISK, peak
            looked = time.monotonic()
        time.sleep(LOOK_SECONDS)
    return None, peak


def resident_bytes(pid: int) -> int:
    """0 where the process has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder that is being written."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # a temporary file, renamed by now
                continue
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _why(code: int, failed: Mapping[str, Any] | None, complaint: str) -> str:
    if failed is not None:
        return NO_MEMORY if failed["no_memory"] else f"failed: {failed['error']}"
    if code == -signal.SIGKILL:  # not by us: the system was out of memory first
        return NO_MEMORY
    return f"failed: {complaint or f'ended with status {code} and said nothing'}"


def _json_lines(said: IO[str]) -> list[dict[str, Any]]:
    said.seek(0)
    return [json.loads(line) for line in said if line.startswith('{"event"')]


def _last_line(errors: IO[str]) -> str:
    errors.seek(0)
    return next((line.strip() for line in reversed(errors.readlines()) if line.strip()), "")
