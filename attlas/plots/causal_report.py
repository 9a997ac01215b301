"""Figure of what a causal model's layers look at: how far back, how spread out, and how much into the first token."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from attlas.plots.given import parse_answer
from attlas.plots.style import INK, OKABE, SEQUENTIAL, new_figure, styled, title

__all__ = ["causal_report"]


def causal_report(answer: xr.Dataset) -> Figure:
    """Four panels by layer: weight by distance, what is looked at, decay of heads, spread by position.

    >>> figure = attlas.plots.causal_report(attlas.analysis.causal_report(atlas))
    >>> len([axis for axis in figure.axes if axis.get_title(loc="left")])
    4

    answer: of `attlas.analysis.causal_report`. Raises InputError for anything else.
    """
    answer = parse_answer(answer, "causal_report", "weight_at_distance", "position_variance")
    layers = answer["layer"].values
    scale = mpl.colors.Normalize(layers.min(), max(layers.max(), layers.min() + 1))
    shade = mpl.colormaps[SEQUENTIAL]
    with styled():
        figure = new_figure(10.0, 7.4)
        far, looks, decay, spread = figure.subplots(2, 2).ravel()
        middle = np.sqrt(np.maximum(answer["distance"], 0.5) * np.maximum(answer["distance_stop"] - 1, 0.5)).values
        for layer in layers:
            colour = shade(scale(layer))
            far.plot(middle, answer.weight_at_distance.sel(layer=layer).mean("head"), color=colour, lw=1)
            spread.plot(answer["position"], answer.position_variance.sel(layer=layer), color=colour, lw=1)
        far.set_xscale("log", base=2)
        far.set_yscale("log")
        far.set(xlabel="distance (tokens; a token itself stands at 1/2)", ylabel="mean weight of a visible cell")
        far.set_title("Weight by distance, a line a layer")
        for name, colour, shape in zip(answer["looks_at"].values, OKABE, "osD^vP", strict=False):
            looks.plot(
                layers, answer.layer_weight.sel(looks_at=name), shape + "-", color=colour, lw=1, ms=3, label=name
            )
        looks.set(xlabel="layer", ylabel="weight, mean over heads", ylim=(0, None))
        looks.set_title("What each layer looks at (kinds overlap)")
        looks.legend(frameon=False, fontsize=7, ncols=2)
        for layer in layers:
            heads = answer.decay.sel(layer=layer).values
            decay.plot(np.full(len(heads), layer), heads, ".", color=shade(scale(layer)), ms=4)
        decay.plot(layers, answer.decay.median("head"), color=INK, lw=1, label="median head")
        decay.set(xlabel="layer", ylabel="a of weight ~ distance^-a")
        decay.set_title("Decay of each head")
        decay.legend(frameon=False, fontsize=7)
        spread.set_xscale("log", base=2)
        spread.set_yscale("symlog", linthresh=1)
        spread.set_ylim(0, None)
        spread.set(xlabel="position of the query (tokens)", ylabel="variance of what it attends to (token²)")
        spread.set_title("Spread by position, a line a layer")
        for panel in (far, spread):
            panel.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        for panel in (far, spread):
            panel.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        figure.colorbar(mpl.cm.ScalarMappable(scale, SEQUENTIAL), ax=[far, spread], label="layer", shrink=0.5, pad=0.01)
        title(figure, answer, "What a causal model's layers look at")
    return figure
