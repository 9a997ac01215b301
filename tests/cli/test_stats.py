"""attlas stats and attlas heads, as people and scripts call them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import attlas
from attlas.cli import main
from attlas.cli.stats import number
from attlas.storage import AtlasWriter
from tests.storage.synthetic import synthetic


@pytest.fixture
def store(tmp_path: Path) -> str:
    made = synthetic(seed=1)
    writer = AtlasWriter.create(tmp_path / "a.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    return str(tmp_path / "a.zarr")


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output
    return result


def test_stats_prints_a_table_that_fits(store: str) -> None:
    for by in ("summary", "layer", "head", "document"):
        result = run("stats", store, "--by", by)
        assert "2 layers x 4 heads, 4 documents" in result.stdout
        assert "entropy" in result.stdout
        assert max(len(line) for line in result.stdout.splitlines()[2:]) <= 100
        assert result.stderr == ""
    assert "kept from before" in result.stdout
    assert "doc-3" in result.stdout


def test_stats_of_a_sample(store: str) -> None:
    result = run("stats", store, "--sample", "50%", "--seed", "3", "--statistic", "entropy")
    assert "sampled" in result.stdout
    assert "± of rows" in result.stdout
    told = json.loads(run("stats", store, "--sample", "50%", "--seed", "3", "--statistic", "entropy", "--json").stdout)
    assert told["attributes"]["exact"] == "no"
    row = told["rows"][0]
    assert row["entropy_low"] < row["entropy"] < row["entropy_high"]


def test_every_view_of_a_sample_tells_its_errors(store: str) -> None:
    asked = ("stats", store, "--sample", "50%", "--seed", "3", "--statistic", "entropy")
    answer = attlas.analysis.statistics(attlas.open_atlas(store), sample="50%", seed=3, names=["entropy"])
    error = answer.entropy_error
    assert bool((error > 0).any())
    shown = {
        "layer": (answer.entropy.mean("head"), error.mean("head")),
        "head": (answer.entropy, error),
        "document": (
            answer.document_entropy.mean(("layer", "head")),
            answer.document_entropy_error.mean(("layer", "head")),
        ),
    }
    for by, (values, errors) in shown.items():
        printed = run(*asked, "--by", by).stdout
        for value, spread in zip(values.values.ravel(), errors.values.ravel(), strict=True):
            assert f"{number(float(value))} ± {number(float(spread))}" in printed, by
        assert "± standard error for the rows of this atlas" in printed
        assert "±" not in run("stats", store, "--statistic", "entropy", "--by", by).stdout
    assert "± of rows" in run(*asked).stdout


def test_heads_explains_both_questions(store: str) -> None:
    lines = run("heads", store, "--explain").stdout.splitlines()
    assert lines[0] == "roles"
    assert "diversity" in lines
    assert not (Path(store) / "analysis").exists()
    run("stats", store)  # roles are of the same pass, and kept with it; diversity is not
    roles, diversity = run("heads", store, "--explain").stdout.split("\ndiversity\n")
    assert "nothing is computed" in roles
    assert "nothing is computed" not in diversity
    shown = run("heads", store).stdout
    assert "leads: heads on the map" in shown
    assert not any(mark in shown for mark in ("[dim]", "[bold]", "[/]", "\\n"))
    assert run("heads", store, "--explain").stdout.count("nothing is computed") == 2


def test_a_plan_refuses_what_a_capture_would() -> None:
    refused = run("plan", "demo", "--tokens", "5000", status=1).stderr
    assert "5,000 tokens, and the model's positions end at 1,024" in refused
    assert "4,096" in run("plan", "demo", "--tokens", "5000", "--extrapolate").stdout
    assert run("plan", "demo", "--tokens", "1024").exit_code == 0


def test_explain_runs_nothing(store: str) -> None:
    result = run("stats", store, "--explain", "--workers", "3")
    assert "3 tasks" in result.stdout
    assert "all, exactly" in result.stdout
    assert not (Path(store) / "analysis").exists()
    run("stats", store)
    assert "nothing is computed" in run("stats", store, "--explain").stdout


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_stats_writes_tables(store: str, tmp_path: Path, ending: str) -> None:
    run("stats", store, "--by", "document", "-o", str(tmp_path / f"t.{ending}"))
    path = tmp_path / f"t.{ending}"
    frame = (
        pd.read_csv(path) if ending == "csv" else pd.read_parquet(path) if ending == "parquet"
        else pd.DataFrame(json.loads(path.read_text())["rows"])
    )  # fmt: skip
    assert len(frame) == 4 * 2 * 4


def test_heads_prints_the_map_roles_and_diversity(store: str, tmp_path: Path) -> None:
    result = run("heads", store, "--pair-rows", "16", "--figure", str(tmp_path / "heads.png"))
    assert (tmp_path / "heads.png").stat().st_size > 10_000
    for word in ("layer  0 1 2 3", "previous", "induction", "evenly", "diversity of a layer", "of 4"):
        assert word in result.stdout, word
    assert max(len(line) for line in result.stdout.splitlines()[2:-2]) <= 100
    told = json.loads(run("heads", store, "--pair-rows", "16", "--json").stdout)
    assert told["roles"]["induction"]["threshold"] == 0.3
    assert len(told["diversity"]) == 2
    assert len(told["leading_role"][0]) == 4


def test_errors_are_one_line(store: str) -> None:
    for arguments, word in (
        (("stats", store, "--scheduler", "cloud"), "choose threads, ray"),
        (("stats", store, "--document", "nowhere"), "no document"),
        (("stats", store, "--statistic", "nothing"), "no statistic"),
        (("stats", f"{store}-missing"), "there is no atlas"),
    ):
        result = run(*arguments, status=1)
        assert word in result.stderr
        assert len(result.stderr.splitlines()) == 1
    run("stats", store, "--sample", "some", status=2)
    assert ".csv" in run("stats", store, "-o", "t.xlsx", status=2).stderr  # before anything is computed


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, click.testing, attlas.cli as c; "
        "r = click.testing.CliRunner().invoke(c.main, [sys.argv[1], '--help']); assert 'Example' in r.output; "
        "heavy = {'torch', 'ray', 'dask', 'matplotlib', 'xarray', 'transformers', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    for command in ("stats", "heads"):
        subprocess.run([sys.executable, "-c", code, command], check=True)


def test_layers_are_chosen_as_everywhere(store: str) -> None:
    """A text of the one grammar; the answer is kept under the layers it names, however they were written."""
    told = [json.loads(run("stats", store, "--layers", spelling, "--json").stdout) for spelling in ("1", "-1", "1:")]
    for one in told:
        assert one["rows"] == told[0]["rows"]
        assert {row["layer"] for row in one["rows"]} == {1}
    assert len(attlas.analysis.saved_results(attlas.open_atlas(store))) == 1
    run("stats", store, "--layers", "7", status=1)
    run("stats", store, "--layers", "1.5", status=2)
