"""The figure of what an experiment found: a map over heads or positions, or a line with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attlas.errors import InputError
from attlas.parse import parse_choice, shown
from attlas.plots.style import (
    DIVERGING,
    MASKED,
    NARROWEST,
    OKABE,
    PALE,
    SEQUENTIAL,
    label_axis,
    new_figure,
    readable,
    styled,
)

__all__ = ["experiment"]

LEADING = {
    "ablate_heads": "loss_change", "ablate_edges": "kl_last", "adversarial": "weights_js", "patching": "recovered",
    "perturbation": "robustness", "remove_largest": "js", "consistency": "cv", "replace_tokens": "kl_last",
    "counterfactual": "variation", "paraphrases": "cv", "faithfulness": "without",
}  # fmt: skip
"""Question -> what of it is drawn, where nothing is said."""
NEVER_NEGATIVE = {
    "weights_js",
    "js",
    "kl",
    "kl_last",
    "total_variation",
    "robustness",
    "agreement",
    "cv",
    "variation",
    "without",
    "only",
}
WIDTH, CELL, LEAST, MOST = 6.4, 0.24, 2.2, 9.0
BESIDE = 3
RANKED = 25
"""Tokens of a figure of replaced ones, the first of the ranks."""


def experiment(found: xr.Dataset, variable: str | None = None) -> Figure:
    """What an experiment found, as the mean over documents: a map where it is of two kinds of places, else a line.

    >>> found = attlas.experiments.ablate_heads("demo", "one two three, one two three.")
    >>> figure = attlas.plots.experiment(found)
    >>> len(figure.axes)
    2

    found: of a function of `attlas.experiments`. variable: which of its variables; None for the leading one. A map's
    colours are the same on both sides of 0 where values can be negative. A line stands in its interval over documents.
    Of `replace_tokens` the first 25 tokens have a bar each.
    Raises InputError where there is no such variable, or nothing to draw it over.
    """
    if not isinstance(found, xr.Dataset) or found.attrs.get("question") not in (*LEADING, "run"):
        raise InputError(f"the figure is of what attlas.experiments found, and this is {shown(found)}")
    if found.attrs["question"] == "replace_tokens":
        drawn = [str(name) for name in found if found[name].dims == ("rank",)]
        return _ranked(
            found, parse_choice(LEADING["replace_tokens"] if variable is None else variable, "variable", drawn)
        )
    drawn = [str(name).removesuffix("_mean") for name in found if str(name).endswith("_mean") and found[name].ndim]
    if not drawn:
        raise InputError("there is one number of each document, and nothing to draw it over: print it")
    name = LEADING[found.attrs["question"]] if variable is None else parse_choice(variable, "variable", drawn)
    mean = found[f"{name}_mean"]
    with styled():
        if mean.dims == ("explanation", "share"):
            mean = mean.transpose("share", "explanation")
        several = mean.ndim == 2 and mean.dims[1] not in ("removed", "flip", "explanation")
        figure = _map(mean, name) if several else _lines(found, mean, name)
        figure.axes[0].set_title(_title(found, mean), fontsize=9, wrap=True)
    return figure


def _title(found: xr.Dataset, mean: xr.DataArray) -> str:
    model = str(found.attrs.get("model", "")).rstrip("/").rpartition("/")[2]
    count = found.sizes["document"]
    documents = "1 document" if count == 1 else f"mean of {count:,} documents"
    what = str(mean.attrs.get("long_name", "")).removeprefix("mean of: ")
    return f"{model}, {documents}\n{what}"


def _map(mean: xr.DataArray, name: str) -> Figure:
    down, across = map(str, mean.dims)
    rows, columns = (float(np.clip(mean.sizes[dim] * CELL, LEAST, MOST)) for dim in (down, across))
    figure = new_figure(max(columns + 1.9, NARROWEST), rows + 1.3)
    panel = figure.subplots()
    values = mean.values
    if name in NEVER_NEGATIVE:
        limits: dict[str, Any] = {"cmap": SEQUENTIAL, "vmin": 0}
    else:
        most = float(np.nanmax(np.abs(values))) or 1.0
        limits = {"cmap": DIVERGING, "vmin": -most, "vmax": most}
    panel.set_facecolor(MASKED)
    image = panel.imshow(values, aspect="auto", interpolation="nearest", **limits)
    label_axis(panel.xaxis, mean[across].values, room=int(columns / 0.3))
    label_axis(panel.yaxis, mean[down].values, room=int(rows / 0.18))
    panel.set_xlabel(across)
    panel.set_ylabel(down)
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)
    units = mean.attrs.get("units", "1")
    figure.colorbar(image, ax=panel, label="" if units == "1" else units)
    return figure


def _ranked(found: xr.Dataset, name: str) -> Figure:
    first = found.isel(rank=slice(RANKED))
    values = first[name]
    count = found.attrs["documents"]
    places = zip(*(first[one].values for one in ("token", "position", "document")), strict=True)
    labels = [
        " ".join(
            [readable(str(token).replace(" ", "\u2423")), f"{place:4}", *([readable(str(of), 10)] if count > 1 else [])]
        )
        for token, place, of in places
    ]
    with styled():
        figure = new_figure(WIDTH, 1.3 + 0.2 * len(labels))
        panel = figure.subplots()
        panel.barh(range(len(labels)), values, color=OKABE[0], height=0.8)
        panel.set_yticks(range(len(labels)), labels, fontsize=8)
        panel.invert_yaxis()
        panel.tick_params(axis="y", length=0)
        if values.min() >= 0:
            panel.set_xlim(left=0)
        else:
            panel.axvline(0, color=PALE, lw=0.8)
        units = values.attrs["units"]
        panel.set_xlabel(name.replace("_", " ") + ("" if units == "1" else f" ({units})"))
        model = str(found.attrs["model"]).rstrip("/").rpartition("/")[2]
        what = {"delete": "left out", "mask": "masked"}.get(found.attrs["by"], "replaced")
        rest = f", first {len(labels)} of {found.sizes['rank']:,} tokens" if found.sizes["rank"] > len(labels) else ""
        documents = "1 document" if count == 1 else f"{count:,} documents"
        panel.set_title(
            f"{model}, {documents}, one token {what} at a time{rest}\n{values.attrs['long_name']}", fontsize=9
        )
    return figure


def _lines(found: xr.Dataset, mean: xr.DataArray, name: str) -> Figure:
    along = str(mean.dims[0])
    figure = new_figure(WIDTH, 3.6)
    panel = figure.subplots()
    x = mean[along].values
    several = mean.values[:, None] if mean.ndim == 1 else mean.values
    low, high = (found[f"{name}_{end}"].transpose(*mean.dims).values.reshape(several.shape) for end in ("low", "high"))
    labels = [""] if mean.ndim == 1 else [str(one).replace("_", " ") for one in mean[mean.dims[1]].values]
    for place, label in enumerate(labels):
        colour = OKABE[place % len(OKABE)]
        panel.plot(x, several[:, place], color=colour, marker="o", ms=3, label=label)
        if np.isfinite(low[:, place]).all():
            panel.fill_between(x, low[:, place], high[:, place], color=colour, alpha=0.18, lw=0)
    if name not in NEVER_NEGATIVE:
        panel.axhline(0, color=PALE, lw=0.8)
    elif name in ("robustness", "agreement"):
        panel.set_ylim(0, 1.02)
    else:
        panel.set_ylim(bottom=0)
    if along == "size" and len(x) > 2:
        panel.set_xscale("log")
        panel.set_xticks(x, [f"{one:g}" for one in x], minor=False)
        panel.set_xticks([], minor=True)
    elif along == "layer":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    units = mean.attrs.get("units", "1")
    removed = "tokens taken out" if found.attrs["question"] == "faithfulness" else "weights removed"
    panel.set_xlabel({"size": "size of the noise", "share": f"share of the {removed}"}.get(along, along))
    panel.set_ylabel(name.replace("_", " ") + ("" if units == "1" else f" ({units})"))
    if len(labels) > BESIDE:  # beside the lines, and not over them
        panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    elif len(labels) > 1:
        panel.legend(frameon=False, fontsize=8)
    return figure
