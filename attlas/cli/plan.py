"""attlas plan: what a capture will need, before anything is spent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from attlas.cli.output import console, human_bytes, human_count, print_json, reports_errors
from attlas.cli.selection import MEMORY, SHARDS
from attlas.errors import TooLittleMemoryError

if TYPE_CHECKING:
    from attlas.actors.plan import ClusterPlan, Devices
    from attlas.engine.passage.sizes import Sizes

__all__ = ["command"]

WHAT = {
    "statistics": "row statistics",
    "factors": "every weight, on demand",
    "maps": "dense weights too",
}


@click.command("plan")
@click.argument("model")
@click.option("--tokens", type=click.IntRange(1), required=True, help="Tokens of a document.")
@click.option("--documents", type=click.IntRange(1), default=1, show_default=True)
@click.option("--chunk-tokens", type=click.IntRange(1), help="Query tokens in one forward pass.")
@click.option("--memory", type=MEMORY, help="What each process may take, such as 6GB. [default: no limit]")
@click.option("--shards", type=SHARDS, help="Cut the model into so many, not as few as fit.")
@click.option("--devices", help="What it is to run on, such as 8x80GB.")
@click.option("--address", help="Of a running Ray cluster, whose devices are asked for.")
@click.option(
    "--keep",
    type=click.Choice(["factors", "statistics", "maps"]),
    default="factors",
    show_default=True,
    help="The tier that shards are laid out for.",
)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@reports_errors
def command(
    model: str,
    tokens: int,
    documents: int,
    chunk_tokens: int | None,
    memory: int | None,
    shards: int | None,
    devices: str | None,
    address: str | None,
    keep: str,
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Memory and disk that capturing MODEL over documents of --tokens takes, for each tier. Loads no weights.

    With --devices, --address or --shards also how the layers are cut into shards, and how many replicas there is room
    for.

    \b
    Example:
      attlas plan meta-llama/Llama-3.1-8B --tokens 131072
      attlas plan meta-llama/Llama-3.1-70B --tokens 131072 --devices 8x80GB
    """
    from attlas.engine.model.shape import shape_of, tier_bytes
    from attlas.engine.model.shard import meta_model
    from attlas.engine.model.source import load_config
    from attlas.engine.model.support import check_supported
    from attlas.engine.passage.sizes import plan_sizes

    if devices is not None and address is not None:
        raise click.UsageError("--devices describes a cluster, --address names one: give one of them")
    meta = meta_model(load_config(model, revision=revision))
    check_supported(meta)
    shape = shape_of(meta, dtype=dtype)
    disk = tier_bytes(shape, tokens=tokens, documents=documents)
    layout = None
    if devices is not None or address is not None or shards is not None:
        from attlas.actors.plan import parse_devices, plan_cluster

        layout = plan_cluster(
            meta,
            devices=_cluster_devices(address) if address else parse_devices(devices) if devices else None,
            shards=shards,
            dtype=dtype,
            keep=keep,
            tokens=tokens,
            documents=documents,
            chunk_tokens=chunk_tokens,
            memory=memory,
        )
    sizes: dict[str, Sizes] = {}
    too_little: dict[str, TooLittleMemoryError] = {}
    for tier in disk:
        try:
            sizes[tier] = plan_sizes(
                shape,
                keep=tier,
                longest=tokens,
                total=tokens * documents,
                chunkable=shape.chunkable,
                memory=memory if layout is None else None,
                chunk_tokens=chunk_tokens,
            )
        except TooLittleMemoryError as error:
            too_little[tier] = error
    if not sizes:
        raise min(too_little.values(), key=lambda error: error.least)
    heads = sum(layer.heads for layer in shape.layers)
    told = {
        "model": model,
        "class": shape.model_class,
        "dtype": shape.dtype,
        "parameters": shape.parameters,
        "weight_bytes": shape.weight_bytes,
        "layers": len(shape.layers),
        "heads": heads,
        "tokens": tokens,
        "documents": documents,
        "tiers": [
            {"keep": tier, "disk": disk[tier]}
            | (_sizes_json(sizes[tier]) if tier in sizes else {"fits": False, "memory": too_little[tier].least})
            for tier in disk
        ],
        "eager_attention_bytes": heads * tokens * tokens * (4 if shape.dtype == "float32" else 2),
        "cluster": None if layout is None else _cluster_json(layout, keep),
    }
    if as_json:
        print_json(told)
    else:
        _show(told)


def _sizes_json(sizes: Sizes) -> dict[str, Any]:
    return {
        "fits": True,
        "memory": sizes.memory.total,
        "chunk_tokens": sizes.chunk_tokens,
        "pack_tokens": sizes.pack_tokens,
        "block": sizes.block,
        "memory_parts": asdict(sizes.memory),
    }


def _cluster_devices(address: str) -> Devices:
    from attlas.actors.cluster import cluster_devices, joined_cluster

    with joined_cluster(address, cpus=1) as facts:
        return cluster_devices(facts, gpus=facts.gpus > 0)


def _cluster_json(layout: ClusterPlan, keep: str) -> dict[str, Any]:
    return {
        "keep": keep,
        "replicas": layout.replicas,
        "devices_used": layout.used,
        "chunk_tokens": layout.sizes.chunk_tokens,
        "pack_tokens": layout.sizes.pack_tokens,
        "shards": [
            {"layers": [start, stop], "weight_bytes": weights, "memory": parts.total, "memory_parts": asdict(parts)}
            for (start, stop), weights, parts in zip(
                layout.shards.spans(), layout.shards.weight_bytes, layout.memory, strict=True
            )
        ],
    }


def _show(told: dict[str, Any]) -> None:
    out, tokens, documents, cluster = console(), told["tokens"], told["documents"], told["cluster"]
    size, weights = human_count(told["parameters"]), human_bytes(told["weight_bytes"])
    out.print(f"[bold]{told['model']}[/]  {told['class']}, {size} parameters, {told['dtype']}")
    out.print(f"[dim]{told['layers']} attention layers, {told['heads']:,} heads; weights {weights}[/]")
    out.print(f"[dim]{documents:,} x {tokens:,} tokens{', as one shard' if cluster is None else ''}[/]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tier")
    table.add_column("holds")
    for column in ("disk", "peak memory", "tokens a pass", "a pack") if cluster is None else ("disk",):
        table.add_column(column, justify="right")
    for tier in told["tiers"]:
        row = [tier["keep"], WHAT[tier["keep"]], human_bytes(tier["disk"])]
        if cluster is None and not tier["fits"]:
            row.append(f"[red]does not fit: at least {human_bytes(tier['memory'])}[/]")
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
    out.print(
        "\n[dim]All layers' weights at once, as output_attentions=True holds them: "
        f"{human_bytes(told['eager_attention_bytes'])}.[/]"
    )


def _show_cluster(out: Console, cluster: dict[str, Any], total: int) -> None:
    shards, replicas, chunk = cluster["shards"], cluster["replicas"], cluster["chunk_tokens"]
    out.print(
        f"[bold]{replicas} replica{'s' * (replicas > 1)} of {len(shards)} shard{'s' * (len(shards) > 1)}[/]"
        f"  keep {cluster['keep']}, {'whole packs' if chunk is None else f'{min(chunk, total):,} tokens a pass'}"
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
