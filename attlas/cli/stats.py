"""attlas stats: statistics of every layer and head of an atlas."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attlas.cli.jobs import choices_of, job_options, job_progress, notes, print_plan, summary_line
from attlas.cli.output import console, print_json_text, reports_errors, styled
from attlas.cli.selection import FIGURE, NUMBERS, TABLE, WORD
from attlas.engine.passage.selection import Selection
from attlas.errors import InputError

__all__ = ["command"]

SHOWN = 40
EXACT, ESTIMATE = 11, 17
"""Columns that a number takes, and one with its error."""
WIDE = 96
"""Columns of the table of statistics with their errors; on fewer its columns stand closer."""
ROWS = {"layer": ("layer", "head"), "head": ("layer", "head"), "document": ("document", "layer", "head")}


@click.command("stats")
@click.argument("store")
@click.option("--statistic", "names", multiple=True, type=WORD, help="One of them; may be given again. [default: all]")
@click.option(
    "--by", type=click.Choice(["summary", "layer", "head", "document"]), default="summary", show_default=True,
    help="Rows of the table: one a statistic, a layer, a head, or a document.",
)  # fmt: skip
@click.option("--thresholds", type=NUMBERS, help="Weights for sparsity. [default: 0.0001,0.001,0.01]")
@click.option("--levels", type=NUMBERS, help="Shares for weight_quantile. [default: 0.5,0.9,0.99]")
@click.option(
    "-o", "--output", type=TABLE,
    help="Write a row for each head (of each document, with --by document): .csv, .json or .parquet.",
)  # fmt: skip
@click.option("--figure", type=FIGURE, help="Draw layer means as .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print a row for each head as JSON.")
@job_options
@reports_errors
def command(
    store: str,
    names: tuple[str, ...],
    by: str,
    thresholds: tuple[float, ...] | None,
    levels: tuple[float, ...] | None,
    output: Path | None,
    figure: Path | None,
    as_json: bool,
    kind: str | None,
    documents: tuple[str, ...],
    layers: Selection | None,
    sample: str | None,
    seed: int,
    scheduler: str,
    workers: int | None,
    explain: bool,
    save: bool,
    storage_options: dict[str, str] | None,
) -> None:
    """Entropy, sparsity, distances and shares of every head, exactly or from a sample of the query rows.

    \b
    Example:
      attlas stats book.zarr
      attlas stats book.zarr --sample 5% --by layer
      attlas stats book.zarr --statistic entropy --by document -o entropy.parquet
    """
    import attlas
    from attlas import analysis

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    choices = choices_of(kind=kind, documents=documents, layers=layers, sample=sample, seed=seed)
    choices |= {} if thresholds is None else {"thresholds": thresholds}
    choices |= {} if levels is None else {"levels": levels}
    if explain:
        print_plan(analysis.explain(atlas, workers=workers, scheduler=scheduler, **choices), store)
        return
    begin = time.perf_counter()
    with job_progress("statistics", shown=not as_json) as progress:
        answer = analysis.statistics(
            atlas, names=names or None, scheduler=scheduler, workers=workers, save=save, progress=progress, **choices
        )
    seconds = time.perf_counter() - begin
    dims = ROWS.get(by, ("layer", "head"))
    if by == "document" and "document" not in answer.dims:
        raise InputError("this sample is too small to tell documents apart: take 8 rows or more of each")
    if output is not None:
        analysis.write_table(answer, output, dims)
    if figure is not None:
        from attlas import plots

        plots.save(plots.layer_means(answer), figure)
    if as_json:
        from attlas.analysis.tables import json_text, plain_attributes

        description = {"attributes": plain_attributes(answer.attrs)}
        print_json_text(json_text(description, analysis.to_frame(answer, dims)))
        return
    out = console()
    out.print(summary_line(store, answer, seconds))
    out.print()
    out.print({"summary": _summary, "layer": _layers, "head": _heads, "document": _documents}[by](answer))
    for note in notes(answer):
        out.print(styled("[dim]{}[/]", note))
    for path in (output, figure):
        if path is not None:
            out.print(styled("[dim]written to {}[/]", path))


def _summary(answer: Any) -> Table:
    """One row a statistic: mean over heads, a head's standard error, and the lowest and highest head.

    What a statistic has at several places stands below its name: with the name, 80 columns are too few.
    """
    from attlas.analysis.summary import summarise_statistics

    summaries = summarise_statistics(answer)
    errors = any(summary.error is not None for summary in summaries)
    narrow = errors and console().width < WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1 if narrow else 2, 0, 0))
    table.add_column("statistic", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if errors:
        of = "± of rows" if answer.attrs["exact"] == "no" else "± of texts"
        table.add_column(Text(of.replace("f ", "f\n") if narrow else of), justify="right", no_wrap=True)
    for end in ("lowest", "highest"):
        table.add_column(end, justify="right", no_wrap=True)
        table.add_column("layer, head", style="dim")
    above = ""
    for summary in summaries:
        name, _, place = summary.title.partition(" ")
        if place and name != above:
            table.add_row(name)
        above = name
        units = styled("[dim]{}[/]", "" if summary.units == "1" else summary.units)
        cells: list[RenderableType] = [f"  {place}" if place else name, number(summary.mean), units]
        if errors:
            cells.append("" if summary.error is None else number(summary.error))
        for extreme in (summary.lowest, summary.highest):
            cells += [number(extreme.value), f"{extreme.layer}, {extreme.head}"]
        table.add_row(*cells)
    return table


def _layers(answer: Any) -> Group:
    """One row a layer: means over its heads, and of a sample the mean standard error of a head."""
    from attlas.analysis.summary import head_values, sampling_error

    columns = []
    for title, values in head_values(answer, distances=False):
        error = sampling_error(answer, values)
        columns.append((title, _over_heads(values), None if error is None else _over_heads(error)))
    return _wide(["layer"], [[str(layer)] for layer in answer["layer"].values], columns)


def _over_heads(values: Any) -> Any:
    """Means over heads; NaN where no head has a number."""
    return values.mean("head", skipna=True).values


def _heads(answer: Any) -> Group:
    from attlas.analysis.summary import head_values, sampling_error

    columns = []
    for title, values in head_values(answer, distances=False):
        error = sampling_error(answer, values)
        columns.append((title, values.values.ravel(), None if error is None else error.values.ravel()))
    places = [[str(layer), str(head)] for layer in answer["layer"].values for head in answer["head"].values]
    return _wide(["layer", "head"], places, columns)


def _documents(answer: Any) -> Group:
    """One row a document: means over its heads, and of a sample the mean standard error of a head."""
    from attlas.analysis.summary import document_means

    columns = [
        (name, values.values, None if error is None else error.values) for name, values, error in document_means(answer)
    ]
    return _wide(["document"], [[str(name)] for name in answer["document"].values] if columns else [], columns)


def _wide(heads: list[str], places: list[list[str]], columns: list[tuple[str, Any, Any]]) -> Group:
    """Statistics across, each with its standard error if it has one; those that a terminal has no room for are left to
    --output."""
    sampled = any(errors is not None for _, _, errors in columns)
    width = ESTIMATE if sampled else EXACT
    room = max(1, (console().width - 10 * len(heads)) // (width + 2))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, justify="left" if head == "document" else "right")
    for title, _, _ in columns[:room]:
        table.add_column(title.replace("_", " "), justify="right", width=width)
    for i, place in enumerate(places[:SHOWN]):
        table.add_row(*place, *(_estimate(values, errors, i) for _, values, errors in columns[:room]))
    rest = [f"{len(columns) - room} more statistics"] if len(columns) > room else []
    rest += [f"{len(places) - SHOWN:,} more rows"] if len(places) > SHOWN else []
    told = [f"{' and '.join(rest)}: --output FILE has all, --statistic chooses"] if rest else []
    if sampled:
        told.insert(0, "± standard error for the rows of this atlas" + (", of a head" if "head" not in heads else ""))
    return Group(table, *(Text(line, style="dim italic") for line in told))


def _estimate(values: Any, errors: Any, place: int) -> str:
    if errors is None or np.isnan(errors[place]):
        return number(values[place])
    return f"{number(values[place])} ± {number(errors[place])}"


def number(value: float) -> str:
    """Three digits that count."""
    if np.isnan(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"
