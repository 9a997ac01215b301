"""Interleaving: every contender once a round, in rotating order, the warm-up left out."""

from __future__ import annotations

import pytest

from attlas.bench.rounds import Timings, order_of, run_rounds


def test_rounds_rotate_and_the_warm_up_is_dropped() -> None:
    seen: list[str] = []
    dropped: list[str] = []
    clock = iter(range(100))

    def contender(name: str) -> float:
        seen.append(name)
        return float(next(clock))

    found = run_rounds(
        {name: lambda name=name: contender(name) for name in "abc"},  # type: ignore[misc]
        rounds=4, before=dropped.append,
    )  # fmt: skip
    assert "".join(seen) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert dropped == seen
    assert found.seconds == {"a": (3.0, 8.0, 10.0, 12.0), "b": (4.0, 6.0, 11.0, 13.0), "c": (5.0, 7.0, 9.0, 14.0)}


def test_each_contender_is_first_equally_often() -> None:
    firsts = [order_of(["a", "b", "c"], turn)[0] for turn in range(9)]
    assert {name: firsts.count(name) for name in "abc"} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_taken_within_rounds() -> None:
    timings = Timings(seconds={"slow": (2.0, 20.0, 200.0), "base": (1.0, 10.0, 100.0)})
    assert timings.ratio("slow", "base") == 2.0
    assert timings.times("slow").median == 20.0


def test_a_contender_without_a_clock_is_timed() -> None:
    found = run_rounds({"nothing": lambda: None}, rounds=3, warm_ups=0)
    assert found.times("nothing").count == 3
    assert 0 <= found.times("nothing").median == pytest.approx(0, abs=0.05)
