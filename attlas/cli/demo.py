"""attlas demo: the embedded model, captured, its heads named, a row of weights shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.capture import summary
from attlas.cli.heatmap import label, print_row
from attlas.cli.output import console, human_bytes, print_json, reports_errors
from attlas.cli.progress import capture_progress

__all__ = ["command"]

TEXT = (
    "Xq7 vRt-90z lkW;pE# mYb2. The lamp went out twice. "
    "Again: Xq7 vRt-90z lkW;pE# mYb2. The lamp went out twice. "
    "Once more: Xq7 vRt-90z lkW;pE# mYb2."
)
DOCUMENT = "demo"
CONTEXT = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The head with the largest score; baseline: the score of attention spread evenly over the visible keys."""

    layer: int
    head: int
    score: float
    baseline: float


@click.command("demo")
@click.option("--store", default="demo.zarr", show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@reports_errors
def command(store: Path, as_json: bool) -> None:
    """Capture the small embedded model, name its strongest heads, and show what one of them looks at.

    Needs no network. An atlas already at --store is replaced.

    \b
    Example:
      attlas demo
    """
    import attlas

    begin = time.perf_counter()
    with capture_progress("demo", shown=not as_json) as progress:
        atlas = attlas.capture("demo", TEXT, store, ids=[DOCUMENT], overwrite=True, progress=progress)
    page = atlas[DOCUMENT]
    told = summary(atlas, str(store), time.perf_counter() - begin, progress.last)
    previous, induction = previous_token_leader(page), induction_leader(page)
    query, earlier = _telling_query(page, induction)
    if as_json:
        found = {
            name: {"layer": h.layer, "head": h.head, "score": h.score, "uniform_baseline": h.baseline}
            for name, h in (("previous_token", previous), ("induction", induction))
        }
        print_json(told | {"heads": found, "query": query})
        return
    _show(page, told, previous, induction, query, earlier)


def previous_token_leader(page: Any) -> Leader:
    """Mean weight on the token before the query, over all queries but the first two (their keys leave no choice)."""
    rows = np.arange(2, page.sizes["query"])
    return _leader(page, "previous_weight", rows, float(np.mean(1 / (rows + 1))))


def induction_leader(page: Any) -> Leader:
    """Mean weight on tokens that follow an earlier copy of the query's token, over the queries that have one."""
    ids = page.query_token_id.values
    followers = [(ids[:i] == ids[i]).sum() for i in range(len(ids))]
    rows = np.flatnonzero(np.array(followers) > 0)
    return _leader(page, "induction_weight", rows, float(np.mean([followers[i] / (i + 1) for i in rows])))


def _leader(page: Any, statistic: str, rows: Any, baseline: float) -> Leader:
    score = page[statistic].isel(query=rows).mean("query").load()
    layer, head = np.unravel_index(int(score.values.argmax()), score.shape)
    return Leader(
        layer=int(page["layer"].values[layer]), head=int(page["head"].values[head]),
        score=float(score.values[layer, head]), baseline=baseline,
    )  # fmt: skip


def _telling_query(page: Any, induction: Leader) -> tuple[int, int]:
    """A query that looks at what followed an earlier copy of its token, and where that copy is.

    Of the queries that give the head's most to such a key, the one whose text repeats for longest.
    """
    ids = page.query_token_id.values
    row = page[["max_weight", "argmax_key"]].sel(layer=induction.layer, head=induction.head).load()
    best = (0.0, 0, 0, 0)
    for query, (weight, key) in enumerate(zip(row.max_weight.values, row.argmax_key.values.astype(int), strict=True)):
        earlier = int(key) - 1
        length = 0
        while length <= min(earlier, CONTEXT) and ids[earlier - length] == ids[query - length]:
            length += 1
        if 0 <= earlier < query and length:
            best = max(best, (round(float(weight), 1), length, query, earlier))
    return best[2], best[3]


def _show(page: Any, told: dict[str, Any], previous: Leader, induction: Leader, query: int, earlier: int) -> None:
    out = console()
    layers, heads = page.sizes["layer"], page.sizes["head"]
    out.print(
        f"[bold]attlas demo[/]  {layers} layers x {heads} heads over {told['tokens']} tokens, "
        f"{told['capture_seconds']:.2f} s, {human_bytes(told['bytes'])} in [bold]{told['store']}[/]\n"
    )
    out.print("[dim]head                      place             score   uniform attention[/]")
    for name, found in (("previous token", previous), ("induction", induction)):
        place = f"layer {found.layer}, head {found.head}"
        out.print(f"[bold]{name:<24}[/]  {place:<16}  {found.score:5.2f}   [dim]{found.baseline:5.2f}[/]")
    tokens = [str(t) for t in page.query_token.values]
    text = "".join(label(t, 5) for t in tokens[max(0, query - CONTEXT) : query + 1])
    copy = "".join(label(t, 5) for t in tokens[max(0, earlier - CONTEXT) : earlier + 2])
    out.print(f"\nAt position {query} the text reads [bold]{text}[/]")
    out.print(f"and earlier, at {earlier}, it read  [bold]{copy}[/]")
    out.print(f"so the induction head (layer {induction.layer}, head {induction.head}) looks at what followed then:\n")
    print_row(out, page.attention.sel(layer=induction.layer, head=induction.head).isel(query=query).load())
    out.print("\nOpen it from Python:\n")
    out.print("  import attlas")
    out.print(f'  page = attlas.open_atlas("{told["store"]}")["{DOCUMENT}"]', markup=False)
    out.print(
        f"  page.attention.sel(layer={induction.layer}, head={induction.head}).isel(query={query}).values", markup=False
    )
