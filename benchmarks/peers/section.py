"""The page's section on peers: what is compared, the checks, and time, memory, disk and growth in tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from attlas.bench.report import Limit, Times
from attlas.bench.report import Row as NearRow
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.figures import draw_growth, save_small
from benchmarks.peers.growth import FIT_LEAST_POINTS, FIT_LEAST_TOKENS, growth_exponent
from benchmarks.peers.results import MachineLimits, Results, Row, read_results
from benchmarks.peers.watch import OK
from benchmarks.tables import gigabytes, markdown_table, seconds, significant, times

__all__ = ["peers_section"]

FIGURE = "peers.png"
BASE = "forward"
NOT_TRIED = "not tried"

COMPARED = """\
The same model, tokens and torch threads for all, each run in a process of its own, the contenders in turn. A run loads
the model, warms up on 16 tokens, and then makes the attention of one document of random tokens and writes it to the
local disk, which is what is timed. Memory is the peak of resident memory while the clock ran, less what was resident
before.

What each writes is not the same. The peers write dense float16 maps, which is what a user has of them. `attlas maps` is
the same output, and the factors besides. `attlas factors` answers the same queries from what it writes, and computes a
weight when it is asked for. `attlas statistics` keeps no weights. The forward pass under SDPA writes nothing and makes
no weights: it is what running the model costs. Asking for a weight afterwards is not timed here."""


def peers_section(path: Path, figures: Path) -> str:
    """Markdown of this result file; draws the figure into the folder `figures`."""
    results = read_results(path)
    figures.mkdir(parents=True, exist_ok=True)
    save_small(draw_growth(results), figures / FIGURE)
    return "\n\n".join(_parts(results, figures.name))


def _parts(results: Results, figures: str) -> Iterator[str]:
    names = [one.name for one in CONTENDERS if any(row.contender == one.name for row in results.rows)]
    lengths = sorted({row.tokens for row in results.rows})
    yield "## Beside other tools"
    yield _machine(results)
    yield COMPARED
    yield markdown_table(("contender", "writes"), [(one.name, one.writes) for one in CONTENDERS if one.name in names])
    yield _versions(results)
    yield _checks(results)
    yield "### Time"
    yield _about(results) + " In brackets: as a multiple of the forward pass."
    yield _grid(results.rows, names, lengths, "seconds", seconds)
    yield from _endings(results.rows)
    if results.limits is not None:
        yield "### The nearest limit"
        yield _limits_told(results.limits)
        yield markdown_table(
            ("", *(f"{n:,} tokens" for n in lengths)),
            [(name, *(_near(results, results.limits, name, n) for n in lengths)) for name in names],
        )
    yield "### Peak memory above the loaded model"
    yield "Of the same runs."
    yield _grid(results.rows, names, lengths, "peak_bytes", gigabytes)
    yield "### Disk"
    yield "Bytes written, of the same runs. Random tokens: the maps of natural text compress a little differently."
    if results.limits is not None:
        speed = results.limits.disk_write / 1e9
        yield f"In brackets: the part of its time that the disk takes for them at {speed:.2f} GB/s."
    yield _disk(results, names, lengths)
    yield "### Growth"
    yield _growth(results.rows, names)
    yield f"![Time and peak memory against tokens]({figures}/{FIGURE})"


def _machine(results: Results) -> str:
    machine, model, settings = results.machine, results.model, results.settings
    return (
        f"```\n{results.command}\n```\n\n"
        f"{results.date}; {machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB, "
        f"{machine['system']}; {model['name']}, {model['layers']} layers x {model['heads']} heads, float32, "
        f"torch threads: {settings['threads']}. A process was ended at {gigabytes(settings['memory'])} of memory, "
        f"{gigabytes(settings['disk'])} written, or {settings['seconds']:,.0f} s."
        + "".join(_later(**one) for one in settings.get("renewed", []))
    )


def _later(*, names: Sequence[str], command: str, date: str, base: float | None, tokens: Sequence[int]) -> str:
    lengths = ", ".join(f"{n:,}" for n in tokens)
    beside = f", which then took {times(base)} its time here" if base else ""
    told = f"{' and '.join(names)}, {lengths} tokens: measured later, {date}, in turn with the forward pass{beside}"
    return f"\n\n{told}:\n\n```\n{command}\n```"


def _versions(results: Results) -> str:
    packages = sorted({name for found in results.environments.values() for name in found})
    rows = [(name, *(found.get(one) for one in packages)) for name, found in results.environments.items()]
    return markdown_table(("environment", *packages), rows)


def _checks(results: Results) -> str:
    table = markdown_table(
        ("contender", "compared with", "largest difference", "allowed", ""),
        [(one.contender, one.against, one.difference, _power(one.bound), one.status) for one in results.correctness],
    )
    tokens = results.settings["check_tokens"]
    return f"Checked before time was taken, at {tokens:,} tokens, over heads sampled from all depths:\n\n{table}"


def _power(bound: float | None) -> str | None:
    return None if bound is None else f"{bound:.0e}"


def _about(results: Results) -> str:
    spreads = [max(row.seconds) / min(row.seconds) for row in results.rows if row.status == OK and len(row.seconds) > 1]
    repeats = max((len(row.seconds) for row in results.rows), default=0)
    if not spreads:
        return "One run each."
    return (
        f"Medians of up to {repeats} runs; a contender's slowest run took at most {times(max(spreads))} its fastest, "
        f"half of them less than {times(median(spreads))}."
    )


def _grid(
    rows: Sequence[Row], names: Sequence[str], lengths: Sequence[int], field: str, shown: Callable[[float], str]
) -> str:
    """Contenders by lengths, with multiples of the forward pass at the same length."""

    def one(name: str, tokens: int) -> str:
        row = _row(rows, name, tokens)
        if row is None:
            return ""
        values, base = getattr(row, field), _row(rows, BASE, tokens)
        if row.status != OK:
            short = row.status.split(":")[0]
            return f"{short}, > {shown(max(values))}" if values else short
        beside = getattr(base, field) if base is not None and base.status == OK else ()
        least = median(beside) if beside else 0
        return shown(median(values)) + (f" ({times(median(values) / least)})" if least else "")

    return markdown_table(
        ("", *(f"{n:,} tokens" for n in lengths)), [(name, *(one(name, n) for n in lengths)) for name in names]
    )


def _limits_told(limits: MachineLimits) -> str:
    return (
        "What accounts for the largest part of the time: the forward pass, the bytes written at "
        f"{limits.disk_write / 1e9:.2f} GB/s, or q.k of the cells that hold a weight at {limits.qk_flops / 1e9:,.0f} "
        f"GFLOP/s; of the forward pass itself, its weights at {limits.matmul_flops / 1e9:,.0f} GFLOP/s."
    )


def _near(results: Results, limits: MachineLimits, name: str, tokens: int) -> str:
    """The nearest limit of a row in words, nothing where it did not get through."""
    row, base, model = _row(results.rows, name, tokens), _row(results.rows, BASE, tokens), results.model
    if row is None or row.status != OK:
        return ""
    cells = model["layers"] * model["heads"] * tokens * (tokens + 1) // 2
    bounds = [Limit(name="q.k", seconds=2.0 * model["features"] * cells / limits.qk_flops)]
    if name == BASE:
        bounds.append(Limit(name="matmul", seconds=2.0 * model["weights"] * tokens / limits.matmul_flops))
    elif base is not None and base.status == OK:
        bounds.append(Limit(name="forward pass", seconds=median(base.seconds)))
    if row.bytes_written:
        bounds.append(Limit(name="disk write", seconds=row.bytes_written / limits.disk_write))
    return NearRow(
        contender=name, task="capture", tokens=tokens, times=Times.of(row.seconds), limits=tuple(bounds)
    ).near


def _endings(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each contender that did not get through, where it is not a length that was left out."""
    ended = [row for row in rows if row.status != OK and not row.status.startswith(NOT_TRIED)]
    lines = []
    for name in dict.fromkeys(row.contender for row in ended):
        first = min((row for row in ended if row.contender == name), key=lambda row: row.tokens)
        lines.append(f"- {name}, {first.tokens:,} tokens: {first.status}")
    if lines:
        yield "Ended early, and so not tried at longer documents (`>`: what it had spent by then):\n\n" + "\n".join(
            lines
        )


