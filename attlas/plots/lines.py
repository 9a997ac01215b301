"""Figure of a short span as lines: each query on the left is joined to the keys on the right that it attends to."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from attlas.errors import InputError
from attlas.plots.given import parse_weights
from attlas.plots.style import INK, heading, new_figure, readable, styled, subject, what

__all__ = ["lines"]

MOST = 90
"""Tokens on a side."""
LEAST = 0.02
"""Weights below are not drawn."""
COLOUR = "#0072b2"


def lines(weights: xr.DataArray) -> Figure:
    """Queries on the left, keys on the right, and a line for every weight of 0.02 or more, the darker the larger.

    >>> span = page.attention.sel(layer=1, head=0).isel(query=slice(100, 112), key=slice(40, 60))
    >>> len(attlas.plots.lines(span).axes)
    1

    weights: (query, key) of at most 90 tokens a side, choose with .isel or .sel. Raises InputError beyond.
    """
    given = parse_weights(weights)
    if max(given.shape) > MOST:
        raise InputError(
            f"lines are of at most {MOST} queries and keys, and these are {given.sizes['query']:,} and "
            f"{given.sizes['key']:,}: choose a span with .isel(query=..., key=...), or draw a heatmap"
        )
    a_QK = np.nan_to_num(given.values)
    tall = max(given.shape)
    drawn = np.argwhere(a_QK >= LEAST)
    with styled():
        figure = new_figure(5.2, float(np.clip(0.17 * tall, 2.0, 14.0)) + 1.0)
        panel = figure.subplots()
        left, right = np.arange(given.shape[0], dtype=float), np.arange(given.shape[1], dtype=float)
        if len(left) > 1 and len(right) > 1 and len(left) != len(right):
            left, right = left * (tall - 1) / (len(left) - 1), right * (tall - 1) / (len(right) - 1)
        order = np.argsort(a_QK[tuple(drawn.T)], kind="stable")
        weights_E = a_QK[tuple(drawn[order].T)]
        ends = [((0.0, left[i]), (1.0, right[j])) for i, j in drawn[order]]
        rgba = np.tile(mpl.colors.to_rgba(COLOUR), (len(ends), 1))
        rgba[:, 3] = np.clip(weights_E, 0.06, 1) if len(ends) else rgba[:, 3]
        panel.add_collection(LineCollection(ends, colors=rgba, linewidths=0.4 + 2.2 * weights_E))
        size = 8 if tall <= 50 else 7
        for dim, places, x, side in (("query", left, -0.02, "right"), ("key", right, 1.02, "left")):
            names = given[f"{dim}_token"].values if f"{dim}_token" in given.coords else given[dim].values
            for place, name in zip(places, names, strict=True):
                panel.text(x, place, readable(str(name).strip(" ")), ha=side, va="center", fontsize=size, color=INK)
        panel.text(-0.02, -1.4, "query", ha="right", va="center", fontweight="bold")
        panel.text(1.02, -1.4, "key", ha="left", va="center", fontweight="bold")
        panel.set_xlim(-0.5, 1.5)
        panel.set_ylim(tall - 0.4, -2)
        panel.axis("off")
        rest = float(1 - a_QK[a_QK >= LEAST].sum() / max(a_QK.sum(), 1e-30))
        heading(
            figure, what(given),
            subject(given, f"weights of {LEAST} and more; {rest:.0%} of the weight shown here is in smaller ones"),
        )  # fmt: skip
    return figure
