"""The runs whose peaks are measured, and the count of cells that the q.k limit rests on."""

from __future__ import annotations

from pathlib import Path

import pytest

import attlas
from attlas.bench.capture import FORWARD, prepare, visible_cells
from attlas.bench.trial import Trial
from attlas.errors import InputError


@pytest.mark.parametrize("name", [FORWARD, "factors"])
def test_runs_are_prepared_and_leave_nothing(tmp_path: Path, name: str) -> None:
    runs = prepare("demo", "auto", "cpu", [[[5, 6, 7, 8]], [[5] * 40]], name, None, str(tmp_path))
    assert len(runs) == 2
    for run in runs:
        run()
    assert list(tmp_path.iterdir()) == []


def test_visible_cells_are_those_of_causal_attention(tmp_path: Path) -> None:
    atlas = attlas.capture("demo", [[5] * 40, [6] * 10], tmp_path / "a.zarr")
    assert visible_cells(atlas) == 4 * 4 * (40 * 41 // 2 + 10 * 11 // 2)


def test_synthetic_documents_are_seeded_and_as_long_as_asked(tmp_path: Path) -> None:
    trial = Trial(model="demo", folder=tmp_path, seed=3)
    subject = trial.load()
    (first,) = subject.documents(trial, 100)
    assert len(first) == 100
    assert subject.documents(trial, 100) == [first]
    assert subject.synthetic(100, seed=4) != first
    with pytest.raises(InputError, match="too short"):
        subject.documents(trial, 1)


def test_texts_are_cut_and_never_lengthened(tmp_path: Path) -> None:
    trial = Trial(model="demo", folder=tmp_path, texts=["the cat sat on the mat.", "a dog."])
    subject = trial.load()
    assert [len(ids) for ids in subject.documents(trial, 4)] == [4, 4]
    whole = subject.documents(trial, None)
    assert len(whole[0]) > len(whole[1])
    with pytest.raises(InputError, match=f"at most {len(whole[0])}"):
        subject.documents(trial, 1000)
