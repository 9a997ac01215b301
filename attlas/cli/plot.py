"""attlas plot: a picture of an atlas, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attlas.cli.jobs import KINDS
from attlas.cli.output import console, reports_errors, styled
from attlas.cli.selection import COUNT, INDICES, OUTPUT, storage_option

__all__ = ["command"]


class Pictures(click.Command):
    """The command whose help lists the pictures, which are known when it is asked for."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from attlas.plots.pictures import PICTURES

        with formatter.section("Pictures"):
            formatter.write_dl([(name, picture.about) for name, picture in PICTURES.items()])
        super().format_options(ctx, formatter)


@click.command("plot", cls=Pictures)
@click.argument("picture", required=False)
@click.argument("store", required=False)
@click.option("--document", help="The document's id. [default: the only one]")
@click.option("--kind", type=click.Choice(KINDS), help="[default: the first]")
@click.option("--layer", type=int, help="The model's layer index; -1 is the last.")
@click.option("--head", type=int, help="The model's head index; -1 is the last. [default: mean over heads]")
@click.option("--query", "queries", type=INDICES, help="7, 10:20, last:16. [default: all; of text and lines the last]")
@click.option("--key", "keys", type=INDICES, help="As --query. [default: all]")
@click.option("--scale", type=click.Choice(["linear", "log"]), help="Of colours. [default: log for long texts]")
@click.option("--statistic", help="Of layers and boxes, such as entropy.")
@click.option("--method", type=click.Choice(["pca", "mds", "tsne", "umap"]), help="Of heads. [default: pca]")
@click.option("--top", type=COUNT, help="Of graph: so many keys of each query. [default: 3]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Of graph: weights of at least so much.")
@click.option("--mass", type=click.FloatRange(0, 1), help="Of graph: the fewest keys that hold so much of a query.")
@click.option("-o", "--output", type=OUTPUT, help="The file: .png, .pdf, .svg; .gif, .mp4 (film); .html (space).")
@click.option(
    "--storage-option", "storage_options", multiple=True, callback=storage_option, help="key=value for a URL."
)
@reports_errors
def command(
    picture: str | None,
    store: str | None,
    output: Path | None,
    storage_options: dict[str, str] | None,
    **wanted: Any,
) -> None:
    """Draw PICTURE of the atlas STORE into a file.

    \b
    Example:
      attlas plot map book.zarr --layer 3 --head 5 -o map.png
      attlas plot text book.zarr --layer 3 --head 5 --query 120 -o row.svg
      attlas plot grid book.zarr -o heads.png
    """
    from attlas.plots.pictures import PICTURES, draw

    if picture not in PICTURES:
        told = "say which picture" if picture is None else f"there is no picture {picture!r}"
        raise click.UsageError(f"{told}: choose of {', '.join(PICTURES)}")
    if store is None:
        raise click.UsageError(f"say of which atlas: attlas plot {picture} STORE -o FILE")
    import attlas

    path = Path(f"{picture}{PICTURES[picture].endings[0]}") if output is None else output
    draw(attlas.open_atlas(store, storage_options=storage_options), picture, path, **wanted)
    console().print(styled("[bold]{}[/]  {}", path, PICTURES[picture].about))
