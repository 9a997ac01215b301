"""attlas plan: what a capture will need, before anything is spent."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from attlas.cli.output import console, human_bytes, human_count, print_json, reports_errors
from attlas.cli.selection import MEMORY

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
@click.option("--memory", type=MEMORY, help="What the process may take, such as 6GB. [default: no limit]")
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
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Memory and disk that capturing MODEL over documents of --tokens takes, for each tier. Loads no weights.

    \b
    Example:
      attlas plan meta-llama/Llama-3.1-8B --tokens 131072
    """
    from attlas.engine.estimate import model_shape, tier_bytes
    from attlas.engine.models import load_config
    from attlas.engine.sizes import plan_sizes

    shape = model_shape(load_config(model, revision=revision), dtype=dtype)
    disk = tier_bytes(shape, tokens=tokens, documents=documents)
    sizes = {
        keep: plan_sizes(
            shape,
            keep=keep,
            longest=tokens,
            total=tokens * documents,
            chunkable=shape.chunkable,
            memory=memory,
            chunk_tokens=chunk_tokens,
        )
        for keep in disk
    }
    heads = sum(layer.heads for layer in shape.layers)
    eager = heads * tokens * tokens * (4 if shape.dtype == "float32" else 2)
    if as_json:
        print_json(
            {
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
                    {
                        "keep": keep,
                        "disk": disk[keep],
                        "memory": size.memory.total,
                        "chunk_tokens": size.chunk_tokens,
                        "pack_tokens": size.pack_tokens,
                        "block": size.block,
                        "memory_parts": asdict(size.memory),
                    }
                    for keep, size in sizes.items()
                ],
                "eager_attention_bytes": eager,
            }
        )
        return
    out = console()
    out.print(f"[bold]{model}[/]  {shape.model_class}, {human_count(shape.parameters)} parameters, {shape.dtype}")
    out.print(
        f"[dim]{len(shape.layers)} attention layers, {heads:,} heads; weights {human_bytes(shape.weight_bytes)}[/]"
    )
    out.print(f"[dim]{documents:,} x {tokens:,} tokens, one shard[/]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tier")
    table.add_column("holds")
    for column in ("disk", "peak memory", "tokens a pass", "a pack"):
        table.add_column(column, justify="right")
    for keep, size in sizes.items():
        table.add_row(
            keep,
            WHAT[keep],
            human_bytes(disk[keep]),
            human_bytes(size.memory.total),
            "whole" if size.chunk_tokens is None else f"{min(size.chunk_tokens, tokens * documents):,}",
            f"{max(size.pack_tokens, tokens):,}",
        )
    out.print(table)
    out.print(f"\n[dim]All layers' weights at once, as output_attentions=True holds them: {human_bytes(eager)}.[/]")
