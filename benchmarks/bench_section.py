"""The page's sections on `attlas bench`: its JSON reports as the tables that it prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attlas.bench.report import Report, Row
from attlas.cli.bench_table import columns_of, facts_of, growth_of
from attlas.plots import bench_figure
from benchmarks.peers.figures import save_small
from benchmarks.tables import markdown_table

__all__ = ["bench_section"]

TITLES = {
    "capture": "Capture, tier by tier",
    "query": "Asking for weights",
    "stats": "Statistics",
    "store": "Writing and reading factors",
    "scale": "More workers",
}
DRAWN = ("capture", "query")


def bench_section(told: Mapping[str, Any], figures: Path) -> str:
    """Markdown of one report, and its figure in the folder `figures` where a line says more than a table."""
    return "\n\n".join(_parts(Report.from_json(told), figures))


def _parts(report: Report, figures: Path) -> Iterator[str]:
    yield f"## {TITLES[report.workload]}"
    yield f"```\n{report.command}\n```"
    yield f"{report.model}; " + "; ".join(told for _, told in facts_of(report)) + f"; {report.machine.time[:10]}."
    shown, tasks = columns_of(report), len({row.task for row in report.rows}) > 1

    def line(row: Row) -> list[str]:
        near = row.note if row.times is None else "; ".join(filter(None, (row.near, row.note)))
        return [*([row.task] if tasks else []), row.contender, *(tell(row) for _, tell in shown), near]

    names = [*(["task"] if tasks else []), "", *(name for name, _ in shown), "near"]
    yield markdown_table(names, [line(row) for row in report.rows])
    remarks = [*growth_of(report), *report.notes]
    if remarks:
        yield "\n".join(f"- {remark}" for remark in remarks)
    if report.workload in DRAWN:
        figures.mkdir(parents=True, exist_ok=True)
        save_small(bench_figure(report), figures / f"{report.workload}.png")
        yield f"![{TITLES[report.workload]}](figures/{report.workload}.png)"
