"""What the commands that run a model with other attention share: their options, inputs, progress and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from attlas.cli.inputs import read_inputs
from attlas.cli.jobs import job_progress
from attlas.cli.output import console, print_json, styled, table
from attlas.cli.selection import COUNT, FIGURE, FOLDER, LAYERS, SEED, WORD

__all__ = [
    "experiment_arguments", "experiment_options", "experiment_progress", "head_options", "interval_of",
    "measures_table", "read_documents", "told", "write",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


def experiment_arguments(command: F) -> F:
    """MODEL INPUTS..."""
    return click.argument("model")(click.argument("inputs", nargs=-1, required=True)(command))


def head_options(command: F) -> F:
    return click.option("--layers", type=LAYERS, help="Layers, such as 0,4:8,-1. [default: all]")(
        click.option("--heads", type=LAYERS, help="Heads, such as 0,4:8,-1. [default: all]")(command)
    )


def experiment_options(command: F) -> F:
    """Options of every experiment."""
    for option in reversed(
        (
            click.option(
                "--predicted", metavar="PLACES",
                help='Tokens whose predictions count: 50:, last:16, or {"tokens": ["Paris"]}. [default: all]',
            ),
            click.option("--max-tokens", type=COUNT, help="Cut longer documents there."),
            click.option("--chunk-tokens", type=COUNT, help="Query tokens of a forward pass. [default: 1024]"),
            click.option("--extrapolate", is_flag=True, help="Take documents longer than the model's positions."),
            click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"),
            click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ..."),
            click.option("--revision", type=WORD, help="Branch, tag or commit of a hub model."),
            click.option("--seed", type=SEED, default=0, show_default=True, help="Of what is drawn, and intervals."),
            click.option(
                "--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95,
                show_default=True, help="Of the intervals over documents.",
            ),
            click.option("--keep", type=FOLDER, help="A folder for finished parts: the same command goes on."),
            click.option("--address", type=WORD, help="Of a Ray cluster to spread documents over, or local."),
            click.option("--figure", type=FIGURE, help="Draw it: .png, .pdf or .svg."),
            click.option("--json", "as_json", is_flag=True, help="Print it as JSON."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def read_documents(inputs: Sequence[str]) -> Any:
    """An atlas's documents where the one input is an atlas, else those of all files."""
    if len(inputs) == 1 and ("://" in inputs[0] or (Path(inputs[0]) / "zarr.json").is_file()):
        import attlas

        return attlas.open_atlas(inputs[0])
    return read_inputs(inputs)


@contextmanager
def experiment_progress(title: str, options: Mapping[str, Any], *, shown: bool) -> Iterator[dict[str, Any]]:
    """The options that were given, as `attlas.experiments` takes them, with a bar for the progress."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    for name in ("predicted", "places"):
        if isinstance(given.get(name), str) and given[name].lstrip().startswith("{"):
            try:
                given[name] = json.loads(given[name])
            except ValueError as error:
                raise click.BadParameter(f"{given[name]!r} is no JSON", param_hint=f"--{name}") from error
    with job_progress(title, shown=shown, begin="loading the model") as report:
        yield given | {"progress": report}


def write(found: Any, figure: Path | None, *, as_json: bool, show: Callable[[Any], None]) -> None:
    """The figure, then JSON or what `show` prints."""
    if figure is not None:
        from attlas import plots

        plots.save(plots.experiment(found), figure)
    if as_json:
        print_json(_json(found))
        return
    show(found)


def told(found: Any, what: str) -> None:
    """The lines above a table: the model, how much text, and what was asked."""
    count = found.sizes["document"]
    name = str(found["document"].values[0]) if count == 1 else f"{count:,} documents"
    console().print(styled("[bold]{}[/]  {}", str(found.attrs["model"]), name))
    console().print(styled("[dim]{}[/]\n", what))


def interval_of(found: Any, name: str, where: Mapping[str, Any], digits: int = 4) -> tuple[str, str]:
    """A mean over documents and its interval, as two columns."""
    mean, low, high = (found[f"{name}_{end}"].isel(where).item() for end in ("mean", "low", "high"))
    signed = "+" if name.endswith("change") else ""
    text = f"{mean:{signed}.{digits}f}"
    return text, "" if low != low else f"{low:{signed}.{digits}f} to {high:{signed}.{digits}f}"


def measures_table(found: Any, names: Sequence[str]) -> None:
    """A line for each measure: its mean over documents, its interval, and what it is."""
    interval = f"{found.attrs['confidence']:.0%} interval"
    several = found.sizes["document"] > 1
    rows = table("", "mean" if several else "value", *([interval] if several else []), "", right={"mean", "value"})
    for name in names:
        if f"{name}_mean" in found:
            mean, span = interval_of(found, name, {})
            units = found[name].attrs["units"]
            rows.add_row(
                name.replace("_", " "), mean, *([span] if several else []), "" if units == "1" else units
            )  # fmt: skip
    console().print(rows)


def _json(found: Any) -> dict[str, Any]:
    """Attributes, coordinates and variables; NaN as null."""
    return {
        **{name: _plain(value) for name, value in found.attrs.items()},
        **{str(name): _plain(found[name].values) for name in (*found.coords, *found.data_vars)},
    }


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and value != value else value
