"""A new row statistic is one entry: a toy one is stored, verified, planned, on the page, in tables and listed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import attlas
from attlas import analysis
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import Measure
from attlas.engine.kernels.row_statistics import STATISTICS, RowStatistic, statistic_names
from attlas.engine.kernels.row_tile import RowTile
from attlas.engine.model.shape import shape_of
from attlas.errors import InputError
from attlas.storage.description import describe_atlas
from attlas.storage.disk import tier_bytes
from tests.engine.kernels.cases import MASKS, Case, case, truth
from tests.families import BY_NAME, build_model, documents


def _even(tile: RowTile) -> torch.Tensor:
    return tile.on(tile.position_K % 2 == 0)


EVEN = RowStatistic(
    name="even_weight", definition="weight on keys at even positions", units="1", reference=_even
)  # fmt: skip
LENGTHS = (120, 33)


@pytest.fixture
def even() -> Iterator[RowStatistic]:
    with STATISTICS.having(EVEN):
        yield EVEN


def brute_force(a_HQK: NDArray[np.float32]) -> NDArray[np.float64]:
    return a_HQK[..., ::2].astype(np.float64).sum(axis=-1)


def test_the_registry_refuses_a_name_twice_and_forgets(even: RowStatistic) -> None:
    assert STATISTICS.names[-1] == "even_weight"
    with pytest.raises(InputError, match="there is a row statistic 'even_weight' already"), STATISTICS.having(even):
        pass
    assert "even_weight" in statistic_names(same_axis=False, sinks=False)


def test_outside_it_is_gone() -> None:
    with STATISTICS.having(EVEN):
        assert "even_weight" in STATISTICS
    assert "even_weight" not in STATISTICS


@pytest.mark.parametrize("mask", MASKS)
def test_beside_fast_ones_in_one_question(even: RowStatistic, mask: str) -> None:
    """Those with a slot and those without come back together, in the order asked for; of all rows and of some."""
    of = Case(mask=mask)
    problem, v = case(of)
    names = ("entropy", "even_weight", "duplicate_weight", "induction_weight")
    heads, rows = np.array([1, 2]), np.array([3, 40, 41, 74])
    some = Measure(names=names, histogram=True, head_gram=True, heads=heads, rows=rows)
    place_NM = np.arange(of.rows) - problem.tokens.first_N[:, None]
    expected = (truth(of).a_HNM * (place_NM % 2 == 0)).sum(axis=2)
    for found, at in (
        (door.attend(problem, v, Measure(names=names)).rows, np.ix_(range(4), range(75))),
        (door.attend(problem, v, some).rows, np.ix_(heads, rows)),
        (door.statistics(problem, torch.from_numpy(truth(of).lse_HN).float(), Measure(names=names)),
         np.ix_(range(4), range(75))),
    ):  # fmt: skip
        assert tuple(found.statistics) == names
        np.testing.assert_allclose(found.statistics["even_weight"].numpy(), expected[at], atol=2e-6)
        for name in ("entropy", "duplicate_weight", "induction_weight"):
            np.testing.assert_allclose(
                found.statistics[name].numpy(), truth(of).statistics[name][at], atol=3e-6, rtol=2e-5, err_msg=name
            )


@pytest.mark.parametrize("keep", ["statistics", "factors"])
def test_a_capture_holds_it_and_every_reader_knows_it(even: RowStatistic, keep: str, tmp_path: Path) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=LENGTHS)
    atlas = attlas.capture(model, inputs, tmp_path / "even.zarr", keep=keep)
    whole = attlas.capture(model, inputs, "memory://whole", keep="factors", overwrite=True)
    expected = {document: brute_force(whole[document].attention.values) for document in whole}
    for document, values in expected.items():
        page = atlas[document]
        assert page.even_weight.attrs == {"long_name": EVEN.definition, "units": "1"}
        np.testing.assert_allclose(page.even_weight.values, values, atol=3e-6)
        np.testing.assert_allclose(
            page.even_weight.isel(layer=1, head=2, query=slice(7, 9)), values[1, 2, 7:9], atol=3e-6
        )
    table = analysis.statistics(atlas, names=["even_weight", "entropy"], save=False)
    mean = np.concatenate(list(expected.values()), axis=2).mean(axis=2)
    np.testing.assert_allclose(table.even_weight.values, mean, atol=3e-6)
    assert table.even_weight.attrs["long_name"] == f"mean over rows of {EVEN.definition}"
    assert attlas.verify(tmp_path / "even.zarr").passed
    stored = atlas.root.get("self/statistics/even_weight")
    assert (stored is not None) == (keep == "statistics")
    assert ("even_weight" in describe_atlas(atlas)["kinds"]["self"]["statistics"]) == (keep == "statistics")


def test_an_atlas_from_before_it_came_is_whole(tmp_path: Path) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(20,))
    attlas.capture(model, inputs, tmp_path / "a.zarr", keep="statistics")
    with STATISTICS.having(EVEN):
        attlas.capture(model, inputs, tmp_path / "b.zarr", keep="statistics")
        assert attlas.verify(tmp_path / "a.zarr").passed
        atlas = attlas.open_atlas(tmp_path / "a.zarr")
        assert "even_weight" not in atlas["doc-0"]
        assert "even_weight" not in analysis.statistics(atlas, save=False)
    assert "even_weight" not in attlas.open_atlas(tmp_path / "b.zarr")["doc-0"], "nobody here knows its units"
    assert attlas.verify(tmp_path / "b.zarr").passed


def test_verify_misses_it(even: RowStatistic, tmp_path: Path) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(20,))
    attlas.capture(model, inputs, tmp_path / "a.zarr", keep="statistics")
    shutil.rmtree(tmp_path / "a.zarr" / "self" / "statistics" / "even_weight")
    report = attlas.verify(tmp_path / "a.zarr")
    assert not report.passed
    assert any("statistics/even_weight" in problem for check in report.checks for problem in check.problems)


def test_a_plan_counts_its_bytes() -> None:
    shape = shape_of(build_model(BY_NAME["llama"]))
    before = tier_bytes(shape, tokens=100, documents=3)
    with STATISTICS.having(EVEN):
        after = tier_bytes(shape, tokens=100, documents=3)
    assert after["statistics"] - before["statistics"] == sum(layer.heads for layer in shape.layers) * 300 * 4
    assert after["factors"] == before["factors"]
