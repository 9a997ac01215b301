"""attlas bench, as people and scripts call it, on the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import s3fs
from click.testing import CliRunner, Result

from attlas.bench import limits
from attlas.bench.report import Report
from attlas.cli import main
from tests.conftest import S3Server


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits from little: these tests look at what is told, not at how fast it is here."""
    monkeypatch.setattr(limits, "MATMUL_SECONDS", 0.01)
    monkeypatch.setattr(limits, "SQUARE", 256)
    monkeypatch.setattr(limits.measure_disk, "__kwdefaults__", {"size": 2**20})
    monkeypatch.setattr(limits.measure_limits, "__kwdefaults__", {"disk_bytes": 2**20})


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == status, result.output
    return result


def told(*arguments: str) -> dict[str, Any]:
    """The report as JSON, which reads back as the same report."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    assert Report.from_json(found).to_json() == found
    assert found["machine"]["cores"] >= 1
    assert found["limits"]["qk_flops"] > 0
    return found


def test_capture(tmp_path: Path) -> None:
    figure = tmp_path / "capture.png"
    found = told(
        "capture", "demo", "--tokens", "64,128,256", "--rounds", "1", "--most-maps", "128", "--no-peak",
        "--figure", str(figure),
    )  # fmt: skip
    assert figure.stat().st_size > 10_000
    rows = {(row["contender"], row["tokens"]): row for row in found["rows"]}
    assert len(rows) == 12
    assert rows["forward", 64]["ratio"] == 1.0
    assert rows["factors", 256]["nearest"]["limit"] in {"forward pass", "disk write"}
    assert rows["maps", 256]["times"] is None
    assert "--most-maps 128" in rows["maps", 256]["note"]
    # q (4 heads) and k of 4 layers x 256 tokens x 32 features x 4 bytes at least
    assert rows["factors", 256]["stored_bytes"] > 4 * 256 * 4 * 32 * 4
    assert {fit["contender"] for fit in found["fits"]} == {"forward", "statistics", "factors"}


def test_capture_of_texts_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat went out twice. " * 20)
    text = str(tmp_path / "text.txt")
    result = run("capture", "demo", text, "--tokens", "50", "--keep", "factors", "--rounds", "2", "--no-peak")
    assert "near" in result.stdout
    assert "factors" in result.stdout
    assert " x forward pass" in result.stdout or "disk write" in result.stdout
    assert "peak" not in result.stdout
    assert result.stderr == ""
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


@pytest.mark.slow
def test_capture_measures_peaks_in_processes_of_their_own() -> None:
    found = told("capture", "demo", "--tokens", "256,1024", "--keep", "factors", "--rounds", "1")
    peaks = {(row["contender"], row["tokens"]): row["peak_bytes"] for row in found["rows"]}
    assert 10**5 < peaks["forward", 256] < peaks["forward", 1024] < 10**9
    assert peaks["factors", 256] < peaks["factors", 1024]


def test_query(tmp_path: Path) -> None:
    found = told("query", "demo", "--tokens", "192", "--rounds", "2", "--figure", str(tmp_path / "q.svg"))
    rows = {(row["contender"], row["task"]): row for row in found["rows"]}
    assert len(rows) == 3 * 6
    assert all(row["moved_bytes"] > 0 and row["times"]["p95"] > 0 for row in rows.values())
    assert rows["factors", "one row, warm"]["times"]["count"] == 8
    assert rows["plain zarr", "whole map, cold"]["ratio"] == 1.0


def test_stats() -> None:
    found = told("stats", "demo", "--tokens", "96,192", "--most-maps", "96", "--rounds", "1", "--sample", "25")
    rows = {(row["contender"], row["tokens"]): row for row in found["rows"]}
    assert rows["exact", 96]["rate"] == pytest.approx(4 * 4 * 96 / rows["exact", 96]["times"]["median"])
    assert rows["numpy on maps", 96]["ratio"] == 1.0
    assert rows["numpy on maps", 192]["times"] is None
    assert rows["sampled", 192]["nearest"]["limit"] == "q.k"


@pytest.mark.slow
def test_scale(tmp_path: Path) -> None:
    found = told(
        "scale", "demo", "--tokens", "256", "--shards", "1,2", "--replicas", "1,2", "--documents", "12", "--rounds",
        "1", "--figure", str(tmp_path / "scale.png"),
    )  # fmt: skip
    rows = {(row["contender"], row["task"]): row for row in found["rows"]}
    assert len(rows) == 4
    two = rows["2 shards", "one document"]
    assert two["efficiency"] == pytest.approx(two["ratio"] / 2)
    assert "busy" in two["note"]
    assert any("core" in note for note in found["notes"])


def test_store_leaves_nothing_behind_and_what_was_there(tmp_path: Path) -> None:
    theirs = tmp_path / "place" / "attlas" / "theirs.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("kept")
    found = told("store", "demo", "--tokens", "256", "--rounds", "1", "--store", str(tmp_path / "place"))
    rows = {(row["contender"], row["task"]): row for row in found["rows"]}
    assert set(rows) == {(name, task) for name in ("attlas", "zarr", "raw bytes") for task in ("write", "read")}
    size = found["options"]["bytes"]
    for (_, task), row in rows.items():
        assert row["rate"] == pytest.approx(size / row["times"]["median"])
        assert row["nearest"]["limit"] == f"disk {task}"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]


def test_store_of_a_url(s3_server: S3Server) -> None:
    options = [f"{name}={value}" for name, value in s3_server.flat_options.items()]
    given = [part for option in options for part in ("--storage-option", option)]
    found = told(
        "store", "demo", "--tokens", "64", "--rounds", "1", "--store", f"s3://{s3_server.bucket}/bench", *given
    )
    assert {row["contender"] for row in found["rows"]} == {"attlas", "zarr", "raw bytes"}
    assert {row["nearest"]["limit"] for row in found["rows"]} == {"raw bytes"}  # the disk here is not the one meant
    assert not s3fs.S3FileSystem(**s3_server.storage_options).find(f"{s3_server.bucket}/bench")


def test_a_figure_of_another_kind_is_refused_before_anything_is_measured() -> None:
    assert ".png" in run("capture", "demo", "--tokens", "64", "--figure", "x.gif", status=2).output


def test_what_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the cat")
    for arguments, word in (
        (("capture", "nowhere/nothing"), "there is no folder 'nowhere/nothing'"),
        (("capture", "demo", str(tmp_path / "missing.txt")), "there is no file"),
        (("capture", "demo", str(tmp_path / "short.txt"), "--tokens", "500"), "of at most"),
        (("store", "demo", "--tokens", "64", "--store", str(tmp_path / "short.txt")), "give --store a folder"),
        (("store", "demo", "--tokens", "64", "--store", "nowhere://x"), "cannot open nowhere://x"),
        (("scale", "demo", "--shards", "99"), "4 attention layers"),
        (("scale", "demo", "--shards", "1", "--replicas", "1"), "number above 1"),
    ):
        result = run(*arguments, status=1)
        assert word in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1
    for arguments, word in (
        (("capture", "demo", "--tokens", "12,x"), "512,1024,2048"),
        (("capture", "demo", "--tokens", "12,12"), "different"),
        (("capture", "demo", "--keep", "all"), "tiers"),
        (("capture", "demo", "--folder", str(tmp_path / "missing")), "there is no such folder"),
    ):
        assert word in run(*arguments, status=2).stderr
    assert not (tmp_path / "missing").exists()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, click.testing, attlas.cli as c; "
        "r = click.testing.CliRunner().invoke(c.main, ['bench', *sys.argv[1:], '--help']); "
        "assert 'Example' in r.output, r.output; "
        "heavy = {'torch', 'ray', 'dask', 'matplotlib', 'xarray', 'transformers', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    for command in ("capture", "query", "stats", "store", "scale"):
        subprocess.run([sys.executable, "-c", code, command], check=True)
