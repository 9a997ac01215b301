"""A benchmark's report as people read it: machine, limits, one table, growth, remarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from attlas.cli.output import console, styled
from attlas.readable import human_bytes

if TYPE_CHECKING:
    from attlas.bench.report import Report, Row

__all__ = ["columns_of", "facts_of", "growth_of", "human_time", "print_report"]


def print_report(report: Report) -> None:
    """Print it on stdout; a column is there where a row has something to say in it."""
    out = console()
    sizes = {row.tokens for row in report.rows}
    alike = f", {sizes.pop():,} tokens" if len(sizes) == 1 else ""
    out.print(styled("[bold]bench {}[/]  {}{}", report.workload, Path(report.model).name or report.model, alike))
    out.print(_facts(report))
    out.print()
    out.print(_table(report))
    lines = growth_of(report) + list(report.notes)
    if lines:
        out.print()
    for line in lines:
        out.print(line, style="dim")


def human_time(seconds: float) -> str:
    """0.0000123 -> "12.3 µs"; 0.25 -> "250 ms"; 12.3 -> "12.3 s"."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def facts_of(report: Report) -> list[tuple[str, str]]:
    """The machine and what it allows, as (what, told)."""
    machine, limits = report.machine, report.limits
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ""
    libraries = ", ".join(f"{name} {machine.libraries[name]}" for name in ("attlas", "torch", "zarr", "numpy"))
    flops = f"{human_flops(limits.qk_flops)} q.k (head size {limits.features}), {human_flops(limits.matmul_flops)} else"
    facts = [
        ("machine", f"{machine.cpu}, {machine.cores} cores, {human_bytes(machine.memory)}{gpus}"),
        ("", f"{machine.system}, Python {machine.python}, {libraries}; load {machine.load:.1f}"),
        ("matmul", f"{flops}; {limits.dtype}, {limits.device}, {limits.threads} threads"),
    ]
    if limits.disk is not None:
        disk = limits.disk
        speeds = f"write {human_bytes(disk.write)}/s, read {human_bytes(disk.read_cold)}/s cold"
        facts.append(("disk", f"{speeds}, {human_bytes(disk.read_warm)}/s warm; {machine.disk}"))
    return facts


def _facts(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    busy = report.machine.load > 0.5 * report.machine.cores
    for what, told in facts_of(report):
        before, word, load = told.partition("load")
        grid.add_row(what, styled("{}[yellow]{}[/]", before, word + load) if busy and word else told)
    return grid


def human_flops(count: float) -> str:
    """5.32e10 -> "53.2 GFLOP/s"."""
    for unit, size in (("GFLOP/s", 1e9), ("TFLOP/s", 1e12)):
        if count < 999.5 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e12:,.0f} TFLOP/s"


def columns_of(report: Report) -> list[tuple[str, Callable[[Row], str]]]:
    """The numbers of a report, column by column; a column is there where a row has something to say in it."""
    has_tail = report.workload == "query"
    ratio = "speed-up" if report.workload == "scale" else f"x {report.ratio}"
    many_sizes = len({row.tokens for row in report.rows}) > 1
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("tokens", lambda row: f"{row.tokens:,}" if many_sizes else ""),
        ("median", lambda row: human_time(row.times.median) if row.times else ""),
        ("spread", lambda row: _spread(row)),
        ("p95", lambda row: human_time(row.times.p95) if row.times and has_tail else ""),
        (report.rows[0].rate_unit or "rate", lambda row: _rate(row)),
        (
            ratio,
            lambda row: f"{row.ratio:.2f}" if row.ratio is not None else "",
        ),
        ("efficiency", lambda row: f"{row.efficiency:.0%}" if row.efficiency is not None else ""),
        ("peak", lambda row: human_bytes(row.peak_bytes) if row.peak_bytes is not None else ""),
        ("GPU", lambda row: human_bytes(row.device_bytes) if row.device_bytes is not None else ""),
        ("disk", lambda row: human_bytes(row.stored_bytes) if row.stored_bytes is not None else ""),
        ("moved", lambda row: _moved(row)),
    ]
    return [(name, tell) for name, tell in columns if any(tell(row) for row in report.rows)]


def _table(report: Report) -> Table:
    many_tasks = len({row.task for row in report.rows}) > 1
    shown = columns_of(report)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    if many_tasks:
        table.add_column("task", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    for name, _ in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("near")
    before = None
    for row in report.rows:
        place = (row.task if many_tasks else "", row.tokens)
        if before is not None and place != before:
            table.add_section()
        lead = [row.task if place != before else ""] if many_tasks else []
        before = place
        near = "; ".join(filter(None, (row.near, row.note)))
        told = styled("[yellow]{}[/]", row.note) if row.times is None else near
        table.add_row(*lead, row.contender, *(tell(row) for _, tell in shown), told)
    return table


def _spread(row: Row) -> str:
    """The least and the most, in the median's unit."""
    if row.times is None or row.times.count < 2:
        return ""
    unit = human_time(row.times.median).rpartition(" ")[2]
    size = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    return f"{_three(row.times.least / size)}–{_three(row.times.most / size)}"


def _three(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _rate(row: Row) -> str:
    if row.rate is None:
        return ""
    return f"{human_bytes(row.rate)}/s" if row.rate_unit == "bytes/s" else f"{row.rate:,.0f}"


def _moved(row: Row) -> str:
    return human_bytes(row.moved_bytes) if row.moved_bytes and row.moved_bytes != row.stored_bytes else ""


def growth_of(report: Report) -> list[str]:
    """The fitted exponents, one line: "time grows as N^1.21 (factors), ..."."""
    lines = []
    for what, told in (("time", "time"), ("memory", "peak memory")):
        found = [(fit.contender, value) for fit in report.fits if (value := getattr(fit, what)) is not None]
        if found:
            lines.append(f"{told} grows as " + ", ".join(f"N^{value:.2f} ({name})" for name, value in found))
    return lines
