"""attlas capture: run a model over texts, keep its attention."""

from __future__ import annotations

import resource
import time
from typing import Any

import click
from rich.table import Table

from attlas.cli.inputs import read_inputs
from attlas.cli.output import console, human_bytes, print_json, reports_errors
from attlas.cli.progress import capture_progress
from attlas.cli.selection import LAYERS, MEMORY, QUERIES

__all__ = ["command", "summary"]


def storage_option(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    """`key=value` pairs for fsspec."""
    wrong = next((value for value in values if "=" not in value), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not key=value")
    return dict(value.split("=", 1) for value in values) or None


@click.command("capture")
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--store", required=True, help="Folder or URL of the atlas to make.")
@click.option(
    "--keep",
    type=click.Choice(["factors", "statistics", "maps"]),
    default="factors",
    show_default=True,
    help="factors: every weight can be computed; statistics: row statistics alone; maps: factors and dense weights.",
)
@click.option("--layers", type=LAYERS, help="Layers to keep, such as 0,4:8,-1. [default: all]")
@click.option("--heads", type=LAYERS, help="Heads to keep, such as 0,4:8,-1. [default: all]")
@click.option(
    "--queries", type=QUERIES, help="Query rows to keep: 10:20, last:512, stride:16, random:1000, ... [default: all]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="For --queries random:N.")
@click.option("--max-tokens", type=click.IntRange(1), help="Cut longer documents there; the atlas records it.")
@click.option(
    "--chunk-tokens",
    type=click.IntRange(1),
    help="Query tokens in one forward pass. [default: 4096, or less by --memory]",
)
@click.option("--memory", type=MEMORY, help="What the process may take, such as 6GB. [default: no limit]")
@click.option("--extrapolate", is_flag=True, help="Take documents longer than the model's trained positions.")
@click.option("--map-dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--resume", is_flag=True, help="Go on with a store that the same command began.")
@click.option("--overwrite", is_flag=True, help="Replace the atlas that lies there.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@reports_errors
def command(model: str, inputs: tuple[str, ...], store: str, as_json: bool, **options: Any) -> None:
    """Run MODEL over INPUTS and keep its attention in an atlas.

    MODEL is a hub id, a folder, a .gguf file, or "demo". INPUTS are text files (one document each), .jsonl files (a
    document a line: {"id", "text"}, or {"id", "source", "target"} for an encoder-decoder), or - for standard input.

    \b
    Example:
      attlas capture demo notes.txt more.jsonl --store notes.zarr
      cat notes.txt | attlas capture HuggingFaceTB/SmolLM2-135M - --store notes.zarr --keep statistics
    """
    if options["resume"] and options["overwrite"]:
        raise click.UsageError("--resume and --overwrite exclude each other")
    documents = read_inputs(inputs)
    import attlas  # loads torch and transformers: after the input is known to be good

    begin = time.perf_counter()
    with capture_progress("capture", shown=not as_json) as progress:
        atlas = attlas.capture(
            model, list(documents.texts), store, ids=list(documents.ids), progress=progress, **options
        )
    told = summary(atlas, store, time.perf_counter() - begin, options["storage_options"])
    if as_json:
        print_json(told)
    else:
        _show(told)


def summary(atlas: Any, store: str, seconds: float, storage_options: dict[str, str] | None = None) -> dict[str, Any]:
    """What a capture did, ready for JSON. seconds: of this run, loading the model included."""
    from attlas.storage import store_bytes
    from attlas.storage.schema import axis_prefix

    table = atlas.documents
    sizes = [f"{axis_prefix(axis)}row_size" for axis in atlas.axes]
    cut = [name for name in table.data_vars if str(name).endswith("truncated_from")]
    tokens = int(sum(int(table[name].sum()) for name in sizes))
    return {
        "store": store,
        "model": atlas.model["name"],
        "keep": atlas.keep,
        "documents": len(atlas),
        "tokens": tokens,
        "kinds": {k: {"layers": len(atlas.layers(k)), "heads": len(atlas.column(f"{k}/head"))} for k in atlas.kinds},
        "truncated": [
            str(name)
            for name, lengths in zip(
                table["document_id"].values, zip(*(table[c].values for c in cut), strict=True), strict=True
            )
            if any(lengths)
        ],
        "bytes": store_bytes(store, storage_options=storage_options),
        "seconds": round(seconds, 3),
        "capture_seconds": round(float(atlas.packs["seconds"].sum()), 3),
        "tokens_per_second": round(tokens / max(float(atlas.packs["seconds"].sum()), 1e-9), 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _show(told: dict[str, Any]) -> None:
    out = console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    kinds = ", ".join(f"{k}: {v['layers']} layers x {v['heads']} heads" for k, v in told["kinds"].items())
    table.add_row("atlas", f"[bold]{told['store']}[/]  ({told['keep']}, {human_bytes(told['bytes'])})")
    table.add_row("model", told["model"])
    table.add_row("attention", kinds)
    table.add_row("documents", f"{told['documents']:,} with {told['tokens']:,} tokens")
    if told["truncated"]:
        names = told["truncated"]
        table.add_row(
            "cut short", f"[yellow]{', '.join(names[:5])}{f' and {len(names) - 5} more' * (len(names) > 5)}[/]"
        )
    table.add_row("time", f"{told['capture_seconds']:.1f} s, {told['tokens_per_second']:,.0f} tokens/s")
    table.add_row("peak memory", human_bytes(told["peak_memory_bytes"]))
    out.print(table)
    out.print(f"\n[dim]next:[/] attlas info {told['store']}")
