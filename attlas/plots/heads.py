"""Figures of heads: a value or a role of each on a map of layers and heads, and the page that `attlas heads` draws."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from attlas.analysis.head_roles import leading_heads, leading_role
from attlas.plots.given import parse_answer, parse_head_values
from attlas.plots.style import INK, NARROWEST, SEQUENTIAL, label_axis, new_figure, styled, title

__all__ = ["head_map", "head_page", "role_map"]

COLOURS = {
    "previous": "#1b9e9e", "next": "#7fd0c7", "self": "#3b6fb6", "sink": "#8d99a6", "separator": "#caa46a",
    "offset": "#b06ab3", "local": "#6aa84f", "duplicate": "#e0b400", "induction": "#cc3311", "positional": "#88ccee",
}  # fmt: skip
NONE = "#f1f3f5"
CELL, LEAST, MOST = 0.24, 2.2, 9.0
BARS = 3
ROLE_VARIABLES = ("role_score", "role_threshold", "role_baseline", "has_role")


def head_map(values: xr.DataArray) -> Figure:
    """Values (layer, head) as a map: layers down, heads across.

    >>> figure = attlas.plots.head_map(attlas.analysis.statistics(atlas).entropy)
    >>> len(figure.axes) > 0
    True

    values: one number a head, in any unit, such as a variable of `attlas.analysis.statistics`. Raises InputError where
    they are no such numbers.
    """
    values = parse_head_values(values)
    with styled():
        width, height = _size(values.sizes["head"]), _size(values.sizes["layer"])
        figure = new_figure(width + 1.9, height + 1.1)
        panel = figure.subplots()
        image = panel.imshow(values.values, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
        _axes(panel, values["layer"].values, values["head"].values, width, height)
        units = values.attrs.get("units", "1")
        figure.colorbar(image, ax=panel, label="" if units == "1" else units)
        name = str(values.name or "").replace("_", " ")
        panel.set_title(f"{name}\n{values.attrs.get('long_name', '')}", fontsize=9, wrap=True)
    return figure


def role_map(roles: xr.Dataset) -> Figure:
    """Each head in the colour of the role in which it passes its threshold by most.

    >>> figure = attlas.plots.role_map(attlas.analysis.head_roles(atlas))
    >>> len(figure.axes) > 0
    True

    roles: of `attlas.analysis.head_roles`. Raises InputError for anything else.
    """
    roles = parse_answer(roles, "head_roles", *ROLE_VARIABLES)
    with styled():
        width, height = _size(roles.sizes["head"]), _size(roles.sizes["layer"])
        figure = new_figure(max(NARROWEST, width + 2.4), height + 1.3)
        _draw_roles(figure.subplots(), roles, width, height)
        title(figure, roles, "Roles of heads")
    return figure


def head_page(roles: xr.Dataset, diversity: xr.Dataset) -> Figure:
    """The map of roles, the leading heads of each role against evenly spread attention, and diversity by layer.

    >>> roles, diversity = attlas.analysis.head_roles(atlas), attlas.analysis.head_diversity(atlas)
    >>> figure = attlas.plots.head_page(roles, diversity)
    >>> len(figure.axes) > 0
    True

    roles, diversity: of `attlas.analysis.head_roles` and `head_diversity`. Raises InputError for anything else.
    """
    roles = parse_answer(roles, "head_roles", *ROLE_VARIABLES)
    diversity = parse_answer(diversity, "head_diversity", "effective_heads")
    with styled():
        width, height = _size(roles.sizes["head"]), max(_size(roles.sizes["layer"]), 4.8)
        figure = new_figure(width + 10.2, height + 1.3)
        panels = figure.subplots(1, 3, width_ratios=[width + 1.6, 4.4, 3.0])
        _draw_roles(panels[0], roles, width, height)
        _draw_leading(panels[1], roles)
        _draw_diversity(panels[2], diversity)
        title(figure, roles, "Roles and diversity of heads")
    return figure


def _size(count: int) -> float:
    return float(np.clip(count * CELL, LEAST, MOST))


def _axes(panel: Any, layers: Any, heads: Any, width: float, height: float) -> None:
    label_axis(panel.xaxis, heads, room=int(width / 0.24))
    label_axis(panel.yaxis, layers, room=int(height / 0.18))
    panel.set_xlabel("head")
    panel.set_ylabel("layer")
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)


def _draw_roles(panel: Any, roles: xr.Dataset, width: float, height: float) -> None:
    names = [str(name) for name in roles["role"].values]
    place = np.array([[names.index(name) + 1 if name else 0 for name in row] for row in leading_role(roles)])
    colours = ListedColormap([NONE, *(COLOURS[name] for name in names)])
    panel.imshow(place, cmap=colours, vmin=-0.5, vmax=len(names) + 0.5, aspect="auto", interpolation="nearest")
    heads, layers = roles["head"].values, roles["layer"].values
    _axes(panel, layers, heads, width, height)
    for edge in range(1, len(heads)):
        panel.axvline(edge - 0.5, color="white", lw=0.8)
    for edge in range(1, len(layers)):
        panel.axhline(edge - 0.5, color="white", lw=0.8)
    present = [i for i in range(len(names)) if (place == i + 1).any()]
    handles = [Patch(color=COLOURS[names[i]], label=f"{names[i]} ({int((place == i + 1).sum())})") for i in present]
    handles.append(Patch(facecolor=NONE, edgecolor="#c9d0d6", label=f"none ({int((place == 0).sum())})"))
    panel.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
        title="role (heads it leads)",
        title_fontsize=8,
        alignment="left",
    )
    panel.set_title("leading role")


def _draw_leading(panel: Any, roles: xr.Dataset) -> None:
    """The BARS highest heads of each role, the threshold, and what evenly spread attention scores."""
    names = [str(name) for name in roles["role"].values]
    step = BARS + 1
    for i, name in enumerate(names):
        for j, (layer, head, score) in enumerate(leading_heads(roles.role_score[i], BARS)):
            y = i * step + j
            panel.barh(y, score, color=COLOURS[name], height=0.85)
            panel.text(score + 0.01, y, f"{layer}.{head}", va="center", fontsize=7, color=INK, zorder=4,
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})  # fmt: skip
        span = (i * step - 0.5, i * step + BARS - 0.5)
        panel.plot([float(roles.role_threshold[i])] * 2, span, color=INK, lw=1.2)
        panel.plot([float(np.nanmean(roles.role_baseline.values[i]))] * 2, span, color="#b3361b", lw=1.2, ls=":")
    panel.set_yticks([i * step + (BARS - 1) / 2 for i in range(len(names))], names)
    panel.set_ylim(len(names) * step + 1.5, -1)
    panel.set_xlim(0, 1.12)
    panel.set_xlabel("score")
    panel.tick_params(axis="y", length=0)
    panel.set_title("leading heads (layer.head)")
    lines = [
        mpl.lines.Line2D([], [], color=INK, lw=1.2, label="threshold"),
        mpl.lines.Line2D([], [], color="#b3361b", lw=1.2, ls=":", label="evenly spread"),
    ]
    panel.legend(handles=lines, loc="lower right", frameon=False, fontsize=8, ncols=2)


def _draw_diversity(panel: Any, diversity: xr.Dataset) -> None:
    layers = np.arange(diversity.sizes["layer"])
    panel.barh(layers, diversity.effective_heads.values, color="#9fc5d8", height=0.8)
    panel.set_ylim(len(layers) - 0.5, -0.5)
    panel.set_xlim(0, diversity.sizes["head"])
    label_axis(panel.yaxis, diversity["layer"].values, room=int(len(layers) * CELL / 0.18) or 1)
    panel.set_ylabel("layer")
    panel.set_xlabel(f"effective number of heads, of {diversity.sizes['head']}")
    panel.tick_params(axis="y", length=0)
    panel.set_title("diversity")
