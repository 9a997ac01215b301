"""attlas verify: check an atlas against its own records."""

from __future__ import annotations

import click

from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import COUNT, SEED, storage_option

__all__ = ["command"]


@click.command("verify")
@click.argument("store")
@click.option("--rows", type=COUNT, default=64, show_default=True, help="Rows sampled of each kind, layer and pack.")
@click.option("--seed", type=SEED, help="Of the sample. [default: another each time, which is told]")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@reports_errors
def command(store: str, rows: int, seed: int | None, storage_options: dict[str, str] | None, as_json: bool) -> None:
    """Check STORE: arrays, commit records, checksums, finite values, row sums. Exit status 1 where something is wrong.

    \b
    Example:
      attlas verify book.zarr
    """
    import attlas

    report = attlas.verify(store, sample_rows=rows, seed=seed, storage_options=storage_options)
    if as_json:
        checks = [
            {
                "name": c.name,
                "examined": c.examined,
                "passed": c.passed,
                "problems": list(c.problems),
                "notes": list(c.notes),
            }
            for c in report.checks
        ]
        print_json({"store": store, "passed": report.passed, "seed": report.seed, "checks": checks})
    else:
        out = console()
        found = table("", "", "", header=False)
        for check in report.checks:
            verdict = styled("[green]ok[/]" if check.passed else "[red]WRONG[/]")
            found.add_row(verdict, check.name, styled("[dim]{}[/]", check.examined))
        out.print(found)
        out.print(styled("[dim]rows drawn with --seed {}[/]", report.seed))
        for note in (note for check in report.checks for note in check.notes):
            out.print(styled("[dim]note: {}[/]", note))
        for problem in report.problems:
            out.print(styled("[red]-[/] {}", problem))
    if not report.passed:
        raise SystemExit(1)
