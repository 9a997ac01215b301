"""The machine and its limits are measured: numbers that a machine can have, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import torch

from attlas.bench.limits import drop_caches, matmul_speed, measure_disk
from attlas.bench.machine import find_machine


def test_matmul_speed_is_that_of_a_machine() -> None:
    found = matmul_speed(256, 64, 256, heads=2, dtype=torch.float32, device="cpu")
    assert 1e8 < found < 1e15


def test_disk_speeds(tmp_path: Path) -> None:
    found = measure_disk(tmp_path / "new", size=2**20)
    assert 1e5 < found.write < 1e12
    assert 1e5 < found.read_cold < 1e12
    assert 1e6 < found.read_warm < 1e12
    assert list((tmp_path / "new").iterdir()) == []


def test_dropping_caches_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 10_000)
    drop_caches(tmp_path)
    drop_caches(tmp_path / "folder" / "file")
    assert (tmp_path / "folder" / "file").read_bytes() == b"x" * 10_000


def test_the_machine_says_what_it_is(tmp_path: Path) -> None:
    found = find_machine(tmp_path)
    assert found.cores >= 1
    assert found.memory > 2**30
    assert found.libraries["torch"].startswith("2.")
    assert found.torch_threads == torch.get_num_threads()
    assert " on " in found.disk
