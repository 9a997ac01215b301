"""A worker that takes too much is killed, and its row says so; one that fails tells its error."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers.watch import NO_DISK, NO_MEMORY, OK, TOO_LONG, Limits, Watched, watch

READY = "import json, time; print(json.dumps({'event': 'ready', 'time': time.time(), 'loaded_bytes': 0}), flush=True)\n"
DONE = "print(json.dumps({'event': 'done', 'seconds': 1.5, 'peak_bytes': 7, 'bytes_written': 3}), flush=True)\n"
MEGABYTE = 1_000_000


def run(code: str, output: Path, limits: Limits) -> Watched:
    return watch([sys.executable, "-c", code], environment=os.environ, output=output, limits=limits)


def test_what_a_worker_says_is_kept(tmp_path: Path) -> None:
    found = run(READY + DONE, tmp_path, Limits(memory=10**9, disk=10**9, seconds=60))
    assert found == Watched(status=OK, seconds=1.5, peak_bytes=7, bytes_written=3)


def test_too_much_memory(tmp_path: Path) -> None:
    """The process asks for 10 GB in small steps, and is gone soon after its first 200 MB."""
    code = READY + "held = []\nfor _ in range(1000): held.append(bytearray(b'x') * 10_000_000); time.sleep(0.005)\n"
    found = run(code + DONE, tmp_path, Limits(memory=200 * MEGABYTE, seconds=60))
    assert found.status == NO_MEMORY
    assert found.peak_bytes is not None
    assert 200 * MEGABYTE < found.peak_bytes < 2_000 * MEGABYTE
    assert found.seconds is not None
    assert found.seconds > 0


def test_too_long(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = run("import time; time.sleep(60)", tmp_path, Limits(seconds=0.3))
    assert time.monotonic() - begin < 20
    assert found == Watched(status=TOO_LONG, seconds=None, peak_bytes=None)


def test_too_much_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.watch.LOOK_AT_DISK_SECONDS", 0.05)
    code = f"import time; open({str(tmp_path / 'a')!r}, 'wb').write(bytes({2 * MEGABYTE})); time.sleep(60)"
    assert run(code, tmp_path, Limits(disk=MEGABYTE, seconds=60)).status == NO_DISK


def test_an_error_is_told_in_its_first_line(tmp_path: Path) -> None:
    assert run("raise ValueError('no such layer')", tmp_path, Limits()).status == "failed: ValueError: no such layer"
    said = "print(json.dumps({'event': 'failed', 'error': 'KeyError: 3', 'no_memory': False})); raise SystemExit(1)"
    assert run(READY + said, tmp_path, Limits()).status == "failed: KeyError: 3"
    torch = "print(json.dumps({'event': 'failed', 'error': 'RuntimeError: x', 'no_memory': True})); raise SystemExit(1)"
    assert run(READY + torch, tmp_path, Limits()).status == NO_MEMORY
    assert "status 3" in run("raise SystemExit(3)", tmp_path, Limits()).status


def test_killed_by_the_system_is_out_of_memory(tmp_path: Path) -> None:
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path, Limits()).status == NO_MEMORY
