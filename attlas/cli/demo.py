"""attlas demo: the embedded model, captured, its heads named, a row of weights shown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from attlas.cli.heatmap import print_row
from attlas.cli.output import console, print_json, reports_errors, styled
from attlas.cli.progress import capture_progress
from attlas.cli.selection import PLACE
from attlas.readable import human_bytes, token_label

if TYPE_CHECKING:
    from attlas.analysis.leading_heads import Leader, Telling

__all__ = ["command"]

TEXT = (
    "Xq7 vRt-90z lkW;pE# mYb2. The lamp went out twice. "
    "Again: Xq7 vRt-90z lkW;pE# mYb2. The lamp went out twice. "
    "Once more: Xq7 vRt-90z lkW;pE# mYb2."
)
DOCUMENT = "demo"
CONTEXT = 14
"""Tokens shown before each place."""


@click.command("demo")
@click.option("--store", default="demo.zarr", show_default=True, type=PLACE, help="Folder or URL of the atlas.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@reports_errors
def command(store: str, as_json: bool) -> None:
    """Capture the small embedded model, name its strongest heads, and show what one of them looks at.

    Needs no network. An atlas already at --store is replaced.

    \b
    Example:
      attlas demo
    """
    import attlas
    from attlas.analysis.leading_heads import induction_leader, previous_token_leader, telling_query
    from attlas.capture.report import report_capture

    begin = time.perf_counter()
    with capture_progress("demo", shown=not as_json) as progress:
        atlas = attlas.capture("demo", TEXT, store, ids=[DOCUMENT], overwrite=True, progress=progress)
    page = atlas[DOCUMENT]
    told = report_capture(atlas, seconds=time.perf_counter() - begin, last=progress.last)
    leaders = {"previous token": previous_token_leader(page), "induction": induction_leader(page)}
    telling = telling_query(page, leaders["induction"])
    if as_json:
        heads = {
            name.replace(" ", "_"): {"layer": h.layer, "head": h.head, "score": h.score, "uniform_baseline": h.baseline}
            for name, h in leaders.items()
        }
        print_json(told | {"heads": heads, "query": telling.query})
        return
    _show(page, told, leaders, telling)


def _show(page: Any, told: dict[str, Any], leaders: dict[str, Leader], telling: Telling) -> None:
    out, induction, query, earlier = console(), leaders["induction"], telling.query, telling.earlier
    layers, heads = page.sizes["layer"], page.sizes["head"]
    out.print(
        styled(
            "[bold]attlas demo[/]  {} layers x {} heads over {} tokens, {} s, {} in [bold]{}[/]\n",
            layers,
            heads,
            told["tokens"],
            f"{told['capture_seconds']:.2f}",
            human_bytes(told["bytes"]),
            told["store"],
        )
    )
    out.print("head                      place             score   uniform attention", style="dim")
    for name, found in leaders.items():
        place = f"layer {found.layer}, head {found.head}"
        cells = (f"{name:<24}", f"{place:<16}", f"{found.score:5.2f}", f"{found.baseline:5.2f}")
        out.print(styled("[bold]{}[/]  {}  {}   [dim]{}[/]", *cells))
    tokens = [str(t) for t in page.query_token.values]
    text = "".join(token_label(t, 5) for t in tokens[max(0, query - CONTEXT) : query + 1])
    copy = "".join(token_label(t, 5) for t in tokens[max(0, earlier - CONTEXT) : earlier + 2])
    out.print(styled("\nAt position {} the text reads [bold]{}[/]", query, text))
    out.print(styled("and earlier, at {}, it read  [bold]{}[/]", earlier, copy))
    where = induction.layer, induction.head
    out.print(styled("so the induction head (layer {}, head {}) looks at what followed then:\n", *where))
    print_row(out, page.attention.sel(layer=induction.layer, head=induction.head).isel(query=query).load())
    out.print(styled("\nOpen it from Python:\n"))
    out.print("  import attlas")
    out.print(f'  page = attlas.open_atlas("{told["store"]}")["{DOCUMENT}"]')
    out.print(f"  page.attention.sel(layer={induction.layer}, head={induction.head}).isel(query={query}).values")
