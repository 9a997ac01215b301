"""attlas plan: what a capture will need, before anything is spent."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from attlas.cli.output import console, human_bytes, human_count, print_json, reports_errors

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
@click.option("--chunk-tokens", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@reports_errors
def command(
    model: str, tokens: int, documents: int, chunk_tokens: int, dtype: str, revision: str | None, as_json: bool
) -> None:
    """Memory and disk that capturing MODEL over documents of --tokens takes, for each tier. Loads no weights.

    \b
    Example:
      attlas plan meta-llama/Llama-3.1-8B --tokens 131072
    """
    from attlas.engine.estimate import estimate_tiers, model_shape
    from attlas.engine.models import load_config

    shape = model_shape(load_config(model, revision=revision), dtype=dtype)
    tiers = estimate_tiers(shape, tokens=tokens, documents=documents, chunk_tokens=chunk_tokens)
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
                "tiers": [asdict(tier) for tier in tiers],
                "eager_attention_bytes": eager,
            }
        )
        return
    out = console()
    out.print(f"[bold]{model}[/]  {shape.model_class}, {human_count(shape.parameters)} parameters, {shape.dtype}")
    out.print(
        f"[dim]{len(shape.layers)} attention layers, {heads:,} heads; weights {human_bytes(shape.weight_bytes)}[/]"
    )
    out.print(f"[dim]{documents:,} x {tokens:,} tokens, {min(chunk_tokens, tokens):,} a forward pass, one shard[/]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tier")
    table.add_column("holds")
    table.add_column("disk", justify="right")
    table.add_column("peak memory", justify="right")
    for tier in tiers:
        table.add_row(tier.keep, WHAT[tier.keep], human_bytes(tier.disk), human_bytes(tier.memory))
    out.print(table)
    out.print(f"\n[dim]All layers' weights at once, as output_attentions=True holds them: {human_bytes(eager)}.[/]")
