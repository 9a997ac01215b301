"""A new analysis is one file: this one asks how much weight lies on the first half of a document, and is all of it.

It goes through the public seams alone, and gets what every analysis has: samples with errors, documents, threads and
clusters, an answer that is kept, found, listed and planned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster
from numpy.typing import NDArray

import attlas
from attlas import analysis
from attlas.errors import InputError, TierError
from attlas.jobs.answers import kept_answers
from attlas.jobs.blocks import Block
from attlas.jobs.choices import parse_choices
from attlas.jobs.features import Features
from attlas.jobs.load import Source
from attlas.jobs.quantity import MeanOverRows, Quantity
from attlas.jobs.questions import question
from attlas.jobs.reduction import Execution, Job, run_job
from attlas.jobs.row_sums import RowValues
from attlas.jobs.rows_job import plan_rows
from attlas.jobs.weights import block_weights
from attlas.storage import AtlasWriter
from tests.storage.synthetic import Synthetic, synthetic

LENGTHS = (50, 7, 90, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstHalf:
    """Of each row, the weight on keys in the first half of its document."""

    @property
    def features(self) -> Features:
        return Features(heads=("first_half",))

    def measure(self, source: Source, block: Block) -> RowValues:
        a_HRM, rows = block_weights(source, block)
        half_R = block.documents.keys_D[rows.document_R] / 2
        key_RM = np.arange(rows.keys) - rows.first_R[:, None]
        inside_RM = (key_RM >= 0) & (key_RM < half_R[:, None])
        heads_HRF = (a_HRM * inside_RM).sum(axis=2, dtype=np.float64)[..., None]
        return RowValues(heads_HRF=heads_HRF, plain_RP=np.ones((len(half_R), 1)))


FIRST_HALF = Quantity(
    name="first_half", definition="mean over rows of the weight on the first half of the document", units="1",
    needs=("first_half",), compute=MeanOverRows("first_half"),
)  # fmt: skip


@question("first_half")
def plan_first_half(atlas: attlas.Atlas, **choices: Any) -> Job:
    return plan_rows(atlas, "first_half", parse_choices(atlas, choices), FirstHalf(), [FIRST_HALF])


def first_half(atlas: attlas.Atlas, *, execution: Execution | None = None, **choices: Any) -> xr.Dataset:
    return run_job(atlas, plan_first_half(atlas, **choices), execution or Execution())


def expected(made: Synthetic) -> NDArray[np.float64]:
    """(document, layer, head) by brute force in float64."""
    halves = [made.dense(i)[..., : -(-n // 2)].sum(axis=-1).mean(axis=-1) for i, n in enumerate(LENGTHS)]
    return np.array(halves)


@pytest.fixture(scope="module")
def made() -> Synthetic:
    return synthetic(LENGTHS, seed=6)


@pytest.fixture
def atlas(made: Synthetic, tmp_path: Path) -> attlas.Atlas:
    writer = AtlasWriter.create(tmp_path / "a.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    return attlas.open_atlas(tmp_path / "a.zarr")


def check(answer: xr.Dataset, made: Synthetic) -> None:
    of_documents = expected(made)
    weighted = (of_documents * np.array(LENGTHS)[:, None, None]).sum(axis=0) / sum(LENGTHS)
    np.testing.assert_allclose(answer.first_half, weighted, rtol=1e-5)
    np.testing.assert_allclose(answer.document_first_half, of_documents, rtol=1e-5)


def test_it_equals_brute_force_however_the_work_is_cut(
    atlas: attlas.Atlas, made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(first_half(atlas, execution=Execution(save=False)), made)
    monkeypatch.setattr("attlas.jobs.blocks.BLOCK_ROWS", 64)
    check(first_half(atlas, execution=Execution(save=False, workers=2)), made)


def test_it_is_kept_found_listed_and_planned(atlas: attlas.Atlas, made: Synthetic, tmp_path: Path) -> None:
    before = analysis.explain(atlas, "first_half", workers=3)
    assert (before.question, before.kept, before.workers, before.rows) == ("first_half", False, 3, sum(LENGTHS))
    assert before.read_bytes > 0
    kept = first_half(atlas).attrs["kept"]
    again = first_half(attlas.open_atlas(tmp_path / "a.zarr"))
    assert again.attrs["reused"] == "yes"
    check(again, made)
    assert analysis.explain(atlas, "first_half").kept
    assert analysis.saved_results(atlas)[kept]["question"] == "first_half"
    assert [answer["name"] for answer in kept_answers(atlas)] == ["first_half"]
    check(xr.open_zarr(tmp_path / "a.zarr", group=kept, consolidated=False), made)
    assert again.first_half.attrs == {"long_name": FIRST_HALF.definition, "units": "1"}
    assert len(analysis.to_frame(again)) == 8
    assert attlas.verify(tmp_path / "a.zarr").passed


def test_a_sample_of_it_has_errors_that_hold(atlas: attlas.Atlas, made: Synthetic) -> None:
    exact = first_half(atlas, execution=Execution(save=False))
    samples = [first_half(atlas, sample=60, seed=seed, execution=Execution(save=False)) for seed in range(40)]
    inside = [(one.first_half_low <= exact.first_half) & (exact.first_half <= one.first_half_high) for one in samples]
    assert 0.85 <= float(np.mean(inside)) <= 1.0
    deviation = np.std([one.first_half for one in samples], axis=0)
    error = np.sqrt(np.mean([one.first_half_error**2 for one in samples], axis=0))
    np.testing.assert_allclose(error, deviation, rtol=0.5)


def test_what_it_cannot_tell_is_refused(atlas: attlas.Atlas, made: Synthetic) -> None:
    with pytest.raises(InputError, match="question is 'second_half': choose one of"):
        analysis.explain(atlas, "second_half")
    with pytest.raises(InputError, match="no choice 'levels'"):
        first_half(atlas, levels=(0.5,))
    writer = AtlasWriter.create("memory://trial-statistics", made.spec("statistics"), overwrite=True)
    for pack in made.packs:
        made.write_pack(writer, pack, keep="statistics")
    with pytest.raises(TierError, match="first_half needs factors"):
        first_half(attlas.open_atlas("memory://trial-statistics"))


@pytest.mark.slow
def test_it_runs_on_a_cluster(atlas: attlas.Atlas, made: Synthetic) -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp") as cluster:
        check(first_half(atlas, execution=Execution(scheduler=cluster.scheduler_address, save=False)), made)
    check(first_half(atlas, execution=Execution(scheduler="ray", save=False)), made)
