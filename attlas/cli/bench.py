"""attlas bench: time, memory and disk of what attlas does, here, each beside what the machine allows."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from attlas.cli.bench_table import print_report
from attlas.cli.inputs import read_inputs
from attlas.cli.output import console, print_json, reports_errors, spinner, styled
from attlas.cli.selection import COUNT, FIGURE, FOLDER, PLACE, SEED, WORD, WORKERS, storage_option
from attlas.errors import InputError
from attlas.parse import parse_count
from attlas.storage.tiers import keeps

if TYPE_CHECKING:
    from attlas.bench.report import Report
    from attlas.bench.trial import Trial

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])


class Counts(click.ParamType[tuple[int, ...]]):
    """`512,1024,2048` -> (512, 1024, 2048), each 1 or more, none twice."""

    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(parse_count(int(part), "N") for part in str(value).split(","))
        except (ValueError, InputError):
            counts = ()
        if not counts or len(set(counts)) < len(counts):
            self.fail(f"{value!r} is no list of different counts: write 512,1024,2048", param, ctx)
        return counts


class Keeps(click.ParamType[tuple[str, ...]]):
    """`statistics,factors` -> ("statistics", "factors")."""

    name = "tier,tier,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in str(value).split(","))
        wrong = next((part for part in parts if part not in keeps()), None)
        if wrong is not None or len(set(parts)) < len(parts):
            self.fail(f"{value!r} is no list of tiers: write {','.join(keeps())}, or some of them", param, ctx)
        return parts


COUNTS, KEPT = Counts(), Keeps()


@click.group("bench")
def command() -> None:
    """Measure attlas here: time, memory and disk, each beside what the machine allows.

    Repetitions are interleaved after a warm-up: median, least and most are told. "near" names the limit that accounts
    for most of a row's time, and its share: the plain forward pass, q.k at the measured matmul throughput, the disk's
    measured bandwidth.

    \b
    Example:
      attlas bench capture demo --tokens 256,512,1024
      attlas bench query HuggingFaceTB/SmolLM2-135M --tokens 2048 --json > query.json
    """


def bench_options(*, rounds: int) -> Callable[[F], F]:
    """What every workload takes."""
    options = (
        click.option("--rounds", type=click.IntRange(1), default=rounds, show_default=True, help="Repetitions."),
        click.option("--seed", type=SEED, default=0, show_default=True, help="Of synthetic documents and places."),
        click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"),
        click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ..."),
        click.option(
            "--folder", type=FOLDER,
            help="Where stores are written and removed again, on the disk in question. [default: the system's own]",
        ),
        click.option(
            "--figure", type=FIGURE, help="Draw it as .png, .pdf or .svg."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    )  # fmt: skip

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@command.command("capture")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--tokens", type=COUNTS, help="Lengths N. [default: 512,1024,2048; of INPUTS, their own]")
@click.option("--keep", "keeps", type=KEPT, default=",".join(keeps()), show_default=True, help="Tiers.")
@click.option(
    "--most-maps", type=click.IntRange(1), default=1024, show_default=True, help="No maps of longer documents."
)
@click.option("--chunk-tokens", type=COUNT, help="Query tokens in one forward pass.")
@click.option("--peak/--no-peak", default=True, show_default=True, help="Peak memory, each in a process of its own.")
@bench_options(rounds=3)
@reports_errors
def capture(
    model: str,
    inputs: tuple[str, ...],
    tokens: tuple[int, ...] | None,
    keeps: tuple[str, ...],
    most_maps: int,
    chunk_tokens: int | None,
    **common: Any,
) -> None:
    """Capture with MODEL, tier by tier, against the plain forward pass, over synthetic documents or INPUTS.

    INPUTS are those of attlas capture: text files, .jsonl files, or -; with --tokens, each is cut there. Peak memory is
    above the loaded model.

    \b
    Example:
      attlas bench capture HuggingFaceTB/SmolLM2-135M --tokens 512,1024,2048 --figure capture.png
      attlas bench capture demo book.txt --tokens 300,600 --keep statistics
    """
    with trial(model, inputs, "bench capture", **common) as (given, show):
        from attlas.bench.capture import bench_capture

        lengths = tokens or (None,) if inputs else tokens or (512, 1024, 2048)
        show(
            bench_capture(given, tokens=lengths, keeps=keeps, most_maps=most_maps, chunk_tokens=chunk_tokens)
        )  # fmt: skip


@command.command("query")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--tokens", type=click.IntRange(64), help="N. [default: 2048; of INPUTS, their own]")
@bench_options(rounds=9)
@reports_errors
def query(model: str, inputs: tuple[str, ...], tokens: int | None, **common: Any) -> None:
    """Ask for a row, a 64 x 64 tile and a whole map of one document: from factors, maps, and plain Zarr by xarray.

    Cold: the store's files dropped from the page cache and the store opened anew, opening included; warm: neither. All
    ways must give equal numbers before a time is taken. Of INPUTS, the first document.

    \b
    Example:
      attlas bench query HuggingFaceTB/SmolLM2-135M --tokens 2048
    """
    with trial(model, inputs, "bench query", **common) as (given, show):
        from attlas.bench.query import bench_query

        show(bench_query(given, tokens=tokens or (None if inputs else 2048)))


@command.command("stats")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--tokens", type=COUNTS, help="Lengths N. [default: 512,1024,2048; of INPUTS, their own]")
@click.option(
    "--sample", type=click.FloatRange(0, 100, min_open=True), default=5.0, show_default=True,
    help="Percent of the query rows in the sample.",
)  # fmt: skip
@click.option(
    "--most-maps", type=click.IntRange(1), default=2048, show_default=True, help="No maps of longer documents."
)
@bench_options(rounds=3)
@reports_errors
def stats(
    model: str,
    inputs: tuple[str, ...],
    tokens: tuple[int, ...] | None,
    sample: float,
    most_maps: int,
    **common: Any,
) -> None:
    """Statistics of every head from factors, exact and sampled, against the same by numpy over float16 maps.

    Numpy's answer must equal the exact one before a time is taken. Of INPUTS, the first document.

    \b
    Example:
      attlas bench stats HuggingFaceTB/SmolLM2-135M --tokens 512,1024,2048 --sample 5
    """
    with trial(model, inputs, "bench stats", **common) as (given, show):
        from attlas.bench.statistics import bench_statistics

        lengths = tokens or (None,) if inputs else tokens or (512, 1024, 2048)
        show(bench_statistics(given, tokens=lengths, sample=sample / 100, most_maps=most_maps))


@command.command("store")
@click.argument("model")
@click.option("--tokens", type=click.IntRange(2), default=2048, show_default=True, help="N.")
@click.option("--store", type=PLACE, help="Folder or URL under which to write. [default: the scratch folder]")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@bench_options(rounds=5)
@reports_errors
def store(model: str, tokens: int, store: str | None, storage_options: dict[str, str] | None, **common: Any) -> None:
    """Write the factors of one document and read them back whole: attlas, zarr's own arrays, raw bytes.

    Factors are random numbers of MODEL's layers, heads and head size. All ways must read what was written.

    \b
    Example:
      attlas bench store HuggingFaceTB/SmolLM2-135M --tokens 4096 --folder /data/scratch
      attlas bench store demo --store s3://team/bench --storage-option profile=team
    """
    with trial(model, (), "bench store", **common) as (given, show):
        from attlas.bench.store import bench_store

        show(bench_store(given, tokens=tokens, store=store, storage_options=storage_options))


@command.command("scale")
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--shards", type=COUNTS, default="1,2", show_default=True, help="Of one long document.")
@click.option("--replicas", type=COUNTS, default="1,2", show_default=True, help="Of a corpus of short documents.")
@click.option("--tokens", type=click.IntRange(2), help="Of the long one. [default: 2048; of INPUTS, its own]")
@click.option("--documents", type=click.IntRange(2), default=100, show_default=True, help="Short ones, synthetic.")
@click.option("--keep", type=click.Choice(keeps()), default="statistics", show_default=True)
@click.option("--threads", type=WORKERS, default=1, show_default=True, help="Torch threads of each process.")
@click.option("--chunk-tokens", type=COUNT, default=512, show_default=True, help="Query tokens in a pass.")
@click.option("--address", type=WORD, help="Of a running Ray cluster: auto, host:6379, ... [default: a private one]")
@bench_options(rounds=3)
@reports_errors
def scale(
    model: str,
    inputs: tuple[str, ...],
    shards: tuple[int, ...],
    replicas: tuple[int, ...],
    tokens: int | None,
    documents: int,
    keep: str,
    threads: int,
    chunk_tokens: int,
    address: str | None,
    **common: Any,
) -> None:
    """Capture with more and more workers: shards on one long document, replicas on many short ones.

    Speed-up is over one process of as many threads; efficiency is the speed-up over the number of workers. Where
    workers share cores, the report says so.

    \b
    Example:
      attlas bench scale HuggingFaceTB/SmolLM2-135M --shards 1,2,4 --replicas 1,2
      attlas bench scale ./llama-70b --shards 4,8 --replicas 1 --tokens 65536 --address auto
    """
    with trial(model, inputs, "bench scale", **common) as (given, show):
        from attlas.bench.scale import bench_scale

        show(
            bench_scale(
                given, shards=shards, replicas=replicas, tokens=tokens or (None if inputs else 2048),
                documents=documents, keep=keep, threads=threads, chunk_tokens=chunk_tokens, address=address,
            )
        )  # fmt: skip


@contextmanager
def trial(
    model: str,
    inputs: tuple[str, ...],
    title: str,
    *,
    folder: Path | None,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> Iterator[tuple[Trial, Callable[[Report], None]]]:
    """A `Trial` in a scratch folder, with progress on stderr; and the function that shows its report afterwards."""
    texts = read_inputs(inputs) if inputs else None
    from attlas.bench.trial import Trial  # loads torch and transformers: after the input is known to be good

    found: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="attlas-bench-", dir=folder) as scratch, _progress(title, as_json) as told:
        yield Trial(model=model, folder=Path(scratch), texts=texts, told=told, **options), found.append
    for report in found:
        report = replace(report, model=_placeless(report.model), command=_command())
        if figure is not None:
            from attlas import plots

            plots.save(plots.bench_figure(report), figure)
        if as_json:
            print_json(report.to_json())
            continue
        print_report(report)
        if figure is not None:
            console().print(styled("[dim]drawn to {}[/]", figure))


def _command() -> str:
    return shlex.join(["attlas", *(_placeless(word) for word in sys.argv[1:])])


def _placeless(word: str) -> str:
    """A folder's name without where it lies on this machine."""
    return Path(word).name if Path(word).is_absolute() else word


@contextmanager
def _progress(title: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """What is run now, on a terminal, on stderr; nothing in a pipe."""
    screen = console(stderr=True)
    with Progress(
        spinner(screen), TextColumn(title), TextColumn("{task.fields[told]}", markup=False), TimeElapsedColumn(),
        console=screen, transient=True, disable=quiet or not screen.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=None, told="starting")
        yield lambda what: bar.update(task, told=what)
