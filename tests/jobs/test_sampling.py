"""Samples: the same whatever cuts the work, unbiased, and with intervals that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from attlas.errors import InputError
from attlas.jobs.choices import Choices
from attlas.jobs.labels import interval
from attlas.jobs.sampling import draw
from attlas.jobs.survey import plan_survey
from attlas.parse import parse_sample
from tests.analysis.test_statistics import survey, write
from tests.storage.synthetic import synthetic

SEEDS = 200
TAIL = 2.0
"""97.5% quantile of Student's t at about 64 replicates."""


@pytest.fixture(scope="module")
def intervals() -> tuple[xr.Dataset, list[xr.Dataset]]:
    """The exact survey, and the same from 200 seeds at 240 of 1,200 rows, of six documents of unequal lengths."""
    made = synthetic((260, 140, 200, 180, 120, 300), seed=7, layers=(0,), heads=4, block=512, pack_tokens=1200)
    atlas = write(made, "coverage")
    limits = (0.001, 0.01, 0.1)
    found = [survey(atlas, sample=240, seed=seed, thresholds=limits, save=False, workers=1) for seed in range(SEEDS)]
    return survey(atlas, thresholds=limits, save=False), found


def test_intervals_hold_the_exact_value(intervals: tuple[xr.Dataset, list[xr.Dataset]]) -> None:
    exact, found = intervals
    names = [str(name)[:-4] for name in found[0].data_vars if str(name).endswith("_low")]
    assert len(names) == 17, names  # every statistic but the largest weight of all
    held = {
        name: np.mean([(one[f"{name}_low"] <= exact[name]) & (exact[name] <= one[f"{name}_high"]) for one in found])
        for name in names
    }
    wrong = {name: float(share) for name, share in held.items() if not 0.90 <= share <= 0.99}
    assert not wrong, wrong


def test_errors_of_roles_and_similarities_hold_too(intervals: tuple[xr.Dataset, list[xr.Dataset]]) -> None:
    exact, found = intervals
    for name, error in (("role_score", "role_error"), ("similarity", "similarity_error")):
        inside = []
        for one in found:
            low, high = interval(one[name].values, TAIL * one[error].values, share=True)
            some = one[error].values > 0
            inside.append(((low <= exact[name].values) & (exact[name].values <= high))[some])
        assert 0.90 <= np.mean(np.concatenate(inside)) <= 0.99, name


def test_estimates_are_unbiased(intervals: tuple[xr.Dataset, list[xr.Dataset]]) -> None:
    exact, found = intervals
    for name in ("entropy", "first_weight", "mean_weight", "mean_distance", "sparsity"):
        values = np.stack([one[name].values for one in found])
        error = values.std(axis=0) / np.sqrt(SEEDS)
        assert np.abs((values.mean(axis=0) - exact[name].values) / error).max() < 4, name
        told = np.stack([one[f"{name}_error"].values for one in found])
        np.testing.assert_allclose(np.sqrt((told**2).mean(axis=0)), values.std(axis=0), rtol=0.25)


def test_a_sample_does_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = write(synthetic((150, 90, 200, 31), seed=8), "cuts")
    whole = survey(atlas, sample=100, seed=3, save=False)
    monkeypatch.setattr("attlas.jobs.blocks.BLOCK_ROWS", 64)
    monkeypatch.setattr("attlas.jobs.blocks.SAMPLED_ROWS", 7)
    assert plan_survey(atlas, Choices(sample=100, seed=3)).plan.count > 30
    for workers in (1, 3):
        cut = survey(atlas, sample=100, seed=3, save=False, workers=workers)
        for name in whole.data_vars:
            if whole[name].dtype.kind == "f":
                np.testing.assert_allclose(cut[name], whole[name], rtol=1e-6, atol=1e-7, err_msg=str(name))


def test_seeds_differ_and_repeat() -> None:
    atlas = write(synthetic((150, 90, 200), seed=9), "seeds")
    one, same, other = (survey(atlas, sample=60, seed=seed, save=False).entropy for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (np.abs(one - other) > 1e-6).all()


def test_a_sample_of_everything_is_exact() -> None:
    atlas = write(synthetic((40, 30), seed=9), "everything")
    everything, exact = (survey(atlas, sample=sample, save=False) for sample in (70, None))
    xr.testing.assert_identical(everything, exact)


@pytest.mark.parametrize(("sizes", "count"), [((300, 7, 1, 50), 60), ((5,) * 200, 40), ((1000,), 8), ((3, 2, 1), 4)])
def test_drawn_rows_stand_for_all_rows(sizes: tuple[int, ...], count: int) -> None:
    sample = draw(np.array(sizes), count, seed=0, kind="self", layer=0)
    assert sample.weight_R.sum() == pytest.approx(sum(sizes))
    assert len(np.unique(sample.row_R)) == len(sample.row_R)
    assert sample.row_R.min() >= 0
    assert sample.row_R.max() < sum(sizes)
    if sample.by_document:
        document = np.searchsorted(np.cumsum(sizes), sample.row_R, side="right")
        weights = np.bincount(document, sample.weight_R, minlength=len(sizes))
        np.testing.assert_allclose(weights, sizes)


def test_too_small_a_sample_is_refused() -> None:
    with pytest.raises(InputError, match="4 or more"):
        parse_sample(3, "sample", lambda: 1_000)
