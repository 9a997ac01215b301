"""Links through layers in three dimensions, as one HTML file that opens without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import xarray as xr

from attlas.errors import InputError
from attlas.parse import parse_count
from attlas.plots.given import parse_weights
from attlas.plots.style import INK, readable, subject

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as SpaceFigure

__all__ = ["layers_in_space"]

LINKS = 600
MOST_TOKENS = 512
CLASSES = 6
PALETTE = "viridis_r"


def layers_in_space(weights: xr.DataArray, *, links: int = LINKS) -> SpaceFigure:
    """The heaviest links through all layers: from a token above a layer down to the tokens it attends to.

    >>> figure = attlas.plots.layers_in_space(attlas.analysis.overview(atlas, layer=None))
    >>> figure.layout.scene.zaxis.title.text
    'layer'

    weights: (layer, query, key) of at most 512 tokens, unpooled, such as `overview` gives with layer=None, or a
    selection of it. links: the heaviest so many, over all layers. Gives a plotly Figure, which `attlas.plots.save`
    writes as .html. Needs attlas[plotly]. Raises InputError for more tokens, and where plotly is not installed.
    """
    given = parse_weights(weights, ("layer", "query", "key"))
    links = parse_count(links, "links")
    if max(given.sizes["query"], given.sizes["key"]) > MOST_TOKENS or int(given.attrs.get("block_keys", 1)) > 1:
        raise InputError(
            f"links through layers are of at most {MOST_TOKENS} tokens, each by itself: choose a span with "
            ".isel(query=..., key=...), and more cells than tokens"
        )
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise InputError("links in space need a package that is not installed: pip install attlas[plotly]") from error
    a_LQK = np.nan_to_num(given.values)
    heaviest = np.argsort(-a_LQK, axis=None, kind="stable")[:links]
    heaviest = heaviest[a_LQK.ravel()[heaviest] > 0]
    layer_E, query_E, key_E = np.unravel_index(heaviest, a_LQK.shape)
    weight_E = a_LQK.ravel()[heaviest]
    layers, queries, keys = (given[dim].values for dim in ("layer", "query", "key"))
    figure = graph_objects.Figure()
    edges = np.linspace(0, float(weight_E.max()), CLASSES + 1)
    class_E = np.clip(np.digitize(weight_E, edges) - 1, 0, CLASSES - 1)
    for number in range(CLASSES):
        some = class_E == number
        if not some.any():
            continue
        x, y = _joined(keys[key_E[some]], queries[query_E[some]]), np.zeros(3 * int(some.sum()))
        z = _joined(layers[layer_E[some]].astype(float), layers[layer_E[some]] + 1.0)
        figure.add_scatter3d(
            x=x, y=y, z=z, mode="lines", hoverinfo="skip", name=f"{edges[number]:.2f} to {edges[number + 1]:.2f}",
            line={"color": mpl.colors.to_hex(mpl.colormaps[PALETTE]((number + 0.5) / CLASSES)), "width": 1 + number},
        )  # fmt: skip
    _add_tokens(figure, given, layers)
    told = f"the {len(heaviest):,} heaviest links of {int((a_LQK > 0).sum()):,}"
    figure.update_layout(
        title={"text": f"Links through layers<br><sub>{_escaped(subject(given, told))}</sub>", "x": 0.01},
        font={"color": INK}, template="plotly_white", legend={"title": "attention weight"},
        scene={
            "xaxis": {"title": "place in the document"}, "yaxis": {"visible": False}, "zaxis": {"title": "layer"},
            "aspectmode": "manual", "aspectratio": {"x": 2.2, "y": 0.6, "z": 1.1},
        },
    )  # fmt: skip
    return figure


def _joined(start: Any, stop: Any) -> Any:
    """Pairs of points with a gap behind each."""
    return np.stack([start, stop, np.full(len(start), np.nan)], axis=1).ravel()


def _add_tokens(figure: Any, given: xr.DataArray, layers: Any) -> None:
    places = given["key"].values
    tokens = given["key_token"].values if "key_token" in given.coords else places
    names = [_escaped(readable(str(token))) for token in tokens]
    for height, mode in ((float(layers[0]), "markers+text"), (float(layers[-1]) + 1, "markers")):
        figure.add_scatter3d(
            x=places, y=np.zeros(len(places)), z=np.full(len(places), height), mode=mode, showlegend=False,
            text=names, textposition="bottom center", textfont={"size": 9}, marker={"size": 2.5, "color": INK},
            hovertemplate="%{text}, place %{x}<extra></extra>",
        )  # fmt: skip


def _escaped(text: str) -> str:
    """Without what plotly and a browser would read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
