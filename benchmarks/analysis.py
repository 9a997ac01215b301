"""Statistics and diversity of every head from factors, exact and sampled, against materialised float16 maps.

The maps are read through dask.array, and the same computed with numpy functions. One document; interleaved; median of
the repeats.

python benchmarks/analysis.py MODEL TEXT.txt --tokens 4096 --sample 5% --repeats 3 --folder SCRATCH
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import attlas
from attlas.analysis.survey import Asked, survey_atlas
from attlas.bench.dense import dense_maps, distance_edges
from attlas.jobs.corpus import find_corpus


@click.command(help=__doc__)
@click.argument("model")
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tokens", default=4096, show_default=True)
@click.option("--sample", default=0.05, show_default=True, help="Share of the rows in the sample.")
@click.option("--repeats", default=3, show_default=True)
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Keeps the atlases; made where missing."
)
def main(model: str, text: Path, tokens: int, sample: float, repeats: int, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        for keep in ("factors", "maps"):
            if not (place / f"{keep}.zarr").exists():
                attlas.capture(
                    model, [text.read_text(encoding="utf-8")], place / f"{keep}.zarr", keep=keep, ids=["text"],
                    max_tokens=tokens, dtype="float32",
                )  # fmt: skip
        compare(place, sample, repeats)


def compare(place: Path, share: float, repeats: int) -> None:
    atlas = attlas.open_atlas(place / "factors.zarr")
    corpus = find_corpus(atlas)
    ids = atlas.column("tokens/text/token_id")[: corpus.rows]
    marks = np.isin(ids, corpus.separators)
    edges = distance_edges(corpus.rows)
    sample = round(share * corpus.rows)
    results: dict[str, Any] = {}

    def dense() -> None:
        maps: Any = attlas.open_atlas(place / "maps.zarr").root["self/maps/text/attention"]
        results["maps"] = dense_maps(maps, ids, marks, edges)

    def survey(rows: int | None) -> Callable[[], None]:
        def run() -> None:
            # one survey gives statistics and similarities; pairs of heads of different layers are another question
            results[f"factors {rows}"] = survey_atlas(atlas, Asked(sample=rows), save=False)

        return run

    runs = {
        "maps through dask.array and numpy": dense,
        "factors, exact": survey(None),
        "factors, sampled": survey(sample),
    }
    for rows in (None, sample):
        survey(rows)()  # compiles
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        click.echo(f"{name:<34} {middle[name]:8.2f} s  ({min(found):.2f} to {max(found):.2f})")
    slow, exact, quick = middle.values()
    click.echo(
        f"exact from factors is {slow / exact:.1f} x faster than maps; "
        f"{share:.0%} of rows {exact / quick:.1f} x faster than exact"
    )
    check(results, corpus.rows, sample)


def check(results: dict[str, Any], rows: int, sample: int) -> None:
    """That all three tell the same: float16 maps to their rounding, the sample within its interval."""
    maps, exact, sampled = results["maps"], results["factors None"], results[f"factors {sample}"]
    ends = np.arange(1, rows + 1).sum()
    told = {
        "entropy": maps["entropy"] / rows, "effective_support": maps["support"] / rows,
        "mean_distance": maps["distance"] / rows, "first_share": maps["first"] / rows,
        "position_variance": maps["variance"] / rows, "row_max": maps["maximum"] / rows,
        "std_weight": np.sqrt(maps["squared"] / ends - (maps["mass"] / ends) ** 2),
    }  # fmt: skip
    for name, value in told.items():
        worst = float(np.abs(value / exact[name].values - 1).max())
        inside = float(((sampled[f"{name}_low"] <= exact[name]) & (exact[name] <= sampled[f"{name}_high"])).mean())
        click.echo(f"{name:<18} maps against factors within {worst:.1e} relative; interval holds {inside:.1%} of heads")
    norm = np.sqrt(np.diagonal(maps["gram"], axis1=1, axis2=2))
    cosine = maps["gram"] / (norm[:, :, None] * norm[:, None, :])
    click.echo(f"similarity         maps against factors within {np.abs(cosine - exact.similarity.values).max():.1e}")


if __name__ == "__main__":
    main()
