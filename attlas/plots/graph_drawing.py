"""Figure of a graph of attention: tokens along a line in the order of the text, and an arc for every edge."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import networkx as nx
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from attlas.errors import InputError
from attlas.parse import parse_count, parse_instance
from attlas.plots.style import INK, heading, new_figure, readable, styled

__all__ = ["graph_drawing"]

MOST_EDGES = 400
PALETTE = "viridis_r"


def graph_drawing(made: nx.DiGraph, *, edges: int = MOST_EDGES) -> Figure:
    """Tokens from left to right as the text runs, and an arc from each query to the keys it is joined to.

    >>> figure = attlas.plots.graph_drawing(attlas.analysis.graph(atlas, layer=1, head=0, top=1))
    >>> len(figure.axes)
    2

    made: of `attlas.analysis.graph` or `graph_of`. edges: the heaviest so many are drawn, and the title tells how many
    there are. Arcs above go to earlier tokens, those below to later ones; of cross attention, queries stand above and
    keys below. A token is the larger, the more weight it receives. Raises InputError where the graph has no edge.
    """
    parse_instance(made, "graph", nx.DiGraph, "give what analysis.graph returns")
    edges = parse_count(edges, "edges")
    if not made.number_of_edges():
        raise InputError("the graph has no edge: take a lower threshold, or more of each row")
    heaviest = sorted(made.edges(data="weight"), key=lambda edge: -edge[2])[:edges]
    place, rows = _places(made)
    received = dict(made.in_degree(weight="weight"))
    most = max(received.values()) or 1.0
    with styled():
        wide = float(np.clip(0.16 * max(len(row) for row in rows), 5.0, 13.0))
        figure = new_figure(wide + 1.0, 5.4)
        panel = figure.subplots()
        weights = np.array([weight for _, _, weight in heaviest])[::-1]
        norm = mpl.colors.Normalize(0, float(weights.max()))
        thin = min(1.0, 10 / len(heaviest) ** 0.5)
        curves = [_arc(place[query], place[key]) for query, key, _ in heaviest[::-1]]
        rgba = mpl.colormaps[PALETTE](norm(weights))
        rgba[:, 3] = np.clip(0.25 + norm(weights), 0, 0.95)
        panel.add_collection(LineCollection(curves, colors=rgba, linewidths=(0.5 + 1.6 * norm(weights)) * thin))
        for row in rows:
            at = np.array([place[node] for node in row])
            size = [min(4, 400 / len(row)) + 90 * received[node] / most for node in row]
            panel.scatter(at[:, 0], at[:, 1], s=size, color=INK, zorder=3, linewidths=0)
            _label(panel, made, row, at, wide, below=row is rows[-1])
        panel.autoscale_view()
        panel.margins(x=0.02)
        panel.axis("off")
        bar = mpl.cm.ScalarMappable(norm, mpl.colormaps[PALETTE])
        figure.colorbar(bar, ax=panel, label="attention weight of an edge", shrink=0.6, pad=0.01)
        count = made.number_of_edges()
        drawn = f"{count:,} edges" if count <= edges else f"the {edges:,} heaviest of {count:,} edges"
        facts = made.graph
        head = {"mean": ", mean over heads"}.get(str(facts.get("head")), f", head {facts.get('head')}")
        where = [
            str(facts.get("model", "")).rpartition("/")[2],
            str(facts.get("document", "")),
            str(facts["edges"]),
            drawn,
        ]
        title = f"Layer {facts['layer']}{head}: attention as a graph" if "layer" in facts else "Attention as a graph"
        heading(figure, title, ", ".join(readable(part, 60) for part in where if part))
    return figure


def _places(made: nx.DiGraph) -> tuple[dict[Any, tuple[float, float]], list[list[Any]]]:
    """Where each node stands, and the rows of nodes: one, or those of queries and of keys."""
    queries = [node for node in made if str(node).startswith("query ")]
    rows = [[node for node in made if node not in set(queries)]]
    rows = [queries, *rows] if queries else rows
    widest = max(len(row) for row in rows) - 1
    place: dict[Any, tuple[float, float]] = {}
    for height, row in zip((1.0, 0.0) if queries else (0.0,), rows, strict=True):
        step = widest / max(len(row) - 1, 1) if queries else 1.0
        place |= {node: (step * i, height * widest / 4) for i, node in enumerate(row)}
    return place, rows


def _arc(start: tuple[float, float], stop: tuple[float, float]) -> Any:
    """Points of half an ellipse above the line for an earlier key, below for a later; a small loop for itself."""
    (x, y), (u, v) = start, stop
    if y != v:
        return np.array([start, stop])
    angle = np.linspace(0, np.pi, 60)
    half = (x - u) / 2
    if not half:
        return np.stack([x + 0.35 * np.sin(2 * angle), 0.7 * np.sin(angle)], axis=1)
    return np.stack([(x + u) / 2 + half * np.cos(angle), 0.5 * half * np.sin(angle)], axis=1)


def _label(panel: Any, made: nx.DiGraph, row: list[Any], at: Any, wide: float, *, below: bool) -> None:
    """The tokens of a row: all, or those that most weight goes to or from and that have room."""
    room = max(1, int(wide / 0.14))
    chosen = list(range(len(row)))
    if len(row) > room:
        touched = dict(made.degree(row, weight="weight"))
        apart, taken = len(row) / room, list[int]()
        for i in sorted(chosen, key=lambda i: -touched[row[i]]):
            if all(abs(i - j) >= apart for j in taken):
                taken.append(i)
        chosen = taken
    for i in chosen:
        facts = made.nodes[row[i]]
        text = readable(str(facts.get("token", facts.get("position", row[i]))).strip(" "), 12)
        text = text if len(chosen) == len(row) else f"{text} {facts.get('position', i)}"
        panel.annotate(
            text, at[i], xytext=(0, -7 if below else 7), textcoords="offset points", rotation=90, fontsize=7,
            ha="center", va="top" if below else "bottom", color=INK,
        )  # fmt: skip
