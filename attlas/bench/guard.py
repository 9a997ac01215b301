"""The guard against becoming slow: ratios of two times, measured against recorded ones, with a band for noise.

A ratio is the least CPU time of a contender over the least of its base, of many short interleaved rounds. CPU time does
not count the wait for a core that a neighbour has, and what a neighbour does to caches only ever adds to it, so that
the least is disturbed least. What it cannot see is waiting: for a disk, or for a lock. Seconds are never compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from attlas.bench.rounds import Contender, Progress, run_rounds
from attlas.errors import InputError

__all__ = ["BAND_LEAST", "Pair", "Recorded", "Verdict", "judge", "load", "measure", "record", "save"]

BAND_LEAST = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """Two contenders whose ratio is guarded; one with its own clock tells CPU seconds. rounds: of a measurement."""

    name: str
    contender: Contender
    base: Contender
    base_name: str
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """ratio: median of `runs`. band: by what share of it a measured ratio may be greater."""

    base: str
    ratio: float
    band: float
    runs: tuple[float, ...]

    @property
    def most(self) -> float:
        return self.ratio * (1 + self.band)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A measured ratio beside the recorded one."""

    name: str
    ratio: float
    recorded: Recorded

    @property
    def is_slower(self) -> bool:
        return self.ratio > self.recorded.most


def measure(pair: Pair, *, progress: Progress | None = None) -> float:
    """Least CPU time of the contender over that of its base."""
    contenders = {"contender": pair.contender, "base": pair.base}
    timings = run_rounds(contenders, rounds=pair.rounds, progress=progress, clock=time.process_time)
    return timings.times("contender").least / timings.times("base").least


def record(base: str, runs: Sequence[float]) -> Recorded:
    """What to hold later runs to: the median of several; as band all that lies between them, at least BAND_LEAST."""
    found = np.asarray(runs, dtype=np.float64)
    ratio = float(np.median(found))
    band = max(BAND_LEAST, float(found.max() - found.min()) / ratio)
    return Recorded(
        base=base, ratio=round(ratio, 4), band=round(band, 4), runs=tuple(round(float(run), 4) for run in found)
    )  # fmt: skip


def judge(
    pairs: Sequence[Pair], recorded: Mapping[str, Recorded], *, attempts: int = 3, progress: Progress | None = None
) -> list[Verdict]:
    """Measure every pair; one that comes out slower is measured again, and the least of its ratios counts.

    Raises InputError where a pair was never recorded.
    """
    verdicts = []
    for pair in pairs:
        if pair.name not in recorded:
            raise InputError(f"{pair.name} has no recorded ratio: record it with --record")
        known = recorded[pair.name]
        verdict = Verdict(name=pair.name, ratio=measure(pair, progress=progress), recorded=known)
        for _ in range(attempts - 1):
            if verdict.is_slower:
                verdict = Verdict(
                    name=pair.name, ratio=min(verdict.ratio, measure(pair, progress=progress)), recorded=known
                )
        verdicts.append(verdict)
    return verdicts


def save(path: Path, recorded: Mapping[str, Recorded], machine: str) -> None:
    """machine: where they were recorded, for people."""
    told = {"machine": machine, "ratios": {name: asdict(one) for name, one in recorded.items()}}
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Recorded]:
    """Raises InputError where there is no such file, or it is none of ours."""
    try:
        ratios = json.loads(path.read_text(encoding="utf-8"))["ratios"]
        return {name: Recorded(**{**one, "runs": tuple(one["runs"])}) for name, one in ratios.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no recorded ratios ({type(error).__name__}): make them with --record"
        ) from error
