"""attlas plan: what a capture will need, before anything is spent."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table

from attlas.cli.output import console, print_json, reports_errors, styled
from attlas.cli.selection import COUNT, MEMORY, SHARDS, WORD
from attlas.readable import human_bytes, human_count
from attlas.storage.tiers import DEFAULT_TIER, TIERS, keeps

__all__ = ["command"]


@click.command("plan")
@click.argument("model")
@click.option("--tokens", type=COUNT, required=True, help="Tokens of a document.")
@click.option("--documents", type=COUNT, default=1, show_default=True)
@click.option("--chunk-tokens", type=COUNT, help="Query tokens in one forward pass.")
@click.option("--extrapolate", is_flag=True, help="Take documents longer than the model's trained positions.")
@click.option("--memory", type=MEMORY, help="What each process may take, such as 6GB. [default: no limit]")
@click.option("--shards", type=SHARDS, help="Cut the model into so many, not as few as fit.")
@click.option("--devices", type=WORD, help="What it is to run on, such as 8x80GB.")
@click.option("--address", type=WORD, help="Of a running Ray cluster, whose devices are asked for.")
@click.option(
    "--keep",
    type=click.Choice(keeps()),
    default=DEFAULT_TIER,
    show_default=True,
    help="The tier that shards are laid out for.",
)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--revision", type=WORD, help="Branch, tag or commit of a hub model.")
@click.option("--part", type=WORD, help="Part of the model to capture, by its name in it. [default: what reads text]")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@reports_errors
def command(model: str, as_json: bool, **options: Any) -> None:
    """Memory and disk that capturing MODEL over documents of --tokens takes, for each tier. Loads no weights.

    With --devices, --address or --shards also how the layers are cut into shards, and how many replicas there is room
    for.

    \b
    Example:
      attlas plan meta-llama/Llama-3.1-8B --tokens 131072
      attlas plan meta-llama/Llama-3.1-70B --tokens 131072 --devices 8x80GB
    """
    if options["devices"] is not None and options["address"] is not None:
        raise click.UsageError("--devices describes a cluster, --address names one: give one of them")
    from attlas.capture.estimate import estimate_capture

    told = estimate_capture(model, **options)
    if as_json:
        print_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    out, tokens, documents, cluster = console(), told["tokens"], told["documents"], told["cluster"]
    size, weights = human_count(told["parameters"]), human_bytes(told["weight_bytes"])
    out.print(styled("[bold]{}[/]  {}, {} parameters, {}", told["model"], told["class"], size, told["dtype"]))
    out.print(f"{told['layers']} attention layers, {told['heads']:,} heads; weights {weights}", style="dim")
    out.print(f"{documents:,} x {tokens:,} tokens{', as one shard' if cluster is None else ''}", style="dim")
    out.print()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tier")
    table.add_column("holds")
    for column in ("disk", "peak memory", "tokens a pass", "a pack") if cluster is None else ("disk",):
        table.add_column(column, justify="right")
    for tier in told["tiers"]:
        row: list[RenderableType] = [tier["keep"], TIERS[tier["keep"]].description, human_bytes(tier["disk"])]
        if cluster is None and not tier["fits"]:
            row.append(styled("[red]does not fit: at least {}[/]", human_bytes(tier["memory"])))
        elif cluster is None:
            chunk = tier["chunk_tokens"]
            row += [
                human_bytes(tier["memory"]),
                "whole" if chunk is None else f"{min(chunk, tokens * documents):,}",
                f"{max(tier['pack_tokens'], tokens):,}",
            ]
        table.add_row(*row)
    out.print(table)
    if cluster is not None:
        out.print()
        _show_cluster(out, cluster, tokens * documents)
    out.print()
    out.print(
        "All layers' weights at once, as output_attentions=True holds them: "
        f"{human_bytes(told['eager_attention_bytes'])}.",
        style="dim",
    )


def _show_cluster(out: Console, cluster: dict[str, Any], total: int) -> None:
    shards, replicas, chunk = cluster["shards"], cluster["replicas"], cluster["chunk_tokens"]
    out.print(
        styled(
            "[bold]{}[/]  keep {}, {}",
            f"{replicas} replica{'s' * (replicas > 1)} of {len(shards)} shard{'s' * (len(shards) > 1)}",
            cluster["keep"],
            "whole packs" if chunk is None else f"{min(chunk, total):,} tokens a pass",
        )
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("shard", "layers", "weights", "keys, values", "a pass", "to be written", "peak memory"):
        table.add_column(column, justify="left" if column == "layers" else "right")
    for i, shard in enumerate(shards):
        parts, (start, stop) = shard["memory_parts"], shard["layers"]
        table.add_row(
            str(i),
            f"{start}–{stop - 1}",
            human_bytes(shard["weight_bytes"]),
            human_bytes(parts["keys_values"]),
            human_bytes(parts["forward"] + parts["kernel"]),
            human_bytes(parts["gathered"]),
            human_bytes(shard["memory"]),
        )
    out.print(table)
