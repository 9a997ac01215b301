"""attlas capture: run a model over texts, keep its attention."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from attlas.cli.inputs import read_inputs
from attlas.cli.output import console, fail, print_json, reports_errors, styled
from attlas.cli.progress import capture_progress
from attlas.cli.selection import (
    COUNT,
    LAYERS,
    MEMORY,
    OUTPUT,
    PLACE,
    QUERIES,
    SEED,
    SHARDS,
    TARGET,
    WORD,
    WORKERS,
    storage_option,
)
from attlas.errors import PacksFailedError, StoreFullError
from attlas.progress import CaptureProgress
from attlas.readable import human_bytes, human_seconds
from attlas.storage.tiers import DEFAULT_TIER, TIERS, keeps

__all__ = ["command"]


@click.command("capture")
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--store", type=PLACE, required=True, help="Folder or URL of the atlas to make.")
@click.option(
    "--keep",
    type=click.Choice(keeps()),
    default=DEFAULT_TIER,
    show_default=True,
    help="factors: every weight can be computed; statistics: row statistics alone; maps: factors and dense weights.",
)
@click.option(
    "--gradients",
    type=TARGET,
    help='Keep gradients of: loss, next_token, {"token": " Paris", "against": " Rome"}, {"label": 1}.',
)
@click.option("--layers", type=LAYERS, help="Layers to keep, such as 0,4:8,-1. [default: all]")
@click.option("--heads", type=LAYERS, help="Heads to keep, such as 0,4:8,-1. [default: all]")
@click.option(
    "--queries", type=QUERIES, help="Query rows to keep: 10:20, last:512, stride:16, random:1000, ... [default: all]"
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="For --queries random:N.")
@click.option("--max-tokens", type=COUNT, help="Cut longer documents there; the atlas records it.")
@click.option(
    "--chunk-tokens",
    type=COUNT,
    help="Query tokens in one forward pass. [default: 4096, or less by --memory]",
)
@click.option("--memory", type=MEMORY, help="What the process may take, such as 6GB. [default: no limit]")
@click.option("--extrapolate", is_flag=True, help="Take documents longer than the model's trained positions.")
@click.option("--map-dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--revision", type=WORD, help="Branch, tag or commit of a hub model.")
@click.option("--part", type=WORD, help="Part of the model to capture, by its name in it. [default: what reads text]")
@click.option(
    "--shards",
    type=SHARDS,
    default="1",
    show_default=True,
    help="Cut the layers into so many Ray actors; auto: as few as fit.",
)
@click.option("--replicas", type=WORKERS, default=1, show_default=True, help="Whole pipelines side by side.")
@click.option(
    "--address", type=WORD, help="Of a running Ray cluster: auto, host:6379, ... [default: a private one, if any]"
)
@click.option("--threads", type=WORKERS, help="Torch threads of each process on a CPU.")
@click.option("--offload", type=MEMORY, help="Weights kept in memory by each process; the rest is read from disk.")
@click.option("--log", type=OUTPUT, help="Append events to a file, one JSON a line.")
@click.option("--overview", is_flag=True, help="Then store coarse levels of the maps, as attlas overview does.")
@click.option("--resume", is_flag=True, help="Go on with a store that the same command began.")
@click.option("--overwrite", is_flag=True, help="Replace the atlas that lies there.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    store: str,
    log: Path | None,
    overview: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL over INPUTS and keep its attention in an atlas.

    MODEL is a hub id, a folder (of an adapter too), a .gguf file, or "demo". INPUTS are text files (one document
    each), .jsonl files (a document a line: {"id", "text"}, {"id", "messages"} for a chat, or {"id", "source",
    "target"} for an encoder-decoder; further fields are kept), .json, .csv, .tsv and .parquet files of the same, each
    also as .gz, or - for standard input.

    With --shards, --replicas or --address the model runs as Ray actors, see docs/cluster.md. Ctrl-C stops cleanly:
    packs that are committed stay, and --resume goes on with the others.

    \b
    Example:
      attlas capture demo notes.txt more.jsonl --store notes.zarr
      cat notes.txt | attlas capture HuggingFaceTB/SmolLM2-135M - --store notes.zarr --keep statistics
      attlas capture demo notes.txt --store graded.zarr --gradients next_token
      attlas capture ./llama-70b corpus.jsonl --store s3://team/corpus.zarr --shards auto --address auto
    """
    if options["resume"] and options["overwrite"]:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if overview and not TIERS[options["keep"]].weights:
        raise click.UsageError(f"--overview is of weights, which --keep {options['keep']} does not have")
    documents = read_inputs(inputs)
    import attlas  # what follows loads torch and transformers: after the input is known to be good
    from attlas.capture.report import report_capture

    begin = time.perf_counter()
    failure: PacksFailedError | None = None
    last: CaptureProgress | None = None
    try:
        with _interrupted_by_sigterm(), _logged_to(log), capture_progress("capture", shown=not as_json) as progress:
            try:
                attlas.capture(model, documents, store, progress=progress, **options)
            finally:
                last = progress.last
    except PacksFailedError as error:
        failure = error
    except StoreFullError as error:
        fail(f"{error}:\n  {_resume_command(sys.argv)}")
    except KeyboardInterrupt:
        click.echo(f"stopped; {_kept(last)}. Go on with:\n  {_resume_command(sys.argv)}", err=True)
        raise SystemExit(130) from None
    seconds = time.perf_counter() - begin
    if failure is not None and not failure.some_committed:
        raise failure
    atlas = attlas.open_atlas(store, storage_options=options["storage_options"])
    told = report_capture(atlas, seconds=seconds, last=last)
    if overview and failure is None:
        from attlas.cli.overview import make_overviews

        told["overview"] = make_overviews(store, storage_options=options["storage_options"], bar=not as_json)
    if as_json:
        print_json(told)
    else:
        _show(told)
    if failure is not None:
        raise failure


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """A scheduler's polite end (Slurm, Kubernetes) stops a capture as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _logged_to(path: Path | None) -> Iterator[None]:
    """Send the capture's events to a file."""
    if path is None:
        yield
        return
    logger, handler = logging.getLogger("attlas.capture"), logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def _kept(last: CaptureProgress | None) -> str:
    if last is None or not last.done:
        return "no pack was committed yet"
    return f"{last.done:,} of {last.total:,} packs are committed and kept"


