"""attlas rollout and attlas received, as people and scripts call them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import attlas
from attlas import analysis
from attlas.cli import main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("operators") / "a.zarr"
    attlas.capture("demo", ["the cat sat. the dog ran! and nobody knows"], place, ids=["a"])
    return str(place)


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "80"})
    assert result.exit_code == status, result.output
    return result


def test_rollout_prints_the_last_row_of_what_the_analysis_says(store: str) -> None:
    result = run("rollout", store)
    assert "rollout with a residual of 0.5" in result.stdout
    assert "other keys" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()[1:]) <= 80
    told = json.loads(run("rollout", store, "--json", "--query", "5,-1", "--residual", "0.3", "--layers", "1:3").stdout)
    found = analysis.rollout(attlas.open_atlas(store), queries=[5, -1], residual=0.3, layers="1:3")
    assert told["layers"] == [1, 2]
    assert told["query"] == found["query"].values.tolist()
    np.testing.assert_allclose(told["rollout"], found.rollout.values, rtol=1e-12)


def test_rollout_of_a_key_lists_queries_and_writes_a_table(store: str, tmp_path: Path) -> None:
    result = run("rollout", store, "--key", "2", "--discard", "0.5", "-o", str(tmp_path / "r.csv"), "--no-save")
    assert "smallest 50% dropped" in result.stdout
    assert "other queries" in result.stdout
    assert "key 2 " in result.stdout
    table = pd.read_csv(tmp_path / "r.csv")
    found = analysis.rollout(attlas.open_atlas(store), keys=2, discard=0.5, save=False)
    np.testing.assert_allclose(table["rollout"], found.rollout.values[:, 0], rtol=1e-9)
    assert "8 of 10 queries" in run("rollout", store, "--query", ":10").stdout


@pytest.mark.parametrize("by", ["token", "word", "sentence"])
def test_received_lists_those_that_receive_most(store: str, by: str, tmp_path: Path) -> None:
    result = run("received", store, "--by", by, "--top", "3", "-o", str(tmp_path / "r.csv"))
    found = analysis.received(attlas.open_atlas(store), by=by)
    mean = found.received.mean(("layer", "head")).values
    assert max(len(line) for line in result.stdout.splitlines()[1:]) <= 80
    rows = [line.split() for line in result.stdout.splitlines()[-3:]]
    assert [float(row[-4]) for row in rows] == [round(float(one), 4) for one in np.sort(mean)[::-1][:3]]
    told = json.loads(run("received", store, "--by", by, "--json").stdout)
    np.testing.assert_allclose([one["mean"] for one in told["received"]], mean, rtol=1e-5)
    assert len(pd.read_csv(tmp_path / "r.csv")) == found.received.size


def test_errors_are_one_line(store: str) -> None:
    for arguments in (["rollout", store, "--layers", "0,2"], ["received", store, "--kind", "cross"]):
        assert len(run(*arguments, status=1).stderr.splitlines()) == 1
