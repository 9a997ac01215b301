"""Figure of every head at once: a small map each, layers down and heads across."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from attlas.plots.given import parse_weights
from attlas.plots.heatmap import colours, label_decades
from attlas.plots.style import heading, new_figure, styled, subject

__all__ = ["head_grid"]

GAP = 3
"""Cells between two maps, white."""


def head_grid(thumbnails: xr.DataArray) -> Figure:
    """A small map of every head, all on one logarithmic scale: layers down, heads across.

    >>> figure = attlas.plots.head_grid(attlas.analysis.thumbnails(atlas))
    >>> figure.axes[0].get_ylabel()
    'layer'

    thumbnails: (layer, head, query, key), of `attlas.analysis.thumbnails`. NaN is masked. Raises InputError.
    """
    given = parse_weights(thumbnails, ("layer", "head", "query", "key"))
    layers, heads, rows, keys = given.shape
    a_LHQK = given.values
    mosaic = np.zeros((layers * (rows + GAP), heads * (keys + GAP)))
    inside = np.zeros(mosaic.shape, dtype=bool)
    for i in range(layers):
        for j in range(heads):
            place = slice(i * (rows + GAP), i * (rows + GAP) + rows), slice(j * (keys + GAP), j * (keys + GAP) + keys)
            mosaic[place] = a_LHQK[i, j]
            inside[place] = True
    with styled():
        side = float(np.clip(9.0 / max(layers, heads), 0.28, 1.3))
        figure = new_figure(max(4.8, heads * side + 2.0), max(2.6, layers * side + 1.2))
        panel = figure.subplots()
        norm, palette = colours(a_LHQK, "log")
        shown = palette(norm(np.ma.masked_invalid(mosaic)))
        shown[~inside] = 1.0
        panel.imshow(shown, interpolation="nearest", aspect="auto")
        for axis, dim, step, size in (
            (panel.yaxis, "layer", rows + GAP, rows),
            (panel.xaxis, "head", keys + GAP, keys),
        ):
            labels = given[dim].values
            every = max(1, -(-len(labels) // max(1, int(len(labels) * side / 0.16))))
            axis.set_ticks(
                [i * step + size / 2 - 0.5 for i in range(0, len(labels), every)], [str(v) for v in labels[::every]]
            )
            axis.set_tick_params(length=0, labelsize=7)
        panel.set_ylabel("layer")
        panel.set_xlabel("head")
        panel.spines[["left", "bottom"]].set_visible(False)
        scale = mpl.cm.ScalarMappable(norm, palette)
        label_decades(figure.colorbar(scale, ax=panel, label="attention weight, log scale", shrink=0.5, pad=0.02))
        told = f"{given.attrs.get('rows_used', rows)} of {given.attrs.get('queries', rows):,} query rows"
        block = int(given.attrs.get("block_keys", 1))
        heading(
            figure, "Every head: queries down, keys across",
            subject(given, told, f"the largest of {block} keys" if block > 1 else None),
        )  # fmt: skip
    return figure
