"""docs/benchmarks.md and its figures, made from the JSON files in benchmarks/results.

    python benchmarks/report.py

`peers.json` has a section of its own, see `benchmarks/peers/section.py`; the reports of `attlas bench --json` have
theirs, see `benchmarks/bench_section.py`. Every other file is one table:

    {"title": ..., "command": ..., "machine": ..., "columns": [...], "rows": [[...], ...], "notes": [...]}

where a row may also be a mapping by the columns' names, and `machine` (a line, or a mapping) and `notes` may be absent.
To add a section that is more than a table, add its function to SECTIONS.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

from attlas.bench.report import SCHEMA  # noqa: E402
from benchmarks.bench_section import bench_section  # noqa: E402
from benchmarks.peers.section import peers_section  # noqa: E402
from benchmarks.tables import cell, markdown_table  # noqa: E402

HEAD = """\
# Benchmarks

Made by `python benchmarks/report.py` from the files in `benchmarks/results`: to change a number, measure again. Every
number comes from the command above it. Ratios are of runs that took turns on one machine; take those, not seconds.

<!-- no block of this page is run: they take hours of a quiet machine -->"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section that has a file and a function of its own. render: the file and the figures' folder -> markdown."""

    file: str
    title: str
    command: str
    render: Callable[[Path, Path], str]


SECTIONS = (
    Section(
        file="peers.json",
        title="Beside other tools",
        command="python benchmarks/peers/run.py smollm2 --tokens 512,1024,1536,2048,4096,8192,16384,32768",
        render=peers_section,
    ),
)


def table_section(path: Path, figures: Path) -> str:
    """A report of attlas bench, or one table. Raises ValueError where it lacks what a table needs."""
    found = json.loads(path.read_text())
    if found.get("schema") == SCHEMA:
        return bench_section(found, figures)
    missing = [name for name in ("title", "command", "columns", "rows") if name not in found]
    if missing:
        raise ValueError(f"{path.name} is no table: it lacks {', '.join(missing)}")
    machine = found.get("machine", "")
    if isinstance(machine, Mapping):
        machine = ", ".join(f"{name} {cell(value)}" for name, value in machine.items())
    parts = [f"## {found['title']}", f"```\n{found['command']}\n```", machine]
    parts.append(markdown_table(found["columns"], found["rows"]))
    parts += _lines(found.get("notes", []))
    return "\n\n".join(part for part in parts if part)


def make_page(results: Path, figures: Path) -> tuple[str, list[str]]:
    """The page, and the names of what it lacks: sections whose file is not there, which the page says too."""
    parts, lacking = [HEAD], []
    for section in SECTIONS:
        path = results / section.file
        if path.exists():
            parts.append(section.render(path, figures))
        else:
            lacking.append(section.file)
            parts.append(f"## {section.title}\n\nNot measured yet:\n\n```\n{section.command}\n```")
    own = {section.file for section in SECTIONS}
    parts += [table_section(path, figures) for path in sorted(results.glob("*.json")) if path.name not in own]
    return "\n\n".join(parts) + "\n", lacking


def _lines(notes: Any) -> list[str]:
    return [notes] if isinstance(notes, str) else [f"- {note}" for note in notes]


@click.command(help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "docs" / "benchmarks.md")
def main(results: Path, output: Path) -> None:
    try:
        page, lacking = make_page(results, output.parent / "figures")
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    output.write_text(page)
    click.echo(f"wrote {output}" + (f"; not measured yet: {', '.join(lacking)}" if lacking else ""))


if __name__ == "__main__":
    main()
