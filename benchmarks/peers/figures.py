"""Time and peak memory against length, log-log, a line for each contender, labelled where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from PIL import Image

from attlas.plots.style import INK, PALE, new_figure, save, styled
from benchmarks.peers.results import Results, Row
from benchmarks.peers.watch import OK

__all__ = ["draw_growth", "save_small", "spread_apart"]

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
LABEL_GAP = 0.042
"""Between two labels, as a part of the panel's height."""
TICK_GAP = 1.45
"""Between two lengths that are written at the axis, as a factor."""
SHADES = 64


def draw_growth(results: Results) -> Figure:
    """Medians of the repeats. A cross is a run that was ended, at what it had spent by then: it needs more."""
    with styled():
        figure = new_figure(11.0, 5.2)
        left, right = figure.subplots(1, 2)
        _panel(left, results.rows, "seconds", 1.0, "time", lambda value: f"{value:g} s")
        _panel(right, results.rows, "peak_bytes", 1e9, "peak memory above the loaded model", lambda v: f"{v:g} GB")
        model, settings = results.model, results.settings
        figure.suptitle(
            f"{model['name']}, {model['layers']} layers x {model['heads']} heads, one document, torch threads: "
            f"{settings['threads']}; x: ended at {settings['memory'] / 1e9:g} GB or failed, having spent this much",
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
    ends: dict[int, list[tuple[str, float]]] = {}
    for name, (points, ended) in lines.items():
        colour = COLOURS.get(name, INK)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.8, marker="o", ms=3.5)
        if ended is not None:
            if points:
                axes.plot(*zip(points[-1], ended, strict=True), color=colour, lw=1.0, ls=":")
            axes.plot(*ended, color=colour, marker="x", ms=7, mew=1.8)
        last = ended or (points[-1] if points else None)
        if last is not None:
            ends.setdefault(last[0], []).append((name, last[1]))
    axes.margins(y=0.1)
    axes.set_xlim(lengths[0] / 1.15, lengths[-1] * (lengths[-1] / lengths[0]) ** 0.36 * 1.1)
    written = [n for i, n in enumerate(lengths) if i == 0 or n / lengths[i - 1] >= TICK_GAP]
    axes.set_xticks(written, [f"{n:,}" for n in written], rotation=30 if len(written) > 5 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    to_axes = axes.transScale + axes.transLimits
    for tokens, labels in ends.items():
        heights = spread_apart([float(to_axes.transform((tokens, value))[1]) for _, value in labels], LABEL_GAP)
        for (name, _), height in zip(labels, heights, strict=True):
            place = float(to_axes.transform((tokens, 1.0))[0]) + 0.018
            axes.text(
                place, height, name, color=COLOURS.get(name, INK), transform=axes.transAxes, va="center", fontsize=8,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip


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


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved as little as keeps each `gap` from the next; their order stays."""
    order = sorted(range(len(places)), key=places.__getitem__)
    blocks: list[list[float]] = []  # of each run of touching labels: its lowest place, and how many
    for index in order:
        blocks.append([places[index], 1])
        while len(blocks) > 1 and blocks[-2][0] + blocks[-2][1] * gap > blocks[-1][0]:
            high, low = blocks.pop(), blocks.pop()
            middle = (low[0] * low[1] + (high[0] - low[1] * gap) * high[1]) / (low[1] + high[1])
            blocks.append([middle, low[1] + high[1]])
    apart = [low + step * gap for low, count in blocks for step in range(int(count))]
    moved = [0.0] * len(places)
    for place, index in zip(apart, order, strict=True):
        moved[index] = place
    return moved
