"""Every figure, for few heads and many, is drawn without a display, has its labels, and says what it is of."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from attlas import analysis, plots
from attlas.errors import InputError
from attlas.plots.style import readable
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
    with pytest.raises(InputError, match="each document"):
        plots.head_boxes(statistics, "nothing")
    assert readable("a\nb\x00") == "a⏎b·"
    assert len(readable("x" * 50)) == 18
    assert np.isfinite(statistics.entropy).all()
