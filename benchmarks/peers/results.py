"""The result file: what was measured, on which machine, by which command. One JSON file, kept in the repository."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.peers.correctness import Check
from benchmarks.peers.watch import OK

__all__ = ["SCHEMA", "MachineLimits", "Results", "Row", "describe_machine", "read_results", "renewed", "write_results"]

SCHEMA = "attlas-peers-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender at one length.

    seconds and peak_bytes hold one number a repeat, of memory above the loaded model. Where status is not `ok` they
    hold what had been spent when the run ended, so the least it would take, or nothing where it had not begun.
    """

    contender: str
    tokens: int
    status: str
    seconds: tuple[float, ...] = ()
    peak_bytes: tuple[int, ...] = ()
    bytes_written: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLimits:
    """Floating-point operations a second of q.k and of square matrices; bytes a second that the disk takes."""

    qk_flops: float
    matmul_flops: float
    disk_write: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """machine, model, settings, environments: what the document prints beside the rows.

    limits: what the machine allows at best, see `MachineLimits`; None where it was not measured.
    """

    command: str
    date: str
    machine: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    environments: Mapping[str, Mapping[str, str]]
    correctness: Sequence[Check] = ()
    rows: Sequence[Row] = field(default_factory=list)
    limits: MachineLimits | None = None


def write_results(results: Results, path: Path) -> None:
    """Written whole or not at all, after every length: a run that is broken off leaves what it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"schema": SCHEMA} | asdict(results), indent=1) + "\n")
    part.replace(path)


def read_results(path: Path) -> Results:
    """Raises ValueError where the file has another schema."""
    found = json.loads(path.read_text())
    schema = found.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"{path.name} has schema {schema!r}, and {SCHEMA!r} is read here: measure again")
    checks = [Check(**one) for one in found.pop("correctness")]
    rows = [
        Row(**one | {"seconds": tuple(one["seconds"]), "peak_bytes": tuple(one["peak_bytes"])})
        for one in found.pop("rows")
    ]
    limits = found.pop("limits", None)
    return Results(**found, correctness=checks, rows=rows, limits=None if limits is None else MachineLimits(**limits))


def renewed(old: Results, new: Results, names: Sequence[str], *, base: str) -> Results:
    """The old results with some contenders' rows and checks from the new ones, which `settings["renewed"]` tells.

    Lengths that the old ones lack are added, `base` too. `base` was run both times: how many times as long it took in
    the new run is told too, the mean over lengths; None where no length is in both.
    """

    def seconds(results: Results) -> dict[int, float]:
        return {r.tokens: median(r.seconds) for r in results.rows if r.contender == base and r.status == OK}

    before, after = seconds(old), seconds(new)
    shared = [after[tokens] / before[tokens] for tokens in before.keys() & after.keys()]
    told = {
        "names": list(names),
        "command": new.command,
        "date": new.date,
        "base": fmean(shared) if shared else None,
        "tokens": sorted({row.tokens for row in new.rows if row.contender in names}),
    }

    lengths = {row.tokens for row in old.rows}
    anew = [row for row in new.rows if row.contender in names or row.tokens not in lengths]
    places = {(row.contender, row.tokens) for row in anew}
    rows = [row for row in old.rows if (row.contender, row.tokens) not in places] + anew
    for tokens in sorted({row.tokens for row in anew} - lengths):
        ended = {r.contender: r.tokens for r in reversed(old.rows) if r.status != OK and r.tokens < tokens}
        rows += [
            Row(contender=name, tokens=tokens, status=f"not tried: failed at {at}")
            for name, at in ended.items()
            if (name, tokens) not in places
        ]
    checks = {check.contender: check for check in old.correctness}
    checks |= {check.contender: check for check in new.correctness if check.contender in names}
    return replace(
        old,
        rows=rows,
        correctness=list(checks.values()),
        settings={**old.settings, "renewed": [*old.settings.get("renewed", []), told]},
        limits=old.limits or new.limits,
        model={**new.model, **old.model},
    )


def describe_machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory and system; no name of the machine."""
    return {
        "processor": _value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{_value('/etc/os-release', 'PRETTY_NAME', '=') or platform.system()}, {platform.release()}",
    }


def _value(path: str, name: str, mark: str = ":") -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(mark, 1)[1].strip().strip('"') for line in lines if line.startswith(name)), None)
