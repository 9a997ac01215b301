"""Figures of experiments: what is drawn, in which colours, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from attlas import experiments, plots
from attlas.errors import InputError

TEXTS = ["one two three, one two three.", "the cat sat on the mat"]


def test_a_map_of_heads_is_even_about_zero() -> None:
    found = experiments.ablate_heads("demo", TEXTS)
    figure = plots.experiment(found)
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), found.loss_change_mean)
    most = abs(found.loss_change_mean).max().item()
    assert image.get_clim() == pytest.approx((-most, most))
    assert figure.axes[0].get_title(loc="left").startswith("demo, mean of 2 documents")


def test_lines_stand_in_their_intervals() -> None:
    found = experiments.perturbation("demo", TEXTS, sizes=[0.1, 0.5, 2], draws=1)
    panel = plots.experiment(found).axes[0]
    np.testing.assert_allclose(np.asarray(panel.lines[0].get_ydata(), dtype=float), found.robustness_mean)
    assert [one.get_text() for one in panel.get_xticklabels()] == ["0.1", "0.5", "2"]
    (band,) = panel.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.min() == pytest.approx(found.robustness_low.min().item())
    kl = plots.experiment(found, "kl").axes[0]
    assert kl.get_ylabel() == "kl (nat)"


def test_what_has_nothing_to_be_drawn_over_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to draw it over"):
        plots.experiment(experiments.run("demo", TEXTS, []))
    with pytest.raises(InputError, match=r"the figure is of what attlas.experiments found"):
        plots.experiment(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="variable"):
        plots.experiment(experiments.ablate_heads("demo", TEXTS, layers=1), "loss")
