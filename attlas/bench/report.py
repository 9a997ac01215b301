"""What a benchmark found, as values: rows, the limit each is near, how they grow with N; to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from attlas.bench.limits import DiskSpeed, Limits
from attlas.bench.machine import Machine
from attlas.errors import InputError

__all__ = ["SCHEMA", "Fit", "Limit", "Report", "Row", "Times", "fit_exponent"]

SCHEMA = "attlas-bench-1"
FIT_LEAST = 3
"""Sizes to a fit: through two points goes any power law."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of the repetitions of one contender, the warm-up left out. p95: of few repetitions nearly `most`."""

    median: float
    least: float
    most: float
    p95: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Raises ValueError where there are none."""
        found = np.asarray(seconds, dtype=np.float64)
        if found.size == 0:
            raise ValueError("no repetition was timed")
        return cls(
            median=float(np.median(found)),
            least=float(found.min()),
            most=float(found.max()),
            p95=float(np.quantile(found, 0.95)),
            count=int(found.size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What the machine allows at best: `seconds` that this work takes where nothing else stands in its way.

    name: "forward pass", "q.k", "matmul", "disk write", "disk read", "memory read" or "cores".
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender at one size. times None: it was left out, and `note` says why.

    task: what it did ("capture", "one row, cold", "write", ...). tokens: N. ratio: its time over the baseline's
    (`Report.ratio`), median over rounds; of `scale` the reverse, the speed-up. rate: in `rate_unit` at the median.
    peak_bytes: host memory above the loaded model; device_bytes: the same of a GPU. stored_bytes: on disk;
    moved_bytes: read or written by one repetition. workers: processes at work, `efficiency` the speed-up over one of
    them, divided by their number.
    """

    contender: str
    task: str
    tokens: int
    times: Times | None = None
    ratio: float | None = None
    rate: float | None = None
    rate_unit: str = ""
    peak_bytes: int | None = None
    device_bytes: int | None = None
    stored_bytes: int | None = None
    moved_bytes: int | None = None
    workers: int = 1
    efficiency: float | None = None
    limits: tuple[Limit, ...] = ()
    note: str = ""

    @property
    def nearest(self) -> tuple[str, float] | None:
        """The limit that accounts for the largest share of the row's time, and the share; None where none is known."""
        if self.times is None or not self.limits or self.times.median <= 0:
            return None
        most = max(self.limits, key=lambda limit: limit.seconds)
        return most.name, most.seconds / self.times.median

    @property
    def near(self) -> str:
        """The nearest limit in words: "1.06 x forward pass", "disk write 12%"."""
        found = self.nearest
        if found is None:
            return ""
        name, share = found
        if name == "forward pass":
            return f"{1 / share:.2f} x {name}" if share > 0 else ""
        return f"{name} {share:.0%}" if share >= 0.005 else f"{name} {share:.1%}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """seconds ~ N ** time, peak bytes ~ N ** memory; None where fewer than three sizes are known."""

    contender: str
    task: str
    time: float | None
    memory: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A benchmark. ratio: what `Row.ratio` is against. options: as asked. notes: what a reader must know.

    command: as it was typed, but for the places of folders.
    """

    workload: str
    model: str
    ratio: str
    machine: Machine
    limits: Limits
    rows: tuple[Row, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""

    @property
    def fits(self) -> tuple[Fit, ...]:
        """How every contender and task grows with N, where there are sizes enough."""
        found = []
        for contender, task in dict.fromkeys((row.contender, row.task) for row in self.rows):
            own = [row for row in self.rows if (row.contender, row.task) == (contender, task) and row.times]
            time = fit_exponent([r.tokens for r in own], [r.times.median for r in own if r.times])
            peaks = [(r.tokens, r.peak_bytes) for r in own if r.peak_bytes]
            memory = fit_exponent([n for n, _ in peaks], [p for _, p in peaks])
            if time is not None or memory is not None:
                found.append(Fit(contender=contender, task=task, time=time, memory=memory))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `nearest`, `near` and `fits` are told besides, and not read back."""
        rows = []
        for row in self.rows:
            nearest = row.nearest
            told = None if nearest is None else {"limit": nearest[0], "share": nearest[1], "words": row.near}
            rows.append(asdict(row) | {"limits": [asdict(limit) for limit in row.limits], "nearest": told})
        return {
            "schema": SCHEMA,
            "workload": self.workload,
            "model": self.model,
            "command": self.command,
            "ratio_to": self.ratio,
            "options": dict(self.options),
            "machine": asdict(self.machine) | {"gpus": list(self.machine.gpus)},
            "limits": asdict(self.limits),
            "rows": rows,
            "fits": [asdict(fit) for fit in self.fits],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Report:
        """The reverse of `to_json`; raises InputError where it is of another schema."""
        if told.get("schema") != SCHEMA:
            raise InputError(
                f"this report has the schema {told.get('schema')!r}, and is read as {SCHEMA}: make it anew"
            )
        disk = told["limits"]["disk"]
        return cls(
            workload=told["workload"],
            model=told["model"],
            command=told["command"],
            ratio=told["ratio_to"],
            options=told["options"],
            machine=Machine(**{**told["machine"], "gpus": tuple(told["machine"]["gpus"])}),
            limits=Limits(**{**told["limits"], "disk": None if disk is None else DiskSpeed(**disk)}),
            rows=tuple(_row(row) for row in told["rows"]),
            notes=tuple(told["notes"]),
        )


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The exponent p of values ~ sizes ** p, by least squares in log-log; None of fewer than three different sizes."""
    kept = [(n, v) for n, v in zip(sizes, values, strict=True) if n > 0 and v > 0]
    if len({n for n, _ in kept}) < FIT_LEAST:
        return None
    x, y = np.log(np.asarray(kept, dtype=np.float64)).T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def _row(told: Mapping[str, Any]) -> Row:
    known = {one.name for one in fields(Row)}
    values = {name: value for name, value in told.items() if name in known}
    times = values["times"]
    return Row(
        **{
            **values,
            "times": None if times is None else Times(**times),
            "limits": tuple(Limit(**limit) for limit in values["limits"]),
        }
    )
