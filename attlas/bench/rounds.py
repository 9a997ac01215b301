"""Interleaved repetitions: each round runs every contender once, in rotating order, so that a slow minute hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attlas.bench.report import Times

__all__ = ["Contender", "Progress", "Timings", "order_of", "run_rounds"]

Contender = Callable[[], float | None]
"""Does the work once. Returns the seconds it took by its own clock, or None: then the call is timed."""
Progress = Callable[[str], None]
"""Called with what is run next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """seconds[name][r]: of a contender in round r, warm-up left out."""

    seconds: Mapping[str, tuple[float, ...]]

    def times(self, name: str) -> Times:
        return Times.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """Median over the rounds of name / base: what slows a whole round cancels out."""
        return float(np.median(np.divide(self.seconds[name], self.seconds[base])))


def order_of(names: Sequence[str], turn: int) -> list[str]:
    """The contenders in the order of round `turn`: each is first, second, ... equally often."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def run_rounds(
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    warm_ups: int = 1,
    before: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Run `warm_ups` rounds that do not count, then `rounds` that do.

    before: called with the contender's name ahead of each run, its time not counted. progress: called ahead of each
    run. clock: that times the calls.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_ups + rounds):
        counted = turn - warm_ups
        for name in order_of(names, max(counted, 0)):
            if progress is not None:
                progress(f"{name}, " + ("warm-up" if counted < 0 else f"round {counted + 1} of {rounds}"))
            if before is not None:
                before(name)
            begin = clock()
            own = contenders[name]()
            taken = clock() - begin if own is None else own
            if counted >= 0:
                seconds[name].append(taken)
    return Timings(seconds={name: tuple(times) for name, times in seconds.items()})