def _disk(results: Results, names: Sequence[str], lengths: Sequence[int]) -> str:
    def one(name: str, tokens: int) -> str | None:
        row = _row(results.rows, name, tokens)
        if row is None or not row.bytes_written:
            return None
        share = ""
        if results.limits is not None and row.status == OK:
            share = f" ({row.bytes_written / results.limits.disk_write / median(row.seconds):.0%})"
        return gigabytes(row.bytes_written) + share

    writing = [name for name in names if name != BASE]
    return markdown_table(
        ("", *(f"{n:,} tokens" for n in lengths)), [(name, *(one(name, n) for n in lengths)) for name in writing]
    )


def _growth(rows: Sequence[Row], names: Sequence[str]) -> str:
    def exponent(name: str, field: str) -> Any:
        right = [row for row in rows if row.contender == name and row.status == OK]
        found = growth_exponent([row.tokens for row in right], [median(getattr(row, field)) for row in right])
        return "too few lengths" if found is None else significant(found)

    table = markdown_table(
        ("", "time", "memory"), [(name, exponent(name, "seconds"), exponent(name, "peak_bytes")) for name in names]
    )
    return (
        f"The exponent b of tokens^b, by least squares in log-log over the lengths of {FIT_LEAST_TOKENS:,} tokens and "
        f"more that a contender got through, {FIT_LEAST_POINTS} of them at least:\n\n{table}"
    )


def _row(rows: Sequence[Row], name: str, tokens: int) -> Row | None:
    return next((row for row in rows if row.contender == name and row.tokens == tokens), None)
