"""attlas info: what an atlas holds."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import storage_option
from attlas.readable import human_bytes, human_count, index_runs

__all__ = ["command"]

SHOWN_FAILURES = 5
SHOWN_DOCUMENTS = 20
SHOWN_ANSWERS = 10


@click.command("info")
@click.argument("store")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@reports_errors
def command(store: str, storage_options: dict[str, str] | None, as_json: bool) -> None:
    """Show the model, tier, layers, score rules, documents and packs of STORE.

    \b
    Example:
      attlas info book.zarr
    """
    import attlas
    from attlas.jobs.answers import kept_answers
    from attlas.storage.description import describe_atlas

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    told = describe_atlas(atlas) | {"answers": kept_answers(atlas)}
    if as_json:
        print_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    out = console()
    model, packs = told["model"], told["packs"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    grid.add_row("atlas", styled("[bold]{}[/]  {}, {}", told["store"], human_bytes(told["bytes"]), told["schema"]))
    grid.add_row(
        "model",
        f"{model['name']}  {model['model_class']}, {human_count(model['parameters'])} parameters, {model['dtype']}",
    )
    grid.add_row("tier", styled("{}  [dim]{}[/]", told["keep"], ", ".join(told["factors"])))
    stored = dict.fromkeys(name for kind in told["kinds"].values() for name in kind["statistics"])
    if stored:
        grid.add_row("statistics", ", ".join(stored))
    grid.add_row("packs", ", ".join(f"{count} {name}" for name, count in packs.items() if count))
    for failed in told["failed"][:SHOWN_FAILURES]:
        first, count = failed["documents"][0], len(failed["documents"])
        names = repr(first) + (f" and {count - 1} more" if count > 1 else "")
        grid.add_row("", styled("[red]pack {} ({}): {}[/]", failed["pack"], names, failed["error"]))
    grid.add_row("created", told["created"].partition(".")[0])
    if told["options"].get("queries"):
        seed = f", seed {told['options']['seed']}" if "random" in told["options"]["queries"] else ""
        grid.add_row("queries", f"only {told['options']['queries']}{seed}")
    out.print(grid)
    out.print()
    kinds = table(
        "attention", "layers", "heads", "kv heads", "features", "dtype", "score", right=("kv heads", "features")
    )
    for kind, row in told["kinds"].items():
        kinds.add_row(
            kind,
            index_runs(row["layers"]),
            index_runs(row["heads"]),
            str(row["kv_heads"]),
            str(row["features"] or "-"),
            row["dtype"] or "-",
            _rule(row),
        )
    out.print(kinds)
    out.print()
    axes = list(told["documents"][0]["tokens"]) if told["documents"] else []
    counts = ["tokens" if axis == "text" else f"{axis} tokens" for axis in axes]
    documents = table("document", *counts, "", right=counts)
    for row in told["documents"][:SHOWN_DOCUMENTS]:
        notes = [f"cut from {n:,}" for n in row["truncated_from"].values() if n]
        notes += [row["state"]] if row["state"] != "committed" else []
        sizes = (f"{row['tokens'][axis]:,}" for axis in axes)
        documents.add_row(row["id"], *sizes, styled("[yellow]{}[/]", ", ".join(notes)))
    out.print(documents)
    if len(told["documents"]) > SHOWN_DOCUMENTS:
        out.print(styled("[dim]and {} more; --json lists all[/]", f"{len(told['documents']) - SHOWN_DOCUMENTS:,}"))
    if told["answers"]:
        _show_answers(out, told["answers"])


def _show_answers(out: Console, answers: list[dict[str, Any]]) -> None:
    """The answers kept in the atlas, which the same question takes from there; the newest last."""
    out.print()
    kept = table("kept answer", "of", "rows", "made")
    for answer in answers[-SHOWN_ANSWERS:]:
        asked = answer["parameters"]
        parts = [
            f"{len(asked[name])} {name[: None if len(asked[name]) > 1 else -1]}"
            for name in ("documents", "layers")
            if asked.get(name) is not None
        ]
        rows = "all" if asked.get("sample") is None else f"{asked['sample']:,} sampled, seed {asked['seed']}"
        kept.add_row(answer["name"], ", ".join([asked["kind"], *parts]), rows, answer["made"].partition(".")[0])
    out.print(kept)
    if len(answers) > SHOWN_ANSWERS:
        out.print(styled("[dim]and {} older; --json lists all[/]", f"{len(answers) - SHOWN_ANSWERS:,}"))


def _rule(row: dict[str, Any]) -> str:
    low, high = row["scaling"][0], row["scaling"][-1]
    parts = [f"q.k x {low:.4g}" if low == high else f"q.k x {low:.4g} to {high:.4g}"]
    parts += [f"softcap {row['softcap'][0]:g}"] if row["softcap"] else []
    parts += ["sink logit"] if row["sink_logit"] else []
    parts += ["position bias"] if row["position_bias"] else []
    return ", ".join(parts)
