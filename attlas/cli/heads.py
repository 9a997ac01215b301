"""attlas heads: what the heads of an atlas do, and how alike they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attlas.cli.jobs import choices_of, job_options, job_progress, notes, print_plan, summary_line
from attlas.cli.output import console, print_json, reports_errors, styled
from attlas.cli.selection import FIGURE, TABLE
from attlas.engine.passage.selection import Selection

__all__ = ["command"]

LEADING = 4
BAR = 24
SIGNS = {
    "previous": ("p", "bold cyan"), "next": ("n", "bold cyan"), "self": ("s", "bold blue"),
    "sink": ("1", "grey62"), "separator": (";", "bold white"), "offset": ("o", "bold magenta"),
    "local": ("l", "green"), "duplicate": ("d", "bold yellow"), "induction": ("i", "bold red"),
    "positional": ("v", "cyan"),
}  # fmt: skip


@click.command("heads")
@click.argument("store")
@click.option(
    "--pair-rows",
    type=click.IntRange(4),
    default=64,
    show_default=True,
    help="Query rows on which heads of different layers are compared.",
)
@click.option("--probe", "model", metavar="MODEL", help="Also score the model's heads on repeated random tokens.")
@click.option(
    "--leading", type=click.IntRange(1), default=LEADING, show_default=True, help="Heads to name of each role."
)
@click.option(
    "--figure",
    type=FIGURE,
    help="Draw the map and the roles as .png, .pdf or .svg.",
)
@click.option(
    "-o",
    "--output",
    type=TABLE,
    help="Write a row for each head and role: .csv, .json or .parquet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print roles and diversity as JSON.")
@job_options
@reports_errors
def command(
    store: str,
    pair_rows: int,
    model: str | None,
    leading: int,
    figure: Path | None,
    output: Path | None,
    as_json: bool,
    kind: str | None,
    documents: tuple[str, ...],
    layers: Selection | None,
    sample: str | None,
    seed: int,
    scheduler: str,
    workers: int | None,
    explain: bool,
    save: bool,
    storage_options: dict[str, str] | None,
) -> None:
    """Show which role every head has, the leading heads of each role, and how alike the heads of a layer are.

    \b
    Example:
      attlas heads book.zarr
      attlas heads book.zarr --figure heads.png
      attlas heads book.zarr --probe HuggingFaceTB/SmolLM2-135M
    """
    import attlas
    from attlas import analysis

    atlas = attlas.open_atlas(store, storage_options=storage_options)
    choices = choices_of(kind=kind, documents=documents, layers=layers, sample=sample, seed=seed)
    if explain:
        where: dict[str, Any] = {"workers": workers, "scheduler": scheduler}
        console().print(styled("[bold]roles[/]"))
        print_plan(analysis.explain(atlas, "head_roles", **where, **choices), store)
        console().print()
        console().print(styled("[bold]diversity[/]"))
        print_plan(analysis.explain(atlas, "head_diversity", pair_rows=pair_rows, **where, **choices), store)
        return
    begin = time.perf_counter()
    options: dict[str, Any] = {"scheduler": scheduler, "workers": workers, "save": save}
    with job_progress("heads", shown=not as_json) as progress:
        roles = analysis.head_roles(atlas, progress=progress, **options, **choices)
        diversity = analysis.head_diversity(atlas, pair_rows=pair_rows, progress=progress, **options, **choices)
    probed = None if model is None else analysis.probe_heads(model, seed=seed)
    seconds = time.perf_counter() - begin
    if output is not None:
        analysis.write_table(roles, output, ("role", "layer", "head"))
    if figure is not None:
        from attlas import plots

        plots.save(plots.head_page(roles, diversity), figure)
    if as_json:
        print_json(_json(roles, diversity, probed, leading))
        return
    out = console()
    out.print(summary_line(store, roles, seconds))
    out.print()
    _print_map(out, roles)
    out.print()
    out.print(_roles_table(roles, leading))
    errors = "; ± standard error" if "role_error" in roles else ""
    out.print(styled("[dim]leads: heads on the map, of those that have the role{}[/]", errors))
    if probed is not None:
        out.print()
        _print_probe(out, probed, leading)
    out.print()
    _print_diversity(out, diversity)
    for note in notes(roles):
        out.print(styled("[dim]{}[/]", note))
    for path in (output, figure):
        if path is not None:
            out.print(styled("[dim]written to {}[/]", path))


def _print_map(out: Console, roles: Any) -> None:
    from attlas.analysis.head_roles import leading_role

    names, heads = leading_role(roles), roles["head"].values
    width = max(2, len(str(heads[-1])) + 1)
    fits = max(1, (out.width - 8) // width)
    out.print(Text("  layer " + "".join(f"{head:>{width}}" for head in heads[:fits]), style="dim"))
    for i, layer in enumerate(roles["layer"].values):
        line = Text(f"{layer:>7} ", style="dim")
        for name in names[i][:fits]:
            sign, style = SIGNS.get(name, ("·", "grey42"))
            line.append(f"{sign:>{width}}", style=style)
        out.print(line)
    if len(heads) > fits:
        out.print(styled("[dim]{} more heads: --figure draws all[/]", len(heads) - fits))
    signs = [(*SIGNS[name], name) for name in roles["role"].values] + [("·", "grey42", "none")]
    for part in (signs[:6], signs[6:]):
        legend = Text("        ")
        for sign, style, name in part:
            legend.append(sign, style=style)
            legend.append(f" {name:<11}", style="dim")
        out.print(legend)


def _roles_table(roles: Any, count: int) -> Table:
    from attlas.analysis.head_roles import leading_heads, leading_role

    leads = leading_role(roles)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("role")
    table.add_column("leads", justify="right")
    table.add_column("of", justify="right")
    table.add_column("from", justify="right", style="dim")
    table.add_column("evenly", justify="right", style="dim")
    table.add_column("leading heads (layer.head score)")
    for i, name in enumerate(roles["role"].values):
        best = Text("  ").join(
            styled(
                "{}.{} [bold]{}[/]{}[dim]{}[/]",
                layer,
                head,
                f"{value:.2f}",
                _error(roles, name, layer, head),
                _offset(roles, name, layer, head),
            )
            for layer, head, value in leading_heads(roles.role_score[i], count)
        )
        baseline = float(np.nanmean(roles.role_baseline.values[i]))
        table.add_row(
            f"{name}", str(int((leads == name).sum())), str(int(roles.has_role.values[i].sum())),
            f"{float(roles.role_threshold[i]):g}", f"{baseline:.3f}", best,
        )  # fmt: skip
    return table


def _error(roles: Any, role: str, layer: int, head: int) -> str:
    """Of a sample, the score's standard error."""
    if "role_error" not in roles:
        return ""
    return f"±{float(roles.role_error.sel(role=role, layer=layer, head=head)):.2f}"


