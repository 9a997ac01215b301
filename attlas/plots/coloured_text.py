"""Figure of a text whose tokens are shaded by a number each: a row of weights, what tokens receive, a rollout."""

from __future__ import annotations

import unicodedata
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attlas.errors import InputError
from attlas.parse import parse_choice, shown
from attlas.plots.heatmap import colours, label_decades, scale_of
from attlas.plots.style import INK, heading, new_figure, readable, styled, subject, what

__all__ = ["coloured_text"]

LINE, MIN_LINE = 96, 60
"""Characters of a line, and the fewest a figure is wide."""
MOST_LINES = 60
PALETTE = "YlGnBu"
FONT, ADVANCE = 8.5, 0.6021
"""Points, and the width of a letter in them."""
EDGE, ABOVE, BELOW, ROW = 0.3, 0.75, 0.75, 0.2
"""Inches around the text, and of a line."""
DARK = 0.55
"""On colours of less luminance, letters are white."""


def coloured_text(values: xr.DataArray, *, scale: str | None = None) -> Figure:
    """The tokens of a document as running text, each shaded by its value: the darker, the larger.

    >>> row = page.attention.sel(layer=1, head=0, query=106)
    >>> figure = attlas.plots.coloured_text(row)
    >>> len(figure.axes)
    2

    values: one number a token, with its `key_token` or `query_token`: a row or column of weights, what tokens receive,
    a rollout. Of a text that is longer than a page, the passage that holds most is shown, and the title says so.
    scale: "linear", "log", or None for what suits the length. Negative values get colours of their own. Raises
    InputError for anything else.
    """
    dim, given = _parse(values)
    tokens = [readable(str(token), 24) for token in given[f"{dim}_token"].values]
    numbers = np.nan_to_num(given.values.astype(np.float64))
    places, lines = _lay(tokens)
    first, last = _passage(lines, np.abs(numbers))
    some = np.flatnonzero((lines >= first) & (lines < last))
    with styled():
        columns = max(MIN_LINE, int(max(places[i] + _width(tokens[i]) for i in some)))
        wide, tall = columns * FONT * ADVANCE / 72, ROW * (last - first)
        figure = new_figure(wide + 2 * EDGE, tall + ABOVE + BELOW)
        figure.set_layout_engine("none")  # letters and boxes have to agree, to the point
        at = figure.transFigure.inverted().transform
        inch = figure.dpi
        (left, low), (right, high) = at((EDGE * inch, BELOW * inch)), at(((EDGE + wide) * inch, (BELOW + tall) * inch))
        panel = figure.add_axes((left, low, right - left, high - low))
        scale = scale_of(given, given.size) if scale is None else parse_choice(scale, "scale", ("linear", "log"))
        norm, palette = colours(numbers, scale)
        palette = palette if numbers.min() < 0 else mpl.colormaps[PALETTE]
        boxes, shades = [], palette(norm(numbers))
        for i in some:
            y = lines[i] - first
            boxes.append(Rectangle((places[i], y), _width(tokens[i]), 0.92))
            panel.text(
                places[i], y + 0.48, tokens[i], family="monospace", fontsize=FONT, va="center",
                color="white" if _dim(shades[i]) else INK,
            )  # fmt: skip
        panel.add_collection(PatchCollection(boxes, facecolors=shades[some], edgecolors="none"))
        panel.set_xlim(0, columns)
        panel.set_ylim(last - first, 0)
        panel.axis("off")
        bar = mpl.cm.ScalarMappable(norm, palette)
        label = f"{given.attrs.get('long_name', 'attention weight')}{', log scale' if scale == 'log' else ''}"
        lower, upper = at((0, 0.45 * inch))[1], at((0, 0.55 * inch))[1]
        axis = figure.add_axes((left + 0.05, lower, 0.5 * (right - left), upper - lower))
        label_decades(figure.colorbar(bar, cax=axis, label=label, orientation="horizontal"))
        words = heading(figure, _title(given, dim), subject(given, _left_out(given, dim, some, numbers)))
        words.set_position((at((EDGE * inch, 0))[0], 1 - 0.1 / figure.get_size_inches()[1]))
    return figure


def _parse(values: object) -> tuple[str, xr.DataArray]:
    if not isinstance(values, xr.DataArray) or values.ndim != 1 or values.dtype.kind not in "fiub" or not values.size:
        kind = f"a DataArray {values.dims}" if isinstance(values, xr.DataArray) else shown(values)
        raise InputError(f"coloured text is of one number a token, and this is {kind}: choose a row with .sel")
    dim = str(values.dims[0])
    if f"{dim}_token" not in values.coords:
        raise InputError(f"coloured text needs the tokens of {dim}, and these values have no {dim}_token")
    return dim, values


def _width(token: str) -> int:
    """Columns of a line that a token takes; wide letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in token)


def _lay(tokens: list[str]) -> tuple[Any, Any]:
    """Column and line of each token; a line ends where it is full, or after line feeds."""
    places, lines, at, line, fed = [], [], 0, 0, False
    for token in tokens:
        wide = _width(token)
        if at and (at + wide > LINE or (fed and token.strip("⏎ "))):
            at, line = 0, line + 1
        places.append(at)
        lines.append(line)
        at, fed = at + wide, "⏎" in token
    return np.array(places), np.array(lines)


def _passage(lines: Any, numbers: Any) -> tuple[int, int]:
    """The lines to show: all, or those in a row that hold most."""
    count = int(lines[-1]) + 1
    if count <= MOST_LINES:
        return 0, count
    total = np.concatenate([[0.0], np.cumsum(np.bincount(lines, numbers, minlength=count))])
    first = int(np.argmax(total[MOST_LINES:] - total[:-MOST_LINES]))
    return first, first + MOST_LINES


def _dim(shade: Any) -> bool:
    return float(np.dot(shade[:3], (0.299, 0.587, 0.114))) < DARK


def _title(given: xr.DataArray, dim: str) -> str:
    other = "query" if dim == "key" else "key"
    if other not in given.coords:
        return what(given)
    token = f" ({readable(str(given[f'{other}_token'].values).strip(' '))})" if f"{other}_token" in given.coords else ""
    return f"{what(given)}: {'what' if dim == 'key' else 'who'} {other} {int(given[other])}{token} " + (
        "attends to" if dim == "key" else "is attended by"
    )


def _left_out(given: xr.DataArray, dim: str, some: Any, numbers: Any) -> str | None:
    if len(some) == given.size:
        return None
    total = np.abs(numbers).sum() or 1.0
    share = np.abs(numbers[some]).sum() / total
    first, last = int(given[dim].values[some[0]]), int(given[dim].values[some[-1]])
    return f"tokens {first:,} to {last:,} of {given.size:,}, which hold {share:.0%}"
