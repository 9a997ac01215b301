"""The table of README.md says what docs/benchmarks.md says, rounded: no figure of it is of another run, or invented."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """Every table: row -> column -> cell, by the first column and the heads."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        rows = [[cell.strip(" |") for cell in row] for row in rows]
        heads = rows[0]
        found.append({row[0]: dict(zip(heads[1:], row[1:], strict=False)) for row in rows[2:]})
    return found


def gigabytes(cell: str) -> float:
    number, unit = re.match(r"([\d.]+) ([kMG]B)", cell).groups()  # type: ignore[union-attr]
    return float(number) * {"kB": 1e-6, "MB": 1e-3, "GB": 1.0}[unit]


def half_step(written: str) -> float:
    """How far rounding to the digits that are written may move a number, and a hair."""
    return float(0.501 * 10.0 ** -len(written.partition(".")[2]))


def test_the_peers_table_is_that_of_the_benchmarks() -> None:
    readme = next(t for t in tables((ROOT / "README.md").read_text(encoding="utf-8")) if "8,192" in t)
    of_run = tables((ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"))
    times, peaks = [t for t in of_run if "forward" in t and "512 tokens" in t["forward"]][:3:2]
    compared = 0
    for tokens, row in readme.items():
        for contender, cell in row.items():
            time, peak = (t[contender][f"{tokens} tokens"] for t in (times, peaks))
            if not cell:
                assert time == "not tried", (contender, tokens)
            elif cell.startswith("out of"):
                assert time.startswith(cell), (contender, tokens)
            else:
                ratio, memory = re.fullmatch(r"([\d.]+) x, ([\d.]+) GB", cell).groups()  # type: ignore[union-attr]
                measured = float(re.search(r"\(([\d.]+) x\)", time)[1])  # type: ignore[index]
                assert abs(float(ratio) - measured) <= half_step(ratio), (contender, tokens, time)
                assert abs(float(memory) - gigabytes(peak)) <= half_step(memory), (contender, tokens, peak)
                compared += 1
    assert compared > 20


def test_the_strongest_peer_stands_in_the_table() -> None:
    readme = next(t for t in tables((ROOT / "README.md").read_text(encoding="utf-8")) if "8,192" in t)
    of_run = tables((ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"))
    times = next(t for t in of_run if "forward" in t and "512 tokens" in t["forward"])
    finished = [name for name, row in times.items() if re.match(r"[\d.]+ s", row["8,192 tokens"])]
    assert set(finished) - {"forward"} <= set(readme["8,192"])


def test_times_of_a_row_are_those_of_the_benchmarks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.search(r"takes ([\d.]+) ms from factors and ([\d.]+) ms from plain Zarr.* ([\d.]+) and ([\d.]+) ms", text)
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    found = [
        re.search(rf"\| one row, {state} \| {way} \| ([\d.]+) ms", page)[1]  # type: ignore[index]
        for state in ("cold", "warm")
        for way in ("factors", "plain zarr")
    ]
    assert told is not None
    assert list(told.groups()) == found
