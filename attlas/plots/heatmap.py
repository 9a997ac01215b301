"""Figure of one map of weights, query down and key across, readable from ten tokens to a whole book."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from attlas.analysis.overview import shrink
from attlas.parse import parse_choice
from attlas.plots.given import parse_weights
from attlas.plots.style import DIVERGING, MASKED, SEQUENTIAL, heading, new_figure, readable, styled, subject, what

__all__ = ["colours", "draw_map", "heatmap", "label_decades", "scale_of"]

PIXELS = 1024
"""Cells that a map may have on a side, before blocks of cells are drawn as one."""
LABELLED = 250
"""Tokens on an axis that are still named, some of them."""
LINEAR = 250
"""Beyond so many tokens, weights are small, and their scale logarithmic unless told."""
DECADES = 4


def heatmap(weights: xr.DataArray, *, scale: str | None = None) -> Figure:
    """One map of weights, or of differences: queries down, keys across, with their tokens where they can be read.

    >>> figure = attlas.plots.heatmap(attlas.analysis.overview(atlas, layer=1, head=0))
    >>> figure.axes[0].get_xlabel()
    'key'

    weights: (query, key), such as `page.attention.sel(layer=1, head=0)`, or what `overview`, `rollout` or `compare`
    returns; beyond 1,024 a side, blocks of cells are drawn by their largest, which the title tells. NaN is masked, and
    so is what lies right of the diagonal where all of it is 0. scale: "linear", "log" (the DECADES below the largest),
    or None for what suits the length. Values below 0 get colours of their own, about 0. Raises InputError.
    """
    given = parse_weights(weights)
    small = given if max(given.shape) <= PIXELS else shrink(given, cells=PIXELS // 2, pool=_pool_of(given))
    keys = int(small.attrs.get("keys", small.sizes["key"]))
    scale = scale_of(small, keys) if scale is None else parse_choice(scale, "scale", ("linear", "log"))
    a_QK = _masked(small)
    with styled():
        figure, _, name = draw_map(small.copy(data=a_QK), *colours(a_QK, scale), scale)
        name(small)
    return figure


def draw_map(
    small: xr.DataArray, norm: mpl.colors.Normalize, palette: mpl.colors.Colormap, scale: str
) -> tuple[Figure, AxesImage, Callable[[xr.DataArray], None]]:
    """A figure of a map of so many cells, its image, and what writes the title of such a map above it."""
    sides = [float(np.clip(0.16 * size, 3.2, 9.0)) for size in small.shape]
    if min(sides) < 6 < max(sides):
        sides = [max(side, 4.5) for side in sides]
    figure = new_figure(sides[1] + 1.9, sides[0] + 1.3)
    panel = figure.subplots()
    image = panel.imshow(small.values, cmap=palette, norm=norm, aspect="auto", interpolation="nearest")
    panel.set_facecolor(MASKED)
    for axis, dim, inches in ((panel.yaxis, "query", sides[0]), (panel.xaxis, "key", sides[1])):
        _label_tokens(axis, small, dim, inches)
    panel.tick_params(axis="x", labelrotation=90 if _named(small, "key") else 0)
    panel.set_xlabel("key")
    panel.set_ylabel("query")
    for spine in panel.spines.values():
        spine.set_visible(False)
    label = f"{small.attrs.get('long_name', 'attention weight')}{', log scale' if scale == 'log' else ''}"
    label_decades(figure.colorbar(image, ax=panel, label=label, shrink=0.8, pad=0.01, aspect=30))
    return figure, image, lambda shown: heading(figure, what(shown), subject(shown, _pooling(shown)))


def colours(values: Any, scale: str) -> tuple[mpl.colors.Normalize, mpl.colors.Colormap]:
    """The norm and the colours of some weights; those below the norm have the colours' lowest, NaN is neutral."""
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if finite.size and np.abs(finite).max() > 0 else 1.0
    if finite.size and finite.min() < 0:
        palette = mpl.colormaps[DIVERGING].with_extremes(bad=MASKED)
        norm = mpl.colors.SymLogNorm(largest / 100, vmin=-largest, vmax=largest)
        return (norm if scale == "log" else mpl.colors.Normalize(-largest, largest)), palette
    palette = mpl.colormaps[SEQUENTIAL]
    palette = palette.with_extremes(bad=MASKED, under=palette(0.0))
    if scale == "log":
        top = 10.0 ** np.ceil(np.log10(largest) - 1e-9)
        return mpl.colors.LogNorm(top / 10**DECADES, top, clip=True), palette
    return mpl.colors.Normalize(0, largest), palette


def label_decades(bar: Colorbar) -> None:
    """Ticks of a logarithmic bar as plain numbers; its lowest stands for all that is smaller too."""
    if not isinstance(bar.norm, mpl.colors.LogNorm):
        return
    decades = float(bar.norm.vmax or 1) / 10.0 ** np.arange(DECADES + 1)
    bar.set_ticks(decades.tolist(), labels=[f"{value:g}" for value in decades[:-1]] + [f"≤ {decades[-1]:g}"])
    bar.minorticks_off()


def _masked(small: xr.DataArray) -> Any:
    """The cells, NaN where masked: also right of the diagonal of a causal map that does not tell."""
    a_QK = np.array(small.values, dtype=np.float64)
    if not np.isnan(a_QK).any():
        above = small["key"].values[None, :] > small["query"].values[:, None]
        if above.any() and not a_QK[above].any():
            a_QK[above] = np.nan
    return a_QK


def scale_of(values: xr.DataArray, size: int) -> str:
    """The scale that suits so many tokens."""
    return "log" if size > LINEAR and float(values.min()) >= 0 else "linear"


def _pool_of(given: xr.DataArray) -> str:
    return "extreme" if given.attrs.get("signed") else "max"


def _named(small: xr.DataArray, dim: str) -> bool:
    return small.sizes[dim] <= LABELLED and f"{dim}_token" in small.coords and _block(small, dim) == 1


def _block(small: xr.DataArray, dim: str) -> int:
    return int(small.attrs.get({"query": "block_queries", "key": "block_keys"}[dim], 1))


def _label_tokens(axis: Any, small: xr.DataArray, dim: str, inches: float) -> None:
    """Tokens where each has room, thinned out where not; places in the document where they are too many."""
    places = small[dim].values
    if _named(small, dim):
        step = -(-len(places) // max(1, int(inches / 0.125)))
        shown = range(0, len(places), step)
        names = [readable(str(small[f"{dim}_token"].values[i]), 14) for i in shown]
        if step > 1:  # neighbours are not named: tell where a token stands
            names = [f"{name} {places[i]}" for i, name in zip(shown, names, strict=True)]
        axis.set_ticks(list(shown), names, fontsize=7)
        return
    wanted = mpl.ticker.MaxNLocator(8, integer=True).tick_values(int(places[0]), int(places[-1]))
    inside = [value for value in wanted if places[0] <= value <= places[-1]]
    axis.set_ticks(np.searchsorted(places, inside).tolist(), [f"{int(value):,}" for value in inside])


def _pooling(small: xr.DataArray) -> str | None:
    rows, keys = _block(small, "query"), _block(small, "key")
    if rows == keys == 1:
        return None
    how = {"max": "the largest of", "mass": "the sum over keys, mean over queries, of", "extreme": "the largest of"}
    return f"each cell {how[small.attrs['pool']]} {rows} x {keys} weights"
