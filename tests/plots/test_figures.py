"""Every figure, for few heads and many, is drawn without a display, has its labels, and says what it is of."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from attlas import analysis, plots
from attlas.errors import InputError
from attlas.plots.style import apart, model_title, readable
from tests.analysis.test_statistics import write
from tests.storage.synthetic import synthetic

LEAST_INK = 0.003


def ask(heads: int, layers: int) -> tuple[Any, Any, Any]:
    made = synthetic((40, 30, 20), layers=tuple(range(layers)), heads=heads, kv_heads=1, seed=heads)
    atlas = write(made, f"figures-{heads}-{layers}")
    return analysis.statistics(atlas), analysis.head_roles(atlas), analysis.head_diversity(atlas, pair_rows=16)


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (4, 2), (40, 3)])
def test_every_figure_is_drawn(heads: int, layers: int, tmp_path: Path) -> None:
    statistics, roles, diversity = ask(heads, layers)
    drawn = {
        "layers": plots.layer_means(statistics),
        "histograms": plots.histograms(statistics, ["entropy", "gini"]),
        "boxes": plots.head_boxes(statistics, "entropy"),
        "map": plots.head_map(statistics.entropy),
        "roles": plots.role_map(roles),
        "page": plots.head_page(roles, diversity),
        "decay": plots.distance_decay(statistics),
    }
    if heads * layers > 1:
        drawn |= {"matrix": plots.diversity_matrix(diversity), "plane": plots.head_plane(diversity)}
    else:
        with pytest.raises(InputError, match="more than one head"):
            plots.head_plane(diversity)
    for name, figure in drawn.items():
        plots.save(figure, tmp_path / f"{name}.png")
        image = imread(tmp_path / f"{name}.png")[..., :3]
        assert min(image.shape[:2]) > 200, name
        assert (image.min(axis=2) < 0.8).mean() > LEAST_INK, name
    assert "entropy" in words(drawn["layers"])
    assert f"{layers - 1}" in words(drawn["map"])
    assert "all 90 query rows" in words(drawn["page"])
    if 1 < heads * layers <= 60:
        assert f"{layers - 1}.{heads - 1}" in words(drawn["matrix"])


def test_labels_do_not_lie_on_one_another(tmp_path: Path) -> None:
    statistics, _, _ = ask(40, 3)
    figure = plots.head_map(statistics.entropy)
    plots.save(figure, tmp_path / "map.png")
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) >= 10
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (4, 2), (9, 12)])
def test_no_text_leaves_the_figure(heads: int, layers: int) -> None:
    statistics, roles, _ = ask(heads, layers)
    statistics.attrs["model"] = roles.attrs["model"] = "somebody/a-model-with-a-rather-long-name-instruct"
    figures = [plots.layer_means(statistics), plots.layer_means(statistics, ["entropy"]), plots.head_boxes(statistics)]
    figures += [plots.histograms(statistics, ["gini"]), plots.distance_decay(statistics), plots.role_map(roles)]
    for figure in figures:
        figure.draw_without_rendering()
        told: Text = figure._suptitle  # type: ignore[attr-defined]
        under = [text for panel in figure.axes for text in panel.get_children() if isinstance(text, Text)]
        below = [text.get_window_extent() for text in under if text.get_text() and text.get_visible()]
        boxes = [told.get_window_extent(), *below]
        wide, high = figure.bbox.size
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= wide and box.y1 <= high for box in boxes), told.get_text()
        assert all(box.y1 <= boxes[0].y0 for box in below), told.get_text()


def test_an_axis_of_weights_ends_at_one() -> None:
    statistics, _, _ = ask(4, 2)
    statistics["max_weight"] = xr.ones_like(statistics.max_weight)
    statistics["mean_distance"] = xr.full_like(statistics.mean_distance, 5.0)
    statistics["mean_weight"] = xr.full_like(statistics.mean_weight, 0.02)
    names = ["max_weight", "mean_distance", "mean_weight"]
    tops = [panel.get_ylim()[1] for panel in plots.layer_means(statistics, names).axes[:3]]
    assert tops == pytest.approx([1.02, 10.2, 0.0408])
    bars = plots.histograms(statistics, ["max_weight"]).axes[0].patches
    ends = [bar.get_path().get_extents(bar.get_patch_transform()) for bar in bars]
    assert [end.x1 for end in ends if end.height > 0] == pytest.approx([1.0])


def test_a_panel_above_none_has_its_layers() -> None:
    statistics, _, _ = ask(4, 2)
    names = ["entropy", "gini", "max_weight", "mean_distance", "self_weight"]
    figure = plots.layer_means(statistics, names)
    figure.draw_without_rendering()
    labelled = [any(t.get_visible() and t.get_text() for t in panel.get_xticklabels()) for panel in figure.axes[:5]]
    assert labelled == [False, True, True, True, True]


@pytest.mark.parametrize(("count", "boxes", "dots"), [(1, 0, 1), (4, 0, 4), (5, 4, 0)])
def test_few_documents_are_dots(count: int, boxes: int, dots: int) -> None:
    made = synthetic(tuple(20 + i for i in range(count)), layers=(0,), heads=4, kv_heads=1, seed=count)
    figure = plots.head_boxes(analysis.statistics(write(made, f"boxes-{count}")))
    panel = figure.axes[0]
    assert len(panel.patches) == boxes
    assert len([line for line in panel.lines if line.get_marker() == "o"]) == dots


def test_labels_on_the_plane_lie_on_no_label_and_no_point() -> None:
    _, _, diversity = ask(40, 3)
    figure = plots.head_plane(diversity)
    figure.draw_without_rendering()
    panel = figure.axes[0]
    boxes = [text.get_window_extent() for text in panel.texts]
    points = panel.transData.transform(diversity.plane.values)
    assert len(boxes) > 5
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.contains(x, y) for box in boxes for x, y in points)


def test_a_point_with_another_where_its_label_would_be_has_none() -> None:
    place = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.54, 0.505]])
    assert apart(place, [2, 3, 0, 1], most=9) == [3, 0, 1]
    assert apart(place, [2, 3, 0, 1], most=2) == [3, 0]
    assert apart(place[:3], [2, 1, 0], most=9) == [2, 1, 0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("demo", "demo"), ("org/small-1b", "small-1b"), ("/data/gt_minilm/model", "gt_minilm/model"),
        ("runs/mine/checkpoint-500", "mine/checkpoint-500"), ("/m/minilm", "minilm"), ("model", "model"),
        ("/c/hub/models--org--small/snapshots/0a1b", "org/small"), ("", ""),
    ],
)  # fmt: skip
def test_a_model_is_told_from_others(name: str, shown: str) -> None:
    assert model_title(name) == shown


def test_figures_leave_matplotlib_as_it_was() -> None:
    code = (
        "import sys, attlas.plots; from attlas.plots.style import new_figure, styled; "
        "exec('with styled(): new_figure(1, 1)'); assert 'matplotlib.pyplot' not in sys.modules; "
        "import matplotlib as m; assert m.rcParams['font.size'] == m.rcParamsDefault['font.size']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    statistics, _, _ = ask(4, 2)
    with pytest.raises(InputError, match=r"\.png"):
        plots.save(plots.head_map(statistics.entropy), tmp_path / "map.gif")
    with pytest.raises(InputError, match="choose of"):
        plots.layer_means(statistics, ["nothing"])
    with pytest.raises(InputError, match=r"^this answer holds no statistic of one number a head: give one of"):
        plots.layer_means(xr.Dataset())
    with pytest.raises(InputError, match="each document"):
        plots.head_boxes(statistics, "nothing")
    assert readable("a\nb\x00") == "a⏎b·"
    assert len(readable("x" * 50)) == 18
    assert np.isfinite(statistics.entropy).all()
