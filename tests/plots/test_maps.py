"""Figures of maps, texts, graphs, points and layers: what they show is what they were given, and can be read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from PIL import Image, ImageSequence

import attlas
from attlas import analysis, plots
from attlas.errors import InputError
from tests.analysis.test_statistics import write
from tests.storage.synthetic import synthetic


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def weights(queries: int, keys: int, *, causal: bool = True) -> xr.DataArray:
    a_QK = np.random.default_rng(0).dirichlet(np.full(keys, 0.3), queries).astype(np.float32)
    a_QK = np.tril(a_QK) if causal else a_QK
    return xr.DataArray(
        a_QK, dims=("query", "key"),
        coords={
            "query": np.arange(queries), "key": np.arange(keys), "layer": 3, "head": 1,
            "query_token": ("query", [f"q{i}" for i in range(queries)]),
            "key_token": ("key", [f"k{i}" for i in range(keys)]),
        },
        attrs={"long_name": "attention weight", "document_id": "d", "kind": "self", "model": "folder/m"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def atlas() -> attlas.Atlas:
    return write(synthetic((30,), layers=(0, 1, 2), heads=3, kv_heads=1, seed=8), "maps")


def boxes(figure: Figure, axis: Any) -> list[Any]:
    figure.canvas.draw()
    return [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]


@pytest.mark.parametrize("size", [3, 10, 60, 200, 1_500])
def test_a_heatmap_is_readable_at_every_length(size: int, tmp_path: Path) -> None:
    figure = plots.heatmap(weights(size, size))
    panel = figure.axes[0]
    shown: Any = np.ma.masked_invalid(np.asarray(panel.images[0].get_array()))
    assert shown.mask[0, -1]
    assert not shown.mask[-1].any()
    if size <= 200:
        np.testing.assert_allclose(np.tril(shown.filled(0)), np.tril(weights(size, size).values), atol=1e-7)
        assert "k0" in words(figure)
    else:
        assert "the largest of 3 x 3 weights" in words(figure)
        assert shown.max() == pytest.approx(float(weights(size, size).max()))
    down, across = boxes(figure, panel.yaxis), boxes(figure, panel.xaxis)
    assert min(len(down), len(across)) >= 3
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(down))
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(across))
    canvas = figure.bbox
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.x1 <= canvas.width + 1, text
    plots.save(figure, tmp_path / "map.png")
    assert imread(tmp_path / "map.png").shape[0] > 300


def test_masked_cells_look_unlike_zeros_and_the_title_tells_what_is_shown() -> None:
    one = weights(4, 4)
    one.values[3, 1] = 0
    image: Any = plots.heatmap(one).axes[0].images[0]
    cells = image.to_rgba(image.get_array())
    assert np.abs(cells[0, 3, :3] - cells[3, 1, :3]).max() > 0.5
    assert "Layer 3, head 1\nm, d, self attention" in words(plots.heatmap(one))
    norm: Any = plots.heatmap(one - 0.5).axes[0].images[0].norm
    assert norm.vmin == -norm.vmax
    assert "log scale" in words(plots.heatmap(one, scale="log"))


def test_of_a_cross_map_nothing_is_taken_for_masked() -> None:
    shown = plots.heatmap(weights(5, 9, causal=False)).axes[0].images[0].get_array()
    assert np.isfinite(np.asarray(shown)).all()


def test_every_head_has_its_map(atlas: attlas.Atlas) -> None:
    every = analysis.thumbnails(atlas, cells=10)
    figure = plots.head_grid(every)
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0", "1", "2"]
    assert np.asarray(panel.images[0].get_array()).shape[:2] == (3 * 13, 3 * 13)
    assert "10 of 30 query rows, the largest of 3 keys" in " ".join(words(figure).split())


def test_lines_are_the_weights(atlas: attlas.Atlas) -> None:
    one = weights(12, 12)
    (drawn,) = plots.lines(one).axes[0].findobj(LineCollection)
    assert len(drawn.get_segments()) == int((one.values >= 0.02).sum())
    joined = {(int(start[1]), int(stop[1])) for start, stop in drawn.get_segments()}
    assert joined == set(map(tuple, np.argwhere(one.values >= 0.02).tolist()))
    with pytest.raises(InputError, match=r"at most 90 .*\.isel"):
        plots.lines(weights(91, 20))


def test_text_is_shaded_by_its_values() -> None:
    row = weights(40, 40).isel(query=39)
    figure = plots.coloured_text(row)
    (drawn,) = figure.axes[0].findobj(PatchCollection)
    assert len(drawn.get_facecolor()) == 40
    light = np.asarray(drawn.get_facecolor())[:, :3].sum(axis=1)
    assert light.argmin() == row.values.argmax()
    assert "what query 39 (q39) attends to" in words(figure)
    long = weights(4_000, 4_000).isel(key=7)
    told = " ".join(words(plots.coloured_text(long)).split())
    assert "who key 7 (k7) is attended by" in told
    assert "of 4,000, which hold" in told
    with pytest.raises(InputError, match="one number a token"):
        plots.coloured_text(weights(4, 4))


def test_letters_fill_their_boxes() -> None:
    figure = plots.coloured_text(weights(40, 40).isel(query=39))
    figure.canvas.draw()
    panel = figure.axes[0]
    for text in panel.texts:
        box = text.get_window_extent().transformed(panel.transData.inverted())
        assert abs(box.width - len(text.get_text())) < 0.5


def test_a_graph_has_an_arc_for_each_edge(atlas: attlas.Atlas) -> None:
    made = analysis.graph(atlas, layer=1, head=0, top=2)
    drawn: Any = plots.graph_drawing(made).axes[0].findobj(lambda artist: type(artist) is LineCollection)[0]
    assert len(drawn.get_segments()) == made.number_of_edges()
    few = plots.graph_drawing(made, edges=7)
    assert f"the 7 heaviest of {made.number_of_edges()} edges" in words(few)
    with pytest.raises(InputError, match="no edge"):
        plots.graph_drawing(nx.DiGraph())


def test_points_stand_where_the_embedding_puts_them(atlas: attlas.Atlas) -> None:
    found = analysis.embed_heads(atlas, pair_rows=8)
    figure = plots.embedding(found)
    points = np.concatenate([part.get_offsets() for part in figure.axes[0].collections])
    assert sorted(map(tuple, points.tolist())) == sorted(map(tuple, found.position.values.tolist()))
    assert f"trustworthiness {found.attrs['trustworthiness']:.2f}" in words(figure)
    with pytest.raises(InputError, match="dimensions=2"):
        plots.embedding(analysis.embed_heads(atlas, pair_rows=8, dimensions=3))


def test_a_film_has_a_frame_a_layer(atlas: attlas.Atlas, tmp_path: Path) -> None:
    every = analysis.overview(atlas, layer=None)
    plots.layer_animation(every, tmp_path / "layers.gif", seconds=0.2)
    with Image.open(tmp_path / "layers.gif") as film:
        assert sum(1 for _ in ImageSequence.Iterator(film)) == 3
    with pytest.raises(InputError, match=r"\.gif"):
        plots.layer_animation(every, tmp_path / "layers.avi")
    with pytest.raises(InputError, match="seconds"):
        plots.layer_animation(every, tmp_path / "layers.gif", seconds=0)


def test_links_in_space_are_the_heaviest(atlas: attlas.Atlas, tmp_path: Path) -> None:
    every = analysis.overview(atlas, layer=None)
    figure = plots.layers_in_space(every, links=50)
    drawn = [part for part in figure.data if part.mode == "lines"]
    found = sorted(
        (round(float(z)), int(query), int(key))
        for part in drawn
        for z, key, query in zip(part.z[::3], part.x[::3], part.x[1::3], strict=True)
    )
    a_LQK = np.nan_to_num(every.values)
    wanted = np.argsort(-a_LQK, axis=None, kind="stable")[:50]
    assert found == sorted(zip(*map(list, np.unravel_index(wanted, a_LQK.shape)), strict=True))
    plots.save(figure, tmp_path / "space.html")
    page = (tmp_path / "space.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    with pytest.raises(InputError, match=r"\.html"):
        plots.save(figure, tmp_path / "space.png")
    with pytest.raises(InputError, match="512 tokens"):
        plots.layers_in_space(analysis.overview(atlas, layer=None, cells=10))


def test_the_report_of_causal_layers(atlas: attlas.Atlas, tmp_path: Path) -> None:
    found = analysis.causal_report(atlas)
    figure = plots.causal_report(found)
    far = figure.axes[0]
    assert len(far.lines) == 3
    np.testing.assert_allclose(
        np.asarray(far.lines[1].get_ydata()), found.weight_at_distance.isel(layer=1).mean("head")
    )
    plots.save(figure, tmp_path / "report.png")
    assert imread(tmp_path / "report.png").shape[0] > 600


def test_a_difference_has_colours_about_zero(atlas: attlas.Atlas) -> None:
    every = atlas.attention("doc-0")
    found = analysis.compare(every.sel(layer=0, head=0), every.sel(layer=1, head=1))
    figure = plots.heatmap(found.difference)
    norm: Any = figure.axes[0].images[0].norm
    assert norm.vmin == -norm.vmax == -float(np.abs(found.difference.values).max())
    assert "Layer 1, head 1 less layer 0, head 0" in words(figure)
