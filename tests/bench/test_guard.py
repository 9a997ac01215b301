"""The guard passes what is as fast as recorded, and fails what was slowed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from attlas.bench.guard import Pair, Recorded, judge, load, measure, record, save
from attlas.errors import InputError
from benchmarks import smoke


def pair(ratio: float, *, name: str = "a", noise: tuple[float, ...] = (1.0,)) -> Pair:
    """Contenders with clocks of their own: `ratio` seconds times one of `noise` after another, against one second."""
    turn = iter(noise * 1000)
    return Pair(
        name=name, contender=lambda: ratio * next(turn), base=lambda: 1.0, base_name="forward pass", rounds=4
    )  # fmt: skip


def test_a_ratio_is_the_least_over_the_least() -> None:
    assert measure(pair(1.2, noise=(3.0, 1.0, 2.0, 9.0))) == pytest.approx(1.2)


def test_the_band_is_the_spread_and_at_least_a_quarter() -> None:
    assert record("numpy", [1.0, 1.1, 1.05]).band == 0.25
    wide = record("numpy", [1.0, 1.5, 2.0])
    assert wide.ratio == 1.5
    assert wide.band == pytest.approx(1 / 1.5, abs=1e-4)
    assert wide.most == pytest.approx(2.5, abs=1e-3)


@pytest.mark.parametrize(("ratio", "is_slower"), [(0.5, False), (1.0, False), (1.24, False), (1.26, True), (3, True)])
def test_beyond_the_band_is_slower(ratio: float, is_slower: bool) -> None:
    recorded = {"a": Recorded(base="forward pass", ratio=1.0, band=0.25, runs=(1.0,))}
    (verdict,) = judge([pair(ratio)], recorded)
    assert verdict.is_slower is is_slower
    assert verdict.ratio == pytest.approx(ratio)


def test_one_bad_moment_is_forgiven() -> None:
    recorded = {"a": Recorded(base="forward pass", ratio=1.0, band=0.25, runs=(1.0,))}
    noise = (3.0,) * 5 + (1.0,) * 5  # the first attempt, its warm-up included, is disturbed; the second is not
    (verdict,) = judge([pair(1.0, noise=noise)], recorded)
    assert not verdict.is_slower


def test_a_ratio_that_was_never_recorded_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--record"):
        judge([pair(1.0, name="b")], {})
    with pytest.raises(InputError, match="holds no recorded ratios"):
        load(tmp_path / "nothing.json")


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    found = {"a": record("numpy", [1.0, 1.1]), "b": record("forward pass", [2.0, 4.0])}
    save(tmp_path / "r.json", found, "a machine")
    assert load(tmp_path / "r.json") == found


def test_the_recorded_ratios_are_complete() -> None:
    found = load(smoke.RECORDED)
    assert set(found) == {
        "factors", "statistics", "short documents", "whole map", "exact statistics", "operator", "edited pass",
        "coarse tile",
    }  # fmt: skip
    assert all(0.25 <= one.band < 1 for one in found.values())


def burn(seconds: float) -> None:
    """Keep a core busy, by the clock that the guard reads."""
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass


@contextmanager
def busy_pairs() -> Iterator[dict[str, Pair]]:
    yield {
        "busy": Pair(
            name="busy", contender=lambda: burn(0.02), base=lambda: burn(0.01), base_name="half of it", rounds=3
        )
    }  # fmt: skip


def test_a_slowed_run_fails_and_the_same_run_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "pairs", busy_pairs)
    recorded = str(tmp_path / "smoke.json")
    made = CliRunner().invoke(smoke.main, ["--record", "--recorded", recorded])
    assert made.exit_code == 0, made.output
    assert load(Path(recorded))["busy"].ratio == pytest.approx(2.0, rel=0.1)
    same = CliRunner().invoke(smoke.main, ["--recorded", recorded])
    assert same.exit_code == 0, same.output
    slow = CliRunner().invoke(smoke.main, ["--recorded", recorded, "--slow", "busy", "--by", "2"])
    assert slow.exit_code == 1
    assert "SLOWER" in slow.output
    assert "slower than recorded, three times over: busy" in slow.output


@pytest.mark.slow
def test_the_guard_as_it_ships_sees_a_capture_that_runs_twice() -> None:
    command = [sys.executable, smoke.__file__, "--only", "factors", "--slow", "factors", "--by", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "SLOWER" in done.stdout
