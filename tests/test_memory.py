"""Peak memory in bytes, whatever the system counts by."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attlas import memory

MB = 2**20


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = memory.resident_memory()
    array = np.ones(200 * MB, dtype=np.uint8)
    assert memory.resident_memory() - before > 190 * MB
    del array
    assert memory.peak_memory() >= before + 190 * MB
    assert memory.resident_memory() < before + 100 * MB


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("linux", 1024), ("freebsd14", 1024)])
def test_units_of_systems_without_proc(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", Path("/proc/nowhere"))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_maxrss=7_000))
    assert memory.peak_memory() == memory.resident_memory() == 7_000 * unit


def test_proc_and_getrusage_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    told = memory.peak_memory()
    monkeypatch.setattr(memory, "STATUS", Path("/proc/nowhere"))
    assert memory.peak_memory() >= told * 0.9  # getrusage's may be the parent's, and so larger
