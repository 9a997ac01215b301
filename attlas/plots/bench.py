"""Figures of a benchmark: growth with N on logarithmic axes, speed-up over workers, or one bar a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attlas.bench.report import Report, Row
from attlas.errors import InputError
from attlas.parse import parse_instance
from attlas.plots.style import INK, PALE, new_figure, styled

__all__ = ["bench_figure"]

COLOURS = ("#22303c", "#1f5f86", "#c26a1b", "#3d7a4e", "#8c3b6e", "#7a6a2f", "#4c86a8", "#b3361b")
MARKERS = "osD^vP*X"


def bench_figure(report: Report) -> Figure:
    """Time and memory against N where there are several N, speed-up where there are workers, bars elsewhere.

    report: what `attlas bench ... --json` writes, read by `attlas.bench.report.Report.from_json`. Raises InputError
    where nothing was timed.
    """
    report = parse_instance(report, "report", Report, "give a Report, which attlas bench --json writes")
    timed = [row for row in report.rows if row.times is not None]
    if not timed:
        raise InputError("nothing was timed: there is nothing to draw")
    with styled():
        if report.workload == "scale":
            figure = _speed_up(report, timed)
        elif len({row.tokens for row in timed}) > 1 and len({row.task for row in timed}) == 1:
            figure = _growth(report, timed)
        else:
            figure = _bars(timed)
        figure.suptitle(
            f"attlas bench {report.workload}, {Path(report.model).name}\n{report.machine.cpu}, {report.machine.cores} "
            f"cores, {report.limits.dtype}, {report.limits.device}",
            x=0.01, ha="left", fontsize=10, color=INK,
        )  # fmt: skip
    return figure


def _growth(report: Report, rows: list[Row]) -> Figure:
    """A line a contender, its range as a bar; the fitted exponent in the legend."""
    fits = {fit.contender: fit for fit in report.fits}
    has_memory = any(row.peak_bytes for row in rows)
    figure = new_figure(4.6 * (1 + has_memory) + 0.4, 4.2)
    panels = np.atleast_1d(figure.subplots(1, 1 + has_memory))
    _lines(
        panels[0], rows, "time", "s", lambda row: row.times.median if row.times else None,
        {name: fit.time for name, fit in fits.items()},
    )  # fmt: skip
    if has_memory:
        _lines(
            panels[1], rows, "peak memory above the loaded model", "MB",
            lambda row: row.peak_bytes / 1e6 if row.peak_bytes else None,
            {name: fit.memory for name, fit in fits.items()},
        )  # fmt: skip
    return figure


def _lines(
    panel: Any,
    rows: list[Row],
    what: str,
    unit: str,
    value: Callable[[Row], float | None],
    exponents: dict[str, float | None],
) -> None:
    for i, name in enumerate(dict.fromkeys(row.contender for row in rows)):
        own = [(row, found) for row in rows if row.contender == name and (found := value(row)) is not None]
        if not own:
            continue
        x, y = [row.tokens for row, _ in own], [found for _, found in own]
        exponent = exponents.get(name)
        label = name if exponent is None else f"{name}, N^{exponent:.2f}"
        colour = COLOURS[i % len(COLOURS)]
        panel.plot(x, y, marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.4, color=colour, label=label)
        if what == "time":
            low, high = ([getattr(row.times, end) for row, _ in own] for end in ("least", "most"))
            panel.vlines(x, low, high, color=colour, lw=3, alpha=0.3)
    _log_axes(panel, [row.tokens for row in rows])
    panel.set_xlabel("N (tokens)")
    panel.set_ylabel(unit)
    panel.set_title(what)
    panel.legend(frameon=False, fontsize=8)


def _log_axes(panel: Any, places: list[int]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    ticks = sorted(set(places))
    panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.yaxis.set_major_formatter(lambda v, _place: f"{v:g}")
    panel.yaxis.set_minor_formatter(lambda v, _place: f"{v:g}" if f"{v:e}"[0] in "25" else "")
    panel.tick_params(axis="y", which="both", labelsize=8)
    panel.grid(True, which="major", color=PALE, alpha=0.25, lw=0.6)


def _speed_up(report: Report, rows: list[Row]) -> Figure:
    """Speed-up over workers beside the ideal, and where the machine has no more cores."""
    figure = new_figure(5.4, 4.2)
    panel = figure.subplots()
    most = max(row.workers for row in rows)
    panel.plot([1, most], [1, most], color=PALE, lw=1, ls="--", label="ideal")
    for i, task in enumerate(dict.fromkeys(row.task for row in rows)):
        own = sorted((row for row in rows if row.task == task and row.ratio), key=lambda row: row.workers)
        panel.plot(
            [row.workers for row in own], [row.ratio or 0.0 for row in own], marker=MARKERS[i], lw=1.4,
            color=COLOURS[i + 1], label=task,
        )  # fmt: skip
    cores = report.machine.cores
    if most > cores:
        panel.axvspan(cores, most, color=PALE, alpha=0.15, lw=0)
        panel.text(cores, 1.0, f" more workers than the {cores} cores", color=INK, fontsize=8, va="bottom")
    panel.set_xticks(sorted({row.workers for row in rows}))
    panel.set_xlabel("workers")
    panel.set_ylabel("times as fast as one")
    panel.legend(frameon=False, fontsize=8)
    return figure


def _bars(rows: list[Row]) -> Figure:
    """A bar a row on a logarithmic axis: the median, and a line from the least to the most."""
    figure = new_figure(7.6, 0.34 * len(rows) + 1.3)
    panel = figure.subplots()
    names = list(dict.fromkeys(row.contender for row in rows))
    low = min(row.times.least for row in rows if row.times) / 3
    for place, row in enumerate(rows):
        assert row.times is not None
        colour = COLOURS[1 + names.index(row.contender) % (len(COLOURS) - 1)]
        panel.barh(place, row.times.median - low, left=low, height=0.7, color=colour, alpha=0.75)
        panel.plot([row.times.least, row.times.most], [place, place], color=INK, lw=1)
        near = f"  {row.near}" if row.near else ""
        panel.text(row.times.most, place, f"  {row.times.median:.3g} s{near}", va="center", fontsize=7, color=INK)
    panel.set_xscale("log")
    panel.set_xlim(low, max(row.times.most for row in rows if row.times) * 12)
    panel.xaxis.set_major_formatter(lambda v, _place: f"{v:g}")
    panel.set_yticks(range(len(rows)), [_label(row, rows) for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("s")
    return figure


def _label(row: Row, rows: list[Row]) -> str:
    parts = [row.task] if len({one.task for one in rows}) > 1 else []
    parts += [f"{row.tokens:,} tokens"] if len({one.tokens for one in rows}) > 1 else []
    return ", ".join([*parts, row.contender])
