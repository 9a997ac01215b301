"""The page says the numbers of its files, the growth that follows from them, and what it lacks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from transformers import LlamaConfig

from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.correctness import Check
from benchmarks.peers.growth import growth_exponent
from benchmarks.peers.results import MachineLimits, Results, Row, read_results, renewed, write_results
from benchmarks.peers.run import _sizes
from benchmarks.report import make_page, table_section
from benchmarks.tables import markdown_table, significant

LENGTHS = (512, 1024, 2048, 4096)


def fixture() -> Results:
    """forward takes 2 us a token; factors 1.5 times that; eager grows with the square, and is killed at 4,096."""
    rows = []
    for n in LENGTHS:
        rows.append(Row(contender="forward", tokens=n, status="ok", seconds=(2e-3 * n,) * 3, peak_bytes=(n * 10**5,)))
        rows.append(
            Row(
                contender="attlas factors", tokens=n, status="ok",
                seconds=(3e-3 * n, 2.9e-3 * n, 9e-3 * n), peak_bytes=(n * 2 * 10**5,), bytes_written=n * 10**5,
            )
        )  # fmt: skip
        whole = {"status": "ok", "seconds": (n * n * 1e-5,), "peak_bytes": (n * n * 1000,), "bytes_written": n * n}
        killed = {"status": "out of memory", "seconds": (25.0,), "peak_bytes": (16_020_000_000,)}
        rows.append(Row(contender="HF eager", tokens=n, **(whole if n < 4096 else killed)))
        fails: dict[str, Any] = {"status": "failed: ImportError: no | such name" if n == 512 else "not tried"}
        rows.append(Row(contender="nnsight", tokens=n, **fails))
    return Results(
        command="python benchmarks/peers/run.py small",
        date="2026-01-02",
        machine={"processor": "A Processor", "cores": 2, "memory_bytes": 24 * 10**9, "system": "Linux"},
        model={"name": "small", "layers": 30, "heads": 9, "features": 64, "weights": 10**8},
        settings={"memory": 16 * 10**9, "disk": 30 * 10**9, "seconds": 1800.0, "threads": 2, "check_tokens": 512},
        environments={"attlas": {"torch": "2.13.0"}, "nnsight": {"torch": "2.13.0", "nnsight": "0.8.1"}},
        correctness=[Check(contender="HF eager", against="attlas", difference=2.4e-4, bound=1e-3, status="ok")],
        rows=rows,
        limits=MachineLimits(qk_flops=1e11, matmul_flops=1e11, disk_write=4e7),
    )


def cells(page: str, heading: str, row: str) -> list[str]:
    part = page.split(f"### {heading}")[1].split("### ")[0]
    line = next(line for line in part.splitlines() if line.startswith(f"| {row} |"))
    return [one.strip() for one in line.replace("\\|", "/").split("|")[2:-1]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    write_results(fixture(), folder / "peers.json")
    page, lacking = make_page(folder, folder / "figures")
    assert lacking == []
    return page, folder


def test_tables_say_the_numbers(made: tuple[str, Path]) -> None:
    page, _ = made
    assert cells(page, "Time", "forward")[1] == "2.05 s (1.00 x)"
    assert cells(page, "Time", "attlas factors") == [
        "1.54 s (1.50 x)", "3.07 s (1.50 x)", "6.14 s (1.50 x)", "12.3 s (1.50 x)",
    ]  # fmt: skip
    assert cells(page, "Time", "HF eager")[2:] == ["41.9 s (10.2 x)", "out of memory, > 25.0 s"]
    assert cells(page, "Peak memory above the loaded model", "HF eager")[2:] == [
        "4.19 GB (20.5 x)", "out of memory, > 16.0 GB",
    ]  # fmt: skip
    assert cells(page, "Time", "nnsight") == ["failed", "not tried", "not tried", "not tried"]
    assert cells(page, "Disk", "attlas factors")[0] == "51.2 MB (83%)"
    assert "- nnsight, 512 tokens: failed: ImportError: no | such name" in page
    assert "slowest run took at most 3.10 x its fastest" in page


def test_each_time_has_the_limit_it_is_nearest_to(made: tuple[str, Path]) -> None:
    page, _ = made
    assert cells(page, "The nearest limit", "forward")[0] == "matmul 100%"
    assert cells(page, "The nearest limit", "attlas factors")[0] == "disk write 83%"
    assert cells(page, "The nearest limit", "HF eager")[1:] == ["5.12 x forward pass", "10.24 x forward pass", ""]


def test_the_model_is_measured_without_its_weights(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    a_layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16 + 2 * 8
    found = _sizes(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    assert found == {"layers": 2, "heads": 2, "features": 4, "weights": 2 * a_layer + 8}


def test_growth_is_that_of_three_lengths_at_least(made: tuple[str, Path]) -> None:
    page, _ = made
    assert cells(page, "Growth", "forward") == ["1.00", "1.00"]
    assert cells(page, "Growth", "HF eager") == ["too few lengths", "too few lengths"]


def test_command_machine_and_checks_are_there(made: tuple[str, Path]) -> None:
    page, _ = made
    assert "```\npython benchmarks/peers/run.py small\n```" in page
    assert "A Processor, 2 cores, 24 GB" in page
    assert "| HF eager | attlas | 2.4e-04 | 1e-03 | ok |" in page
    assert "| nnsight |  |" not in page.split("| environment |")[0]
    assert all(one.writes in page for one in CONTENDERS if one.name == "attlas factors")


def test_one_contender_measured_anew_replaces_its_rows_and_the_page_says_so(tmp_path: Path) -> None:
    old = fixture()
    slower = [replace(r, seconds=tuple(2 * s for s in r.seconds)) for r in old.rows if r.contender == "forward"]
    anew = [
        Row(contender="attlas factors", tokens=n, status="ok", seconds=(1.0,), peak_bytes=(9,)) for n in (512, 8192)
    ]
    base = Row(contender="forward", tokens=8192, status="ok", seconds=(7.0,), peak_bytes=(1,))
    new = replace(
        old, command="python benchmarks/peers/run.py small --renew", rows=[*slower, base, *anew], correctness=[]
    )
    both = renewed(old, new, ["attlas factors"], base="forward")
    found = {(row.contender, row.tokens): row for row in both.rows}
    expected = {(row.contender, row.tokens): row for row in (*old.rows, *anew, base)}
    assert {place: row for place, row in found.items() if place in expected} == expected
    more = {place: row.status for place, row in found.items() if place not in expected}
    assert more == {("HF eager", 8192): "not tried: failed at 4096", ("nnsight", 8192): "not tried: failed at 512"}
    assert both.settings["renewed"][0]["base"] == pytest.approx(2)
    assert both.correctness == old.correctness
    twice = renewed(both, replace(new, rows=[base, anew[1]]), ["attlas factors"], base="forward")
    assert [one["tokens"] for one in twice.settings["renewed"]] == [[512, 8192], [8192]]
    write_results(both, tmp_path / "peers.json")
    page, _ = make_page(tmp_path, tmp_path / "figures")
    assert "attlas factors, 512, 8,192 tokens: measured later, 2026-01-02, in turn with the forward pass" in page
    assert "which then took 2.00 x its time here" in page


def test_the_figure_is_drawn_and_small(made: tuple[str, Path]) -> None:
    page, folder = made
    path = folder / "figures" / "peers.png"
    assert f"(figures/{path.name})" in page
    assert path.stat().st_size < 100_000
    image = imread(path)[..., :3]
    assert min(image.shape[:2]) > 400
    assert (image.min(axis=2) < 0.8).mean() > 0.003


def test_results_come_back_as_they_were_written(made: tuple[str, Path]) -> None:
    _, folder = made
    assert read_results(folder / "peers.json") == fixture()
    other = folder / "other.txt"
    other.write_text(json.dumps({"schema": "attlas-peers-0"}))
    with pytest.raises(ValueError, match="measure again"):
        read_results(other)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.97, 3.0])
def test_exponents_of_power_laws(power: float) -> None:
    tokens = [512, 1024, 1536, 4096, 32768]
    values = [3.7e-6 * n**power for n in tokens]
    values[0] = 1e9  # too short to be looked at
    assert growth_exponent(tokens, values) == pytest.approx(power, abs=1e-9)
    assert growth_exponent(tokens[:3], values[:3]) is None


def test_what_is_not_measured_is_said(tmp_path: Path) -> None:
    page, lacking = make_page(tmp_path, tmp_path / "figures")
    assert lacking == ["peers.json"]
    assert "Not measured yet" in page


def test_any_other_file_is_a_table(tmp_path: Path) -> None:
    table = {
        "title": "Tiles", "command": "attlas bench tiles", "machine": {"cores": 2},
        "columns": ["tier", "seconds", "bytes"], "rows": [["maps", 1.2345, 12345], {"tier": "factors", "bytes": 7}],
        "notes": ["Warm."],
    }  # fmt: skip
    (tmp_path / "tiles.json").write_text(json.dumps(table))
    page, _ = make_page(tmp_path, tmp_path / "figures")
    assert "## Tiles\n\n```\nattlas bench tiles\n```\n\ncores 2\n" in page
    assert "| maps | 1.23 | 12,345 |\n| factors |  | 7 |" in page
    assert "- Warm." in page
    (tmp_path / "tiles.json").write_text(json.dumps({"title": "Tiles"}))
    with pytest.raises(ValueError, match="lacks command, columns, rows"):
        table_section(tmp_path / "tiles.json", tmp_path)
    with pytest.raises(ValueError, match="1 cells and the table 2 columns"):
        markdown_table(["a", "b"], [["c"]])


def test_numbers() -> None:
    assert [significant(v) for v in (0.0, 1234.5, 12.345, 0.012345, 1.2e-6, 999.9)] == [
        "0", "1,234", "12.3", "0.0123", "1.2e-06", "1,000",
    ]  # fmt: skip
