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
