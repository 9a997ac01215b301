"""attlas compare: two heads, layers, documents, or models on one text, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.jobs import KINDS
from attlas.cli.output import console, print_json, reports_errors, styled, table
from attlas.cli.selection import COUNT, FIGURE, storage_option
from attlas.readable import token_label

__all__ = ["command"]


@click.command("compare")
@click.argument("store")
@click.argument("other_store", required=False)
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--other-document", help="Of the other side. [default: the same]")
@click.option("--layer", type=int, help="The model's layer index. [default: all]")
@click.option("--other-layer", type=int, help="Of the other side. [default: the same]")
@click.option("--head", type=int, help="The model's head index. [default: all]")
@click.option("--other-head", type=int, help="Of the other side. [default: the same]")
@click.option("--kind", type=click.Choice(KINDS), help="[default: the first]")
@click.option("--top", type=COUNT, default=12, show_default=True, help="Changes to print, the largest first.")
@click.option("--figure", type=FIGURE, help="Draw the differences of one head: .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    store: str,
    other_store: str | None,
    top: int,
    figure: Path | None,
    as_json: bool,
    storage_options: dict[str, str] | None,
    kind: str | None,
    **sides: Any,
) -> None:
    """Tell how far apart two attentions are, and where they differ most.

    The other side is of STORE, or of OTHER_STORE: another model or checkpoint over the same text. What is not said of
    it is as on the first side. Texts that differ are aligned by their tokens.

    \b
    Example:
      attlas compare book.zarr --layer 3 --head 5 --other-head 6
      attlas compare base.zarr tuned.zarr
      attlas compare poems.zarr --document blake --other-document keats
    """
    import attlas
    from attlas import analysis, plots

    one = attlas.open_atlas(store, storage_options=storage_options)
    other = one if other_store is None else attlas.open_atlas(other_store, storage_options=storage_options)
    given = {name: value for name, value in sides.items() if not name.startswith("other_")}
    theirs = {name: value if (value := sides[f"other_{name}"]) is not None else given[name] for name in given}
    if other_store is None and given == theirs:
        raise click.UsageError("both sides are the same: give OTHER_STORE, --other-document, --other-layer, ...")
    found = analysis.compare(_side(one, kind, **given), _side(other, kind, **theirs), top=top)
    if figure is not None:
        if "difference" not in found:
            raise click.UsageError("--figure is of one head: give --layer and --head")
        plots.save(plots.heatmap(found.difference), figure)
    if as_json:
        print_json(_json(found))
        return
    _show(store, other_store, found)


def _side(atlas: Any, kind: str | None, *, document: str | None, layer: int | None, head: int | None) -> Any:
    from attlas.storage.tile import existing_label, only_document

    document = only_document(atlas) if document is None else document
    attention = atlas.attention(document, atlas.kinds[0] if kind is None else kind)
    for dim, index in (("layer", layer), ("head", head)):
        if index is not None:
            attention = attention.sel({dim: existing_label(attention, dim, index)})
    return attention


def _show(store: str, other_store: str | None, found: Any) -> None:
    out, told = console(), found.attrs
    names = [store, other_store or store]
    documents = [told["document_id_one"], told["document_id_other"]]
    out.print(styled("[bold]{}[/] {}  and  [bold]{}[/] {}", names[0], documents[0], names[1], documents[1]))
    aligned = f"{told['aligned']:,} of {told['queries']:,}"
    out.print(styled("[dim]{} queries aligned by their tokens[/]\n", aligned))
    distance, moved = found.distance, found.variation
    if distance.size == 1:
        out.print(f"Jensen-Shannon distance {distance.item():.3f}, weight that moved {moved.item():.1%}")
    else:
        rows = table("layer", "distance", "weight that moved", "farthest head", right={"layer", "distance"})
        for i, layer in enumerate(found["layer"].values):
            farthest = int(distance.values[i].argmax())
            head = f"{found['head'].values[farthest]}  ({distance.values[i, farthest]:.3f})"
            rows.add_row(str(layer), f"{distance.values[i].mean():.3f}", f"{moved.values[i].mean():.1%}", head)
        out.print(rows)
    out.print("")
    rows = table("change", "layer", "head", "query", "", "key", "", right={"change", "layer", "head", "query", "key"})
    for i, change in enumerate(found.change.values):
        place = {name: found[f"change_{name}"].values[i] for name in ("layer", "head", "query", "key")}
        tokens = [
            token_label(str(found[f"change_{dim}_token"].values[i]), 12) if f"change_{dim}_token" in found else ""
            for dim in ("query", "key")
        ]
        rows.add_row(
            f"{change:+.3f}", str(place["layer"]), str(place["head"]),
            str(place["query"]), tokens[0], str(place["key"]), tokens[1],
        )  # fmt: skip
    out.print(rows)


def _json(found: Any) -> dict[str, Any]:
    names = [str(name) for name in found.data_vars if str(name).startswith("change")]
    return {
        **found.attrs,
        "layer": found["layer"].values.tolist(),
        "head": found["head"].values.tolist(),
        "distance": found.distance.values.tolist(),
        "variation": found.variation.values.tolist(),
        "changes": [
            {name.removeprefix("change_"): np.asarray(found[name].values[i]).item() for name in names}
            for i in range(found.sizes["rank"])
        ],
    }
