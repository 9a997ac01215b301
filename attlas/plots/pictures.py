"""Every picture by its name, from an atlas to a figure: what `attlas plot` draws, and the gallery of the docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from attlas import analysis
from attlas.errors import InputError
from attlas.parse import FIGURE_ENDINGS, parse_choice, parse_output
from attlas.plots.causal_report import causal_report
from attlas.plots.coloured_text import coloured_text
from attlas.plots.embedding import embedding
from attlas.plots.graph_drawing import graph_drawing
from attlas.plots.head_grid import head_grid
from attlas.plots.heatmap import heatmap
from attlas.plots.layer_animation import layer_animation
from attlas.plots.layers_in_space import layers_in_space
from attlas.plots.lines import lines
from attlas.plots.statistics import head_boxes, layer_means
from attlas.plots.style import save
from attlas.storage import Atlas, parse_atlas
from attlas.storage.tile import chosen_places, existing_label, only_document

__all__ = ["PICTURES", "Picture", "Wanted", "draw"]

SPAN = 40
"""Tokens of the lines, where no span is chosen."""
WHOLE = 2_048
"""Tokens of a document whose rollout is drawn whole."""
MOST_CELLS = 2**24
"""Of a span that is read whole: one row of 16 million tokens, or 4,096 x 4,096."""
EDGES = 3
"""Of each row in the graph, where no rule is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a picture is to be of; None where it is not said. queries, keys: positions as `parse_selection` reads them.

    scale: of colours, "linear" or "log". statistic: of the box plot. top, threshold, mass: the edge rule of the graph.
    method: of the embedding.
    """

    document: str | None = None
    kind: str | None = None
    layer: int | None = None
    head: int | None = None
    queries: Any = None
    keys: Any = None
    scale: str | None = None
    statistic: str | None = None
    method: str | None = None
    top: int | None = None
    threshold: float | None = None
    mass: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """about: what it shows, in a line. takes: what of `Wanted` changes it. endings: of its file, the default first."""

    about: str
    takes: tuple[str, ...]
    make: Callable[[Atlas, Wanted], Any]
    endings: tuple[str, ...] = FIGURE_ENDINGS


def draw(atlas: Atlas | str | Path, picture: str, path: str | Path, **wanted: Any) -> Path:
    """Draw a picture of an atlas into a file, by the picture's name.

    >>> attlas.plots.draw(atlas, "map", "map.png", layer=1, head=0).name
    'map.png'

    atlas: or its place. picture: one of PICTURES: map, grid, lines, text, graph, rollout, received, heads, layers,
    boxes, causal, film, space. path: .png, .pdf or .svg; .gif or .mp4 of film, .html of space. wanted: the fields of
    `Wanted` that the picture takes. Gives the path. Raises InputError for a picture, a choice or an ending that is not
    there.
    """
    atlas = parse_atlas(atlas)
    known = PICTURES[parse_choice(picture, "picture", tuple(PICTURES))]
    given = {name: value for name, value in wanted.items() if value is not None}
    of_all = (*known.takes, "document", "kind")
    unknown = next((name for name in given if name not in of_all), None)
    if unknown is not None:
        raise InputError(f"the picture {picture} takes no {unknown}: it takes {', '.join(of_all)}")
    path = parse_output(path, "path", known.endings)  # before the work, not behind it
    figure = known.make(atlas, Wanted(**given))
    if callable(figure) and not hasattr(figure, "write_html"):
        figure(path)  # a film is drawn into its file
    else:
        save(figure, path)
    return path


def _weights(atlas: Atlas, wanted: Wanted, *, most: int, **span: Any) -> xr.DataArray:
    """The chosen weights (query, key) of a head, or the mean over heads; so many cells at most, before any is read."""
    attention = atlas.attention(_document(atlas, wanted), _kind(atlas, wanted))
    attention = attention.sel(layer=existing_label(attention, "layer", _layer(atlas, wanted)))
    if wanted.head is not None:
        attention = attention.sel(head=[existing_label(attention, "head", wanted.head)])
    for dim, name in (("query", "queries"), ("key", "keys")):
        given = span.get(name, getattr(wanted, name))
        if given is not None:
            attention = attention.isel({dim: chosen_places(attention, dim, given)})
    queries, keys = attention.sizes["query"], attention.sizes["key"]
    if queries * keys > most:
        raise InputError(
            f"{queries:,} queries x {keys:,} keys are too many for this picture: choose fewer, or draw a map"
        )
    total = attention.isel(head=0).load()
    for head in range(1, attention.sizes["head"]):
        total = total.copy(data=total.values + attention.isel(head=head).values)
    told = "mean" if wanted.head is None else int(total["head"])
    return total.copy(data=total.values / attention.sizes["head"]).assign_attrs(head=told)


def _map(atlas: Atlas, wanted: Wanted) -> Any:
    small = analysis.overview(
        atlas, _document(atlas, wanted), layer=_layer(atlas, wanted), kind=_kind(atlas, wanted),
        head="mean" if wanted.head is None else wanted.head, queries=wanted.queries, keys=wanted.keys,
    )  # fmt: skip
    return heatmap(small, scale=wanted.scale)


def _lines(atlas: Atlas, wanted: Wanted) -> Any:
    span = f"last:{SPAN}"
    if wanted.queries is None and wanted.keys is None:
        return lines(_weights(atlas, wanted, most=SPAN**2, queries=span, keys=span))
    return lines(_weights(atlas, wanted, most=MOST_CELLS))


def _text(atlas: Atlas, wanted: Wanted) -> Any:
    if wanted.queries is not None and wanted.keys is not None:
        raise InputError("a text is of one query, or of one key: leave one of the two out")
    column = wanted.keys is not None
    queries = wanted.queries if column else wanted.queries or "last:1"
    tile = _weights(atlas, wanted, most=MOST_CELLS, queries=queries)
    chosen, size = ("key", tile.sizes["key"]) if column else ("query", tile.sizes["query"])
    if size != 1:
        raise InputError(f"a text is of one {chosen}, and {size:,} are chosen: write one position")
    return coloured_text(tile.isel({chosen: 0}), scale=wanted.scale)


def _graph(atlas: Atlas, wanted: Wanted) -> Any:
    rule = {name: getattr(wanted, name) for name in ("top", "threshold", "mass") if getattr(wanted, name) is not None}
    head = "mean" if wanted.head is None else wanted.head
    made = analysis.graph(
        atlas, _document(atlas, wanted), layer=_layer(atlas, wanted), head=head, kind=_kind(atlas, wanted),
        **(rule or {"top": EDGES}),
    )  # fmt: skip
    return graph_drawing(made)


def _rollout(atlas: Atlas, wanted: Wanted) -> Any:
    """The whole matrix of a short document, else the row of one query, or the column of one key, as text."""
    document, kind = _document(atlas, wanted), _kind(atlas, wanted)
    short = atlas.attention(document, kind).sizes["query"] <= WHOLE
    queries, keys = wanted.queries, wanted.keys
    queries = -1 if queries is keys is None and not short else queries
    found = analysis.rollout(atlas, document, queries=queries, keys=keys, kind=kind).rollout
    found = found.assign_attrs(
        title="Rollout through all layers", long_name="share of what comes from the key", document_id=document,
        kind=kind, model=str(atlas.model.get("name")),
    )  # fmt: skip
    single = next((dim for dim in ("query", "key") if found.sizes[dim] == 1), None)
    return heatmap(found, scale=wanted.scale or "log") if single is None else coloured_text(found.isel({single: 0}))


def _received(atlas: Atlas, wanted: Wanted) -> Any:
    document, kind, layer = _document(atlas, wanted), _kind(atlas, wanted), _layer(atlas, wanted)
    found = analysis.received(atlas, document, layers=[layer], kind=kind).received.isel(layer=0)
    if wanted.head is None:
        values, of = found.mean("head"), "mean over heads"
    else:
        head = existing_label(found, "head", wanted.head)
        values, of = found.sel(head=head), f"head {head}"
    told = {
        "title": f"Layer {int(found['layer'])}, {of}: attention that each token receives", "document_id": document,
        "kind": kind, "model": str(atlas.model.get("name")), "long_name": "mean weight of the queries that may see it",
    }  # fmt: skip
    return coloured_text(values.assign_attrs(told), scale=wanted.scale)


def _layers(atlas: Atlas, wanted: Wanted) -> Any:
    names = [wanted.statistic] if wanted.statistic else None
    return layer_means(analysis.statistics(atlas, **_choices(wanted)), names)


def _film(atlas: Atlas, wanted: Wanted) -> Callable[[str | Path], Any]:
    def write(path: str | Path) -> None:
        layer_animation(_every(atlas, wanted, cells=256), path, scale=wanted.scale)

    return write


def _every(atlas: Atlas, wanted: Wanted, *, cells: int) -> xr.DataArray:
    head = "mean" if wanted.head is None else wanted.head
    document, kind = _document(atlas, wanted), _kind(atlas, wanted)
    return analysis.overview(atlas, document, layer=None, head=head, kind=kind, cells=cells)


def _document(atlas: Atlas, wanted: Wanted) -> str:
    return only_document(atlas) if wanted.document is None else wanted.document


def _kind(atlas: Atlas, wanted: Wanted) -> str:
    return atlas.kinds[0] if wanted.kind is None else wanted.kind


def _layer(atlas: Atlas, wanted: Wanted) -> int:
    if wanted.layer is None:
        layers = atlas.layers(_kind(atlas, wanted))
        raise InputError(f"say of which layer: the atlas has {layers[0]} to {layers[-1]}, and -1 is the last")
    return wanted.layer


def _choices(wanted: Wanted) -> dict[str, Any]:
    """As the jobs over all documents take them."""
    return {"documents": wanted.document, "kind": wanted.kind}


HEAD = ("layer", "head", "queries", "keys", "scale")

PICTURES: dict[str, Picture] = {
    "map": Picture(about="weights of a head, or the mean over heads: queries down, keys across", takes=HEAD, make=_map),
    "grid": Picture(
        about="a small map of every head", takes=(),
        make=lambda atlas, w: head_grid(analysis.thumbnails(atlas, _document(atlas, w), kind=_kind(atlas, w))),
    ),
    "lines": Picture(about="a short span, a line for every weight", takes=HEAD[:4], make=_lines),
    "text": Picture(about="what a query attends to, or who attends to a key, as shaded text", takes=HEAD, make=_text),
    "graph": Picture(
        about="tokens, and an arc for every weight that the edge rule keeps",
        takes=("layer", "head", "top", "threshold", "mass"), make=_graph,
    ),
    "rollout": Picture(
        about="rollout through all layers: a map, or of one query or key a shaded text",
        takes=("queries", "keys", "scale"), make=_rollout,
    ),
    "received": Picture(
        about="attention that each token receives, as shaded text", takes=("layer", "head", "scale"), make=_received,
    ),
    "heads": Picture(
        about="heads as points, near where they attend alike", takes=("method",),
        make=lambda atlas, w: embedding(analysis.embed_heads(atlas, method=w.method or "pca", **_choices(w))),
    ),
    "layers": Picture(about="mean and spread of statistics by layer", takes=("statistic",), make=_layers),
    "boxes": Picture(
        about="one statistic of every head over documents, as boxes", takes=("statistic",),
        make=lambda atlas, w: head_boxes(analysis.statistics(atlas, **_choices(w)), w.statistic or "entropy"),
    ),
    "causal": Picture(
        about="what a causal model's layers look at, and how far back", takes=(),
        make=lambda atlas, w: causal_report(analysis.causal_report(atlas, **_choices(w))),
    ),
    "film": Picture(about="a frame a layer", takes=("head", "scale"), make=_film, endings=(".gif", ".mp4")),
    "space": Picture(
        about="the heaviest links through all layers, in three dimensions, for a browser", takes=("head",),
        make=lambda atlas, w: layers_in_space(_every(atlas, w, cells=512)), endings=(".html",),
    ),
}  # fmt: skip
