"""Time and peak memory against length, log-log, a line for each contender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from PIL import Image

from attlas.plots.style import INK, PALE, new_figure, save, styled
from benchmarks.peers.results import Results, Row
from benchmarks.peers.watch import OK

__all__ = ["draw_growth", "save_small"]

COLOURS = {
    "forward": PALE,
    "attlas statistics": "#0b7a75",
    "attlas factors": "#12a594",
    "attlas maps": "#1f5fa8",
    "HF eager": "#c2410c",
    "HF eager, hooked": "#e08e0b",
    "TransformerLens": "#a21caf",
    "nnsight": "#be123c",
}
TICK_GAP = 1.45
"""Between two lengths that are written at the axis, as a factor."""
SHADES = 64


def draw_growth(results: Results) -> Figure:
    """Medians of the repeats. A cross is a run that was ended, at what it had spent by then: it needs more.

    One that was ended before it had spent as much as the shorter document took has no cross, which would say nothing.
    """
    with styled():
        figure = new_figure(11.0, 5.2)
        left, right = figure.subplots(1, 2)
        _panel(left, results.rows, "seconds", 1.0, "time", lambda value: f"{value:g} s")
        _panel(right, results.rows, "peak_bytes", 1e9, "peak memory above the loaded model", lambda v: f"{v:g} GB")
        found = {row.contender for row in results.rows}
        lines = [
            Line2D([], [], color=colour, lw=1.8, marker="o", ms=3.5, label=name) for name, colour in COLOURS.items()
        ]
        shown = [line for line in lines if line.get_label() in found]
        figure.legend(handles=shown, loc="outside right center", frameon=False, fontsize=8.5)
        model, settings = results.model, results.settings
        figure.suptitle(
            f"{model['name']}, {model['layers']} layers x {model['heads']} heads, one document, torch threads: "
            f"{settings['threads']}; x: ended at {settings['memory'] / 1e9:g} GB or for want of disk, at what it spent",
            x=0.01, ha="left", fontsize=9, color=INK,
        )  # fmt: skip
    return figure


def save_small(figure: Figure, path: Path) -> None:
    """A PNG of few shades, small enough for a repository."""
    save(figure, path)
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(SHADES, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def _panel(axes: Axes, rows: Sequence[Row], field: str, unit: float, what: str, shown: Any) -> None:
    lines = _lines(rows, field, unit)
    lengths = sorted({row.tokens for row in rows})
    axes.set(xscale="log", yscale="log", title=what, xlabel="tokens")
    axes.grid(visible=True, color=PALE, alpha=0.25, linewidth=0.6)
    for name, (points, ended) in lines.items():
        colour = COLOURS.get(name, INK)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.8, marker="o", ms=3.5)
        if ended is not None and (not points or ended[1] > points[-1][1]):
            if points:
                axes.plot(*zip(points[-1], ended, strict=True), color=colour, lw=1.0, ls=":")
            axes.plot(*ended, color=colour, marker="x", ms=7, mew=1.8)
    axes.margins(y=0.1)
    axes.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.15)
    written = [n for i, n in enumerate(lengths) if i == 0 or n / lengths[i - 1] >= TICK_GAP]
    axes.set_xticks(written, [f"{n:,}" for n in written], rotation=30 if len(written) > 5 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


Point = tuple[int, float]


def _lines(rows: Sequence[Row], field: str, unit: float) -> Mapping[str, tuple[list[Point], Point | None]]:
    """Of each contender: the points that were measured, and where its last run was ended."""
    found: dict[str, tuple[list[Point], Point | None]] = {}
    for row in sorted(rows, key=lambda row: row.tokens):
        points, ended = found.get(row.contender, ([], None))
        values = getattr(row, field)
        if values and median(values) > 0:
            point = (row.tokens, median(values) / unit)
            if row.status == OK:
                points.append(point)
            else:
                ended = point
        found[row.contender] = points, ended
    return found
