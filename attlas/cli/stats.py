"""attlas stats: statistics of every layer and head of an atlas."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from attlas.cli.jobs import NUMBERS, choices_of, job_options, job_progress, notes, print_plan, summary_line
from attlas.cli.output import console, reports_errors
from attlas.engine.passage.selection import Selection
from attlas.errors import InputError

__all__ = ["command"]

SHOWN = 40
ROWS = {"layer": ("layer", "head"), "head": ("layer", "head"), "document": ("document", "layer", "head")}


@click.command("stats")
@click.argument("store")
@click.option("--statistic", "names", multiple=True, help="One of them; may be given again. [default: all]")
@click.option(
    "--by", type=click.Choice(["summary", "layer", "head", "document"]), default="summary", show_default=True,
    help="Rows of the table: one a statistic, a layer, a head, or a document.",
)  # fmt: skip
@click.option("--thresholds", type=NUMBERS, help="Weights for sparsity. [default: 0.0001,0.001,0.01]")
@click.option("--levels", type=NUMBERS, help="Shares for weight_quantile. [default: 0.5,0.9,0.99]")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
    help="Write a row for each head (of each document, with --by document): .csv, .json or .parquet.",
)  # fmt: skip
@click.option(
    "--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw layer means as .png, .pdf or .svg."
)
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
    choices = choices_of(atlas, kind=kind, documents=documents, layers=layers, sample=sample, seed=seed)
    choices |= {} if thresholds is None else {"thresholds": thresholds}
    choices |= {} if levels is None else {"levels": levels}
    if explain:
        print_plan(analysis.explain(atlas, workers=workers, scheduler=scheduler, **choices), store)
        return
    begin = time.perf_counter()
    with job_progress("statistics", shown=not as_json) as progress:
        found = analysis.statistics(
            atlas, names=names or None, scheduler=scheduler, workers=workers, save=save, progress=progress, **choices
        )
    seconds = time.perf_counter() - begin
    dims = ROWS.get(by, ("layer", "head"))
    if by == "document" and "document" not in found.dims:
        raise InputError("this sample is too small to tell documents apart: take 8 rows or more of each")
    if output is not None:
        analysis.write_table(found, output, dims)
    if figure is not None:
        from attlas import plots

        plots.save(plots.layer_means(found), figure)
    if as_json:
        from attlas.analysis.tables import json_text

        told = {"attributes": {str(k): _plain(v) for k, v in found.attrs.items()}}
        click.echo(json_text(told, analysis.to_frame(found, dims)))
        return
    out = console()
    out.print(summary_line(store, found, seconds))
    out.print()
    out.print({"summary": _summary, "layer": _layers, "head": _heads, "document": _documents}[by](found))
    for note in notes(found):
        out.print(f"[dim]{note}[/]")
    for path in (output, figure):
        if path is not None:
            out.print(f"[dim]written to {path}[/]")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _told(found: Any, *, flat: bool = False) -> list[tuple[str, str, Any]]:
    """(title, units, values (layer, head)) of every statistic; the places of a further dimension one by one."""
    rows = []
    for name, variable in found.data_vars.items():
        if not {"layer", "head"} <= set(variable.dims) or "document" in variable.dims:
            continue
        if str(name).endswith(("_error", "_low", "_high")):
            continue
        more = [dim for dim in variable.dims if dim not in {"layer", "head"}]
        if not more:
            rows.append((str(name), variable.attrs["units"], variable))
        elif not (flat and more[0] == "distance"):
            for place in range(variable.sizes[more[0]]):
                title = f"{name} {_label(found, more[0], place)}"
                rows.append((title, variable.attrs["units"], variable.isel({more[0]: place})))
    return rows


def _label(found: Any, dim: str, place: int) -> str:
    value = found[dim].values[place]
    if dim == "threshold":
        return f"< {value:g}"
    if dim == "level":
        return f"{value:.0%}"
    stop = int(found.distance_stop.values[place]) - 1
    return f"{value}" if stop == value else f"{value}-{stop}"


def _summary(found: Any) -> Table:
    """One row a statistic: mean over heads, a head's standard error, and the lowest and highest head."""
    errors = any(str(name).endswith("_error") for name in found.data_vars)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("statistic")
    table.add_column("mean", justify="right")
    table.add_column("")
    if errors:
        table.add_column("± of rows" if found.attrs["exact"] == "no" else "± of texts", justify="right")
    for end in ("lowest", "highest"):
        table.add_column(end, justify="right")
        table.add_column("layer, head", style="dim")
    for title, units, values in _told(found):
        flat = values.values
        if np.isnan(flat).all():
            continue
        cells = [title, number(np.nanmean(flat)), "" if units == "1" else f"[dim]{units}[/]"]
        if errors:
            error = _error(found, title, values)
            cells.append("" if error is None else number(error))
        for place in (np.nanargmin(flat), np.nanargmax(flat)):
            layer, head = np.unravel_index(int(place), flat.shape)
            cells.append(number(flat[layer, head]))
            cells.append(f"{found['layer'].values[layer]}, {found['head'].values[head]}")
        table.add_row(*cells)
    return table


def _error(found: Any, title: str, values: Any) -> float | None:
    """Mean over heads of the sample's standard error, or that over documents where all rows were taken."""
    name = values.name
    error = next((f"{name}{end}" for end in ("_error", "_document_error") if f"{name}{end}" in found), None)
    if error is None:
        return None
    more = {str(dim): values[dim].item() for dim in ("threshold", "level", "distance") if dim in values.coords}
    return float(found[error].sel(more).mean())


def _layers(found: Any) -> Table:
    """One row a layer: means over its heads."""
    told = _told(found, flat=True)
    return _wide(["layer"], [[str(layer)] for layer in found["layer"].values], told, lambda v: np.nanmean(v, axis=1))


def _heads(found: Any) -> Table:
    told = _told(found, flat=True)
    places = [[str(layer), str(head)] for layer in found["layer"].values for head in found["head"].values]
    return _wide(["layer", "head"], places, told, lambda v: v.ravel())


def _documents(found: Any) -> Table:
    """One row a document: means over its heads."""
    told = []
    for name, variable in found.data_vars.items():
        if variable.dims == ("document", "layer", "head") and not str(name).endswith("_error"):
            told.append(
                (str(name).removeprefix("document_"), variable.attrs["units"], variable.mean(("layer", "head")))
            )
    ids = [[str(name)] for name in found["document"].values] if told else []
    return _wide(["document"], ids, told, lambda v: v)


def _wide(heads: list[str], places: list[list[str]], told: list[tuple[str, str, Any]], tell: Any) -> Table:
    """Statistics across; those that a terminal has no room for are left to --output."""
    room = max(1, (console().width - 10 * len(heads)) // 13)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, justify="left" if head == "document" else "right")
    for title, _, _ in told[:room]:
        table.add_column(title.replace("_", " "), justify="right", width=11)
    columns = [tell(values.values) for _, _, values in told[:room]]
    for i, place in enumerate(places[:SHOWN]):
        table.add_row(*place, *(number(column[i]) for column in columns))
    rest = [f"{len(told) - room} more statistics"] if len(told) > room else []
    rest += [f"{len(places) - SHOWN:,} more rows"] if len(places) > SHOWN else []
    if rest:
        table.caption = f"{' and '.join(rest)}: --output FILE has all, --statistic chooses"
        table.caption_justify = "left"
    return table


def number(value: float) -> str:
    """Three digits that count."""
    if np.isnan(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"