def _offset(roles: Any, role: str, layer: int, head: int) -> str:
    """Of the fixed offset, which."""
    if role != "offset" or "fixed_offset" not in roles:
        return ""
    return f" ({int(roles.fixed_offset.sel(layer=layer, head=head)):+d})"


def _print_probe(out: Console, probed: Any, count: int) -> None:
    from attlas.analysis.head_probe import PROBES
    from attlas.analysis.head_roles import leading_heads

    length = probed.attrs["length"]
    out.print(styled("[dim]on {} x {} random tokens, repeated (layer.head score)[/]", probed.attrs["count"], length))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for name in PROBES:
        leading = leading_heads(probed[name], count)
        best = Text("  ").join(
            styled("{}.{} [bold]{}[/]", layer, head, f"{value:.2f}") for layer, head, value in leading
        )
        evenly = float(probed[f"{name}_baseline"])
        table.add_row(name.replace("_", " "), styled("[dim]evenly {}[/]", f"{evenly:.3f}"), best)
    out.print(table)


def _print_diversity(out: Console, diversity: Any) -> None:
    heads = diversity.sizes["head"]
    out.print(
        styled("[dim]diversity of a layer: 1 - mean similarity of its heads, and how many unlike heads they equal[/]")
    )
    if "all_effective_heads" in diversity:
        count, number = diversity.sizes["member"], float(diversity.all_effective_heads)
        out.print(styled("[dim]    all[/]        {} of {}", f"{number:.1f}", count))
    for i, layer in enumerate(diversity["layer"].values):
        value, number = float(diversity.diversity[i]), float(diversity.effective_heads[i])
        line = Text(f"{layer:>7} ", style="dim")
        line.append(f"{value:5.2f}  " if not np.isnan(value) else "    -  ")
        line.append("█" * round(BAR * number / heads), style="cyan")
        line.append(f" {number:.1f} of {heads}")
        out.print(line)


def _json(roles: Any, diversity: Any, probed: Any, count: int) -> dict[str, Any]:
    from attlas.analysis.head_diversity import summarise_diversity
    from attlas.analysis.head_probe import summarise_probe
    from attlas.analysis.head_roles import leading_role, summarise_roles
    from attlas.analysis.tables import plain_attributes

    summary: dict[str, Any] = {
        "attributes": plain_attributes(roles.attrs),
        "roles": summarise_roles(roles, count),
        "leading_role": [[str(name) or None for name in row] for row in leading_role(roles)],
        "diversity": summarise_diversity(diversity),
    }
    return summary if probed is None else summary | {"probe": summarise_probe(probed, count)}
