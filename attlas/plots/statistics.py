"""Figures of statistics: layer means with their spread, histograms over heads, boxes over documents, distance decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attlas.errors import InputError
from attlas.parse import is_integer, parse_names, refuse
from attlas.plots.given import parse_answer
from attlas.plots.style import INK, NARROWEST, SEQUENTIAL, grid_of, label_axis, new_figure, styled, title
from attlas.readable import index_runs

__all__ = ["distance_decay", "head_boxes", "histograms", "layer_means"]

FEW_COLOURS = 12
FEW_DOCUMENTS = 5
"""With fewer, each is a dot: quarters of two numbers say nothing."""


def layer_means(answer: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """One panel a statistic: the mean over a layer's heads, the middle half of them, and each head as a dot.

    >>> figure = attlas.plots.layer_means(attlas.analysis.statistics(atlas), ["entropy", "self_weight"])
    >>> len(figure.axes) > 0
    True

    answer: of `attlas.analysis.statistics`. names: some of its statistics; by default all. Raises InputError where a
    name is no statistic a head.
    """
    chosen = _chosen(answer, names)
    rows, columns = grid_of(len(chosen))
    with styled():
        figure = new_figure(max(NARROWEST, 3.1 * columns + 0.4), 2.2 * rows + 0.7)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        layers = np.arange(answer.sizes["layer"])
        for panel, name in zip(panels, chosen, strict=False):
            values = answer[name].values
            low, high = np.nanpercentile(values, [25, 75], axis=1)
            panel.fill_between(layers, low, high, color="#4c86a8", alpha=0.3, lw=0)
            for head in range(values.shape[1]):
                panel.plot(layers, values[:, head], ".", color=INK, ms=2, alpha=0.35)
            panel.plot(layers, np.nanmean(values, axis=1), color="#1f5f86", lw=1.6)
            panel.set_title(name.replace("_", " "))
            panel.set_ylabel("" if answer[name].attrs["units"] == "1" else answer[name].attrs["units"])
            label_axis(panel.xaxis, answer["layer"].values, room=8)
            _hold_still(panel, values, answer[name].attrs["units"])
        for panel in panels[len(chosen) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(chosen) - columns) : len(chosen)]:
            panel.tick_params(labelbottom=True)  # also where the panel below is not there
        figure.supxlabel("layer", fontsize=9, color=INK)
        title(figure, answer, "Mean over the heads of a layer (line), their middle half (band), every head (dots)")
    return figure


def histograms(answer: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """One panel a statistic: how many heads have which value.

    >>> figure = attlas.plots.histograms(attlas.analysis.statistics(atlas), ["entropy"])
    >>> len(figure.axes) > 0
    True

    answer, names: as `layer_means`. Raises InputError where a name is no statistic a head.
    """
    chosen = _chosen(answer, names)
    rows, columns = grid_of(len(chosen))
    with styled():
        figure = new_figure(max(NARROWEST, 3.1 * columns + 0.4), 2.1 * rows + 0.7)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, name in zip(panels, chosen, strict=False):
            values = answer[name].values.ravel()
            values = values[np.isfinite(values)]
            middle = float(values.mean()) if len(values) else 0.0
            alike = len(values) and np.ptp(values) <= 1e-4 * abs(middle)
            around = (0.0, _top(middle, answer[name].attrs["units"])) if alike else None
            panel.hist(values, bins=min(30, max(5, len(values) // 4)), range=around, color="#4c86a8")
            panel.set_title(name.replace("_", " "))
            units = answer[name].attrs["units"]
            panel.set_xlabel("" if units == "1" else units)
            panel.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        for panel in panels[len(chosen) :]:
            panel.set_visible(False)
        figure.supylabel("heads", fontsize=9, color=INK)
        title(figure, answer, "How many heads have which value")
    return figure


def head_boxes(answer: xr.Dataset, name: str = "entropy", *, layer: int | None = None) -> Figure:
    """One box a head: a statistic over the documents, whiskers from the 5th to the 95th percentile.

    >>> figure = attlas.plots.head_boxes(attlas.analysis.statistics(atlas), "entropy", layer=1)
    >>> len(figure.axes) > 0
    True

    answer: of `attlas.analysis.statistics`. name: one of its statistics.
    layer: the heads of one layer; by default every layer has a panel. Of fewer than five documents each is a dot.
    Raises InputError where the answer does not tell documents apart.
    """
    answer = parse_answer(answer, "statistics")
    (name,) = parse_names([name], "name")
    key = f"document_{name}"
    if key not in answer or answer[key].dims != ("document", "layer", "head"):
        raise InputError(f"there is no {name} of each document here: ask without a sample, or for another statistic")
    layers = answer["layer"].values.tolist()
    if layer is not None and (not is_integer(layer) or layer not in layers):
        raise refuse(layer, "layer", f"this answer has layers {index_runs(layers)}")
    values = answer[key] if layer is None else answer[key].sel(layer=[layer])
    heads = answer["head"].values
    rows, columns = grid_of(values.sizes["layer"], most=max(1, min(4, 48 // len(heads))))
    width = max(2.4, 0.22 * len(heads) + 0.8)
    with styled():
        figure = new_figure(max(NARROWEST, width * columns + 0.4), 1.7 * rows + 0.9)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for panel, at in zip(panels, range(values.sizes["layer"]), strict=False):
            boxes = values.values[:, at]
            if len(boxes) < FEW_DOCUMENTS:
                for document in boxes:
                    panel.plot(range(len(heads)), document, "o", color="#1f5f86", ms=3.5, alpha=0.7)
            else:
                panel.boxplot(
                    [column[np.isfinite(column)] for column in boxes.T], positions=range(len(heads)), whis=(5, 95),
                    widths=0.6, showfliers=False, medianprops={"color": "#b3361b"}, patch_artist=True,
                    boxprops={"facecolor": "#d5e4ee", "edgecolor": "#1f5f86"}, whiskerprops={"color": "#1f5f86"},
                    capprops={"color": "#1f5f86"}, manage_ticks=False,
                )  # fmt: skip
            panel.set_title(f"layer {values['layer'].values[at]}")
            label_axis(panel.xaxis, heads, room=max(4, int(width * 4)))
        for panel in panels[values.sizes["layer"] :]:
            panel.set_visible(False)
        figure.supxlabel("head", fontsize=9, color=INK)
        units = answer[key].attrs["units"]
        figure.supylabel(name.replace("_", " ") + ("" if units == "1" else f" ({units})"), fontsize=9, color=INK)
        count = values.sizes["document"]
        shown = "over documents: median, middle half, 5% to 95%"
        if count < FEW_DOCUMENTS:
            shown = "of each head, each document a dot" if count > 1 else "of each head, in the one document"
        title(figure, answer, f"{name.replace('_', ' ').capitalize()} {shown}")
    return figure


def distance_decay(answer: xr.Dataset) -> Figure:
    """Weight a token at each distance, one line a layer (mean over its heads), on logarithmic axes.

    >>> figure = attlas.plots.distance_decay(attlas.analysis.statistics(atlas))
    >>> len(figure.axes) > 0
    True

    answer: of `attlas.analysis.statistics`, with weight_by_distance. Raises InputError for anything else.
    """
    if "weight_by_distance" not in parse_answer(answer, "statistics"):
        raise InputError("there is no weight_by_distance here: it needs factors, and keys of the query's own text")
    start, stop = answer.distance.values, answer.distance_stop.values
    middle = np.sqrt(np.maximum(start, 0.5) * np.maximum(stop - 1, 0.5))
    weight = answer.weight_by_distance.mean("head").values / (stop - start)
    layers = answer["layer"].values
    colours = mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.95, len(layers)))
    with styled():
        figure = new_figure(7.2, 4.4)
        panel = figure.subplots()
        for i, layer in enumerate(layers):
            seen = weight[i] > 0
            panel.plot(middle[seen], weight[i][seen], color=colours[i], lw=1.3, marker=".", ms=4, label=f"{layer}")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        ticks = [0.5, *(2.0**p for p in range(int(np.log2(max(stop[-1], 2))) + 1))]
        step = max(1, -(-len(ticks) // 9))
        panel.set_xticks(ticks[::step], ["0" if t < 1 else f"{t:g}" for t in ticks[::step]])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
        panel.set_xlabel("distance |i - j| (tokens)")
        panel.set_ylabel("weight on one key at this distance")
        if len(layers) <= FEW_COLOURS:
            panel.legend(title="layer", frameon=False, fontsize=8, ncols=2)
        else:
            scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(layers[0], layers[-1]), SEQUENTIAL)
            figure.colorbar(scale, ax=panel, label="layer", shrink=0.8, ticks=MaxNLocator(integer=True))
        title(figure, answer, "How weight falls with distance, mean over the heads of a layer")
    return figure


def _hold_still(panel: Any, values: Any, units: str) -> None:
    """Values that are all alike get an axis on which their rounding is not seen."""
    middle = float(np.nanmean(values))
    if np.nanmax(values) - np.nanmin(values) <= 1e-4 * abs(middle):
        top = _top(middle, units)
        panel.set_ylim(-0.02 * top, 1.02 * top)


def _top(middle: float, units: str) -> float:
    """Where an axis ends that shows one value: at twice that; weights and shares are never above one."""
    if middle <= 0:
        return 1.0
    return min(2 * middle, 1.0) if units == "1" and middle <= 1 + 1e-6 else 2 * middle


def _chosen(answer: xr.Dataset, names: Sequence[str] | None) -> list[str]:
    """Statistics with one number a head."""
    answer = parse_answer(answer, "statistics")
    names = None if names is None else parse_names(names, "names")
    known = [
        str(name)
        for name, variable in answer.data_vars.items()
        if variable.dims == ("layer", "head") and not str(name).endswith(("_error", "_low", "_high"))
    ]
    if not known:
        raise InputError("this answer holds no statistic of one number a head: give one of analysis.statistics")
    wrong = next((name for name in names or () if name not in known), None)
    if wrong is not None:
        raise InputError(f"{wrong!r} is not one number a head here: choose of {', '.join(known)}")
    return known if names is None else list(names)
