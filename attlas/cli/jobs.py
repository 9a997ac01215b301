"""What `stats` and `heads` share: the options of a job, its progress bar, its plan in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attlas.cli.output import console, spinner, styled
from attlas.cli.selection import LAYERS, SAMPLE, SEED, WORD, WORKERS, storage_option
from attlas.engine.passage.selection import Selection
from attlas.progress import Progress as WorkProgress
from attlas.progress import Report
from attlas.readable import human_bytes

__all__ = ["choices_of", "job_options", "job_progress", "notes", "print_plan", "summary_line"]

F = TypeVar("F", bound=Callable[..., Any])


KINDS = ("self", "encoder", "decoder", "cross")


def job_options(command: F) -> F:
    """Options that choose what a job looks at, and where it runs."""
    for option in reversed(
        (
            click.option("--kind", type=click.Choice(KINDS), help="[default: the first]"),
            click.option("--document", "documents", multiple=True, help="One document, or again, more. [default: all]"),
            click.option("--layers", type=LAYERS, help="Layers, such as 0,4:8,-1. [default: all]"),
            click.option(
                "--sample", type=SAMPLE,
                help="Query rows to look at, of each layer and head: 2000, or 5%. [default: all, exactly]",
            ),
            click.option("--seed", type=SEED, default=0, show_default=True, help="Of the sample."),
            click.option(
                "--scheduler", type=WORD, default="threads", show_default=True, metavar="threads|ray|tcp://HOST:PORT",
                help="Where the job runs: here, on Ray (RAY_ADDRESS, or a private one), on a dask.distributed cluster.",
            ),
            click.option("--workers", type=WORKERS, help="Threads at work here. [default: one a core]"),
            click.option("--explain", is_flag=True, help="Print what would be read, and the memory, and stop."),
            click.option("--save/--no-save", default=True, show_default=True, help="Keep the answer in the atlas."),
            click.option(
                "--storage-option", "storage_options", multiple=True, callback=storage_option,
                help="key=value for a URL.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def choices_of(
    *,
    kind: str | None,
    documents: tuple[str, ...],
    layers: Selection | None,
    sample: str | None,
    seed: int,
) -> dict[str, Any]:
    """The options as `attlas.analysis` takes them."""
    return {
        "kind": kind, "documents": documents or None, "layers": layers, "sample": sample, "seed": seed,
    }  # fmt: skip


@contextmanager
def job_progress(title: str, *, shown: bool = True, begin: str = "reading the plan") -> Iterator[Report]:
    """A bar of blocks on a terminal, on stderr; nothing in a pipe."""
    screen = console(stderr=True)
    with Progress(
        spinner(screen), TextColumn(title), BarColumn(bar_width=None), TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=screen, transient=True, disable=not (shown and screen.is_terminal),
    ) as bar:  # fmt: skip
        task = bar.add_task(begin, total=None)

        def show(now: WorkProgress) -> None:
            description = f"{now.what} {now.done:,} of {now.total:,}"
            bar.update(task, total=now.total, completed=now.done, description=description)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the answer is not kept")  # `notes` says it
            yield show


def print_plan(plan: Any, store: str) -> None:
    """An `Explanation` in words."""
    out = console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("atlas", styled("[bold]{}[/]  {} attention", store, plan.kind))
    table.add_row("of", f"{plan.layers} layers x {plan.heads} heads, {_counted(plan.documents, 'document')}")
    share = "all, exactly" if plan.rows == plan.of_rows else f"{plan.rows / plan.of_rows:.1%}, sampled"
    table.add_row("query rows", f"{plan.rows:,} of {plan.of_rows:,} ({share}) of each layer and head")
    table.add_row("from", plan.source)
    if plan.kept:
        table.add_row("", styled("[green]the answer is kept in the atlas: nothing is computed[/]"))
    else:
        table.add_row("blocks", f"{plan.blocks:,}, each one kernel call on one layer's heads")
        if plan.read_bytes:
            table.add_row("read", f"at most {human_bytes(plan.read_bytes)}, once for each block that needs it")
        table.add_row(
            "memory",
            f"at most {human_bytes(plan.memory_bytes)}: {plan.workers} tasks x {human_bytes(plan.block_bytes)} a block",
        )
    out.print(table)


def summary_line(store: str, result: Any, seconds: float) -> Text:
    """What the answer is of, on one line."""
    attributes = result.attrs
    rows = f"all {attributes['rows']:,} query rows, exactly"
    if attributes["exact"] != "yes":
        rows = f"{attributes['rows_used']:,} of {attributes['rows']:,} query rows, sampled"
    how = "kept from before" if attributes.get("reused") else f"{seconds:.1f} s"
    heads = f"{result.sizes['layer']} layers x {result.sizes['head']} heads"
    return styled(
        "[bold]{}[/]\n{} attention, {}, {}\n[dim]{}, from {}, {}[/]",
        *(store, attributes["kind"], heads, _counted(attributes["documents"], "document")),
        *(rows, attributes["source"], how),
    )


def notes(result: Any) -> list[str]:
    """What the answer lacks and why, and whether it could not be kept."""
    told, kept = result.attrs, str(result.attrs.get("kept", ""))
    sampled = "" if told["exact"] == "yes" else ", sampled,"
    whence = f"{told['kind']} attention from {told['source']}{sampled}"
    found = [f"left out: {told['left_out']}, which {whence} cannot tell"] if told.get("left_out") else []
    return found + ([f"not kept in the atlas ({kept.removeprefix('no: ')})"] if kept.startswith("no: ") else [])


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
