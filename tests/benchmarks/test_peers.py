"""The rounds: their order turns, longer documents run once, and a contender that failed is not tried at longer ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.contenders import CONTENDERS, Contender
from benchmarks.peers.results import Row
from benchmarks.peers.run import Bench, measure
from benchmarks.peers.watch import NO_MEMORY, OK, Limits, Watched

THREE = CONTENDERS[:3]


def rows_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, lengths: list[int], fails: dict[tuple[str, int], Watched]
) -> tuple[list[list[Row]], list[tuple[str, int]]]:
    ran: list[tuple[str, int]] = []

    def run(_bench: Bench, one: Contender, tokens: int, output: Path) -> Watched:
        assert not output.exists()
        output.mkdir()
        ran.append((one.name, tokens))
        fine = Watched(status=OK, seconds=float(len(ran)), peak_bytes=tokens, bytes_written=5)
        return fails.get((one.name, tokens), fine)

    monkeypatch.setattr(Bench, "run", run)
    bench = Bench(model=folder, vocabulary=100, pythons={}, threads=1, limits=Limits())
    return list(measure(bench, THREE, lengths, 2, folder)), ran


def test_order_turns_and_long_documents_run_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows, ran = rows_of(monkeypatch, tmp_path, [8192, 64], {})
    a, b, c = (one.name for one in THREE)
    assert ran == [*((n, 64) for n in (a, b, c, b, c, a)), *((n, 8192) for n in (c, a, b))]
    assert rows[0][0] == Row(
        contender=a, tokens=64, status=OK, seconds=(1.0, 6.0), peak_bytes=(64, 64), bytes_written=5
    )
    assert rows[1][2].seconds == (7.0,)


def test_what_failed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = THREE[1].name
    killed = Watched(status=NO_MEMORY, seconds=3.0, peak_bytes=99)
    rows, ran = rows_of(monkeypatch, tmp_path, [64, 128, 256], {(name, 128): killed})
    assert [tokens for who, tokens in ran if who == name] == [64, 64, 128]
    assert [row.status for part in rows for row in part if row.contender == name] == [
        OK,
        NO_MEMORY,
        "not tried: failed at 128",
    ]
    assert rows[1][1].seconds == (3.0,)
    assert rows[2][1].seconds == ()


def test_every_worker_is_there_and_every_environment_is_pinned() -> None:
    import benchmarks.peers.run as script

    here = Path(script.__file__).parent
    for one in CONTENDERS:
        assert (here / "workers" / one.worker).exists()
        if one.environment != "attlas":
            pins: Any = (here / f"requirements-{one.environment}.txt").read_text().splitlines()
            assert all("==" in line for line in pins if not line.startswith("#"))
            assert "torch==2.13.0" in pins