def _resume_command(argv: list[str]) -> str:
    kept = [argument for argument in argv[1:] if argument not in {"--overwrite", "--resume"}]
    return shlex.join(["attlas", *kept, "--resume"])


def _show(told: dict[str, Any]) -> None:
    out = console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    kinds = ", ".join(f"{k}: {v['layers']} layers x {v['heads']} heads" for k, v in told["kinds"].items())
    table.add_row("atlas", styled("[bold]{}[/]  ({}, {})", told["store"], told["keep"], human_bytes(told["bytes"])))
    table.add_row("model", told["model"])
    table.add_row("attention", kinds)
    table.add_row("documents", f"{told['documents']:,} with {told['tokens']:,} tokens")
    if told["truncated"]:
        names = told["truncated"]
        table.add_row(
            "cut short",
            styled("[yellow]{}{}[/]", ", ".join(names[:5]), f" and {len(names) - 5} more" * (len(names) > 5)),
        )
    table.add_row("time", _speed(told))
    if "overview" in told:
        size, took = human_bytes(told["overview"]["bytes"]), human_seconds(told["overview"]["seconds"])
        table.add_row(
            "overview", f"{size}, {took}" if told["overview"]["weights"] else "each map is one tile: none needed"
        )
    table.add_row("peak memory", human_bytes(told["peak_memory_bytes"]) + (" (this process)" if told["shards"] else ""))
    if told["retries"]:
        again, lost = told["retries"], told["lost_pipelines"]
        after = f", after {_counted(lost, 'lost pipeline')}" if lost else ""
        table.add_row("run again", styled("[yellow]{}{}[/]", _counted(again, "pack"), after))
    if told["failed"]:
        table.add_row("failed", styled("[red]{} of {}[/]", len(told["failed"]), _counted(told["packs"], "pack")))
    out.print(table)
    if told["shards"]:
        out.print(_shard_table(told["shards"]))
    out.print(styled("\n[dim]next:[/] attlas info {}", told["store"]))


def _speed(told: dict[str, Any]) -> str:
    if not told["tokens_per_second"]:
        return "no pack was captured" + ("" if told["failed"] else ": none was missing")
    seconds = told["capture_seconds"]
    took = human_seconds(seconds) if seconds >= 1 else f"{seconds:.2g} s"
    return f"{took}, {told['tokens_per_second']:,.0f} tokens/s, {human_bytes(told['bytes_per_second'])}/s"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _shard_table(shards: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, justify in (
        ("replica", "right"), ("shard", "right"), ("layers", "left"), ("busy", "right"), ("written", "right"),
        ("peak memory", "right"), ("node", "left"),
    ):  # fmt: skip
        table.add_column(column, justify="right" if justify == "right" else "left")
    for one in shards:
        start, stop = one["layers"]
        memory = human_bytes(one["peak_memory"])
        table.add_row(
            str(one["replica"]),
            str(one["shard"]),
            f"{start}–{stop - 1}" if stop > start else "all",
            f"{one['busy']:.0%}",
            human_bytes(one["bytes"]),
            f"{memory} + {human_bytes(one['device_memory'])} GPU" if one["device_memory"] else memory,
            f"{one['node']} {one['device']}",
        )
    return table
