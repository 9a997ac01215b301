"""Figures of how alike heads are: the matrix in the order of the dendrogram, and heads as points on a plane."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.cluster.hierarchy import dendrogram

from attlas.errors import InputError
from attlas.plots.given import parse_answer
from attlas.plots.style import INK, SEQUENTIAL, apart, new_figure, styled, title

__all__ = ["diversity_matrix", "head_plane"]

LABELLED = 60
WHOLE = MaxNLocator(integer=True)


def diversity_matrix(answer: xr.Dataset) -> Figure:
    """Jensen-Shannon distance of all heads, ordered by the dendrogram above; the strip beside shows each head's layer.

    >>> figure = attlas.plots.diversity_matrix(attlas.analysis.head_diversity(atlas))
    >>> len(figure.axes) > 0
    True

    answer: of `attlas.analysis.head_diversity`. Raises InputError where heads of different layers were not compared.
    """
    answer = _compared(answer)
    order = answer.dendrogram_order.values
    distance = answer.distance.values[np.ix_(order, order)]
    layers = answer.member_layer.values[order]
    names = [f"{answer.member_layer.values[i]}.{answer.member_head.values[i]}" for i in order]
    with styled():
        size = float(np.clip(0.13 * len(order), 4.5, 8.5))
        figure = new_figure(size + 2.0, size + 2.0)
        panels = figure.subplots(
            2, 2, width_ratios=[0.25, size], height_ratios=[0.9, size], gridspec_kw={"wspace": 0.01, "hspace": 0.01}
        )
        panels[0, 0].set_visible(False)
        dendrogram(answer.merges.values, ax=panels[0, 1], no_labels=True, color_threshold=0, above_threshold_color=INK)
        for line in panels[0, 1].collections:
            line.set_linewidth(0.6)
        panels[0, 1].axis("off")
        strip = panels[1, 0].imshow(layers[:, None], cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
        panels[1, 0].set_xticks([])
        panels[1, 0].set_yticks([])
        panels[1, 0].set_ylabel("layer of the head")
        image = panels[1, 1].imshow(distance, cmap="magma", aspect="auto", interpolation="nearest", vmin=0)
        panels[1, 1].set_yticks([])
        cuts = np.flatnonzero(np.diff(answer.cluster.values[order])) + 0.5
        for cut in cuts:
            panels[1, 1].axhline(cut, color="white", lw=0.9)
            panels[1, 1].axvline(cut, color="white", lw=0.9)
        if len(order) <= LABELLED:
            panels[1, 1].set_xticks(range(len(order)), names, rotation=90, fontsize=6)
            panels[1, 1].set_xlabel("layer.head")
        else:
            panels[1, 1].set_xticks([])
            panels[1, 1].set_xlabel(f"{len(order)} heads in the order of the dendrogram; white lines: clusters")
        figure.colorbar(image, ax=panels[1, 1], label="Jensen-Shannon distance", shrink=0.6, pad=0.01)
        figure.colorbar(strip, ax=panels[1, 1], label="layer", shrink=0.6, pad=0.02, ticks=WHOLE)
        title(figure, answer, "How unlike heads are", rows=_rows(answer))
    return figure


def head_plane(answer: xr.Dataset) -> Figure:
    """Heads as points whose distances are, as well as a plane can hold them, their Jensen-Shannon distances.

    >>> figure = attlas.plots.head_plane(attlas.analysis.head_diversity(atlas))
    >>> len(figure.axes) > 0
    True

    answer: of `attlas.analysis.head_diversity`. Raises InputError where heads of different layers were not compared.
    Colour: layer; shape: cluster. The points that lie farthest out, or all of a few, carry `layer.head`.
    """
    answer = _compared(answer)
    place, layers, clusters = answer.plane.values, answer.member_layer.values, answer.cluster.values
    shapes = "osD^vP*X<>hd"
    scale = mpl.colors.Normalize(layers.min(), max(layers.max(), layers.min() + 1))
    with styled():
        figure = new_figure(8.0, 6.6)
        panel = figure.subplots()
        for cluster in np.unique(clusters):
            some = clusters == cluster
            panel.scatter(
                place[some, 0], place[some, 1], c=layers[some], cmap=SEQUENTIAL, norm=scale, s=34, alpha=0.9,
                marker=shapes[(int(cluster) - 1) % len(shapes)], edgecolors="white", linewidths=0.5,
                label=f"cluster {cluster} ({int(some.sum())})",
            )  # fmt: skip
        for i in apart(place, np.argsort(-np.hypot(*(place - place.mean(axis=0)).T)).tolist(), most=LABELLED):
            text = f"{layers[i]}.{answer.member_head.values[i]}"
            panel.annotate(text, place[i], xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=INK)
        panel.set_aspect("equal", adjustable="datalim")
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_xlabel(f"metric MDS, stress {answer.plane.attrs.get('stress', float('nan')):.2f}")
        legend = panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.03), ncols=4)
        for handle in legend.findobj(PathCollection):
            handle.set_facecolor(INK)
        panel.spines[["left", "bottom"]].set_visible(False)
        figure.colorbar(mpl.cm.ScalarMappable(scale, SEQUENTIAL), ax=panel, label="layer", shrink=0.7, ticks=WHOLE)
        title(figure, answer, "A map of heads: near ones attend alike", rows=_rows(answer))
    return figure


def _rows(answer: xr.Dataset) -> str:
    return f"{answer.attrs['pair_rows']:,} sampled query rows"


def _compared(answer: xr.Dataset) -> xr.Dataset:
    if "member" not in parse_answer(answer, "head_diversity", "effective_heads").dims:
        raise InputError("heads of different layers were not compared here: that needs factors, and more than one head")
    return answer
