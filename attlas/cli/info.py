"""attlas info: what an atlas holds."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attlas.cli.capture import storage_option
from attlas.cli.output import console, print_json, reports_errors
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
    grid.add_row("atlas", f"[bold]{told['store']}[/]  {human_bytes(told['bytes'])}, {told['schema']}")
    grid.add_row(
        "model",
        f"{model['name']}  {model['model_class']}, {human_count(model['parameters'])} parameters, {model['dtype']}",
    )
    grid.add_row("tier", f"{told['keep']}  [dim]{', '.join(told['factors'])}[/]")
    stored = dict.fromkeys(name for kind in told["kinds"].values() for name in kind["statistics"])
    if stored:
        grid.add_row("statistics", ", ".join(stored))
    grid.add_row("packs", ", ".join(f"{count} {name}" for name, count in packs.items() if count))
    for failed in told["failed"][:SHOWN_FAILURES]:
        first, count = failed["documents"][0], len(failed["documents"])
        names = repr(first) + (f" and {count - 1} more" if count > 1 else "")
        grid.add_row("", f"[red]pack {failed['pack']} ({names}): {escape(failed['error'])}[/]")
    grid.add_row("created", told["created"].partition(".")[0])
    if told["options"].get("queries"):
        seed = f", seed {told['options']['seed']}" if "random" in told["options"]["queries"] else ""
        grid.add_row("queries", f"only {told['options']['queries']}{seed}")
    out.print(grid)
    out.print()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("attention", "layers", "heads", "kv heads", "features", "dtype", "score"):
        table.add_column(
            name, justify="left" if name in {"attention", "layers", "heads", "dtype", "score"} else "right"
        )
    for kind, row in told["kinds"].items():
        table.add_row(
            kind,
            index_runs(row["layers"]),
            index_runs(row["heads"]),
            str(row["kv_heads"]),
            str(row["features"] or "-"),
            row["dtype"] or "-",
            _rule(row),
        )
    out.print(table)
    out.print()
    axes = list(told["documents"][0]["tokens"]) if told["documents"] else []
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("document")
    for axis in axes:
        table.add_column("tokens" if axis == "text" else f"{axis} tokens", justify="right")
    table.add_column("")
    for row in told["documents"][:SHOWN_DOCUMENTS]:
        notes = [f"cut from {n:,}" for n in row["truncated_from"].values() if n]
        notes += [row["state"]] if row["state"] != "committed" else []
        table.add_row(row["id"], *(f"{row['tokens'][axis]:,}" for axis in axes), f"[yellow]{', '.join(notes)}[/]")
    out.print(table)
    if len(told["documents"]) > SHOWN_DOCUMENTS:
        out.print(f"[dim]and {len(told['documents']) - SHOWN_DOCUMENTS:,} more; --json lists all[/]")
    if told["answers"]:
        _show_answers(out, told["answers"])


def _show_answers(out: Console, answers: list[dict[str, Any]]) -> None:
    """The answers kept in the atlas, which the same question takes from there; the newest last."""
    out.print()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("kept answer", "of", "rows", "made"):
        table.add_column(name)
    for answer in answers[-SHOWN_ANSWERS:]:
        asked = answer["parameters"]
        parts = [
            f"{len(asked[name])} {name[: None if len(asked[name]) > 1 else -1]}"
            for name in ("documents", "layers")
            if asked.get(name) is not None
        ]
        rows = "all" if asked.get("sample") is None else f"{asked['sample']:,} sampled, seed {asked['seed']}"
        table.add_row(answer["name"], ", ".join([asked["kind"], *parts]), rows, answer["made"].partition(".")[0])
    out.print(table)
    if len(answers) > SHOWN_ANSWERS:
        out.print(f"[dim]and {len(answers) - SHOWN_ANSWERS:,} older; --json lists all[/]")


def _rule(row: dict[str, Any]) -> str:
    low, high = row["scaling"][0], row["scaling"][-1]
    parts = [f"q.k x {low:.4g}" if low == high else f"q.k x {low:.4g} to {high:.4g}"]
    parts += [f"softcap {row['softcap'][0]:g}"] if row["softcap"] else []
    parts += ["sink logit"] if row["sink_logit"] else []
    parts += ["position bias"] if row["position_bias"] else []
    return ", ".join(parts)
