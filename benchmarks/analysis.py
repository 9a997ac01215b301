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
import dask.array as da
import numpy as np

import attlas
from attlas.analysis.corpus import find_corpus
from attlas.analysis.survey import Asked, survey_atlas

THRESHOLDS = np.array([0.0001, 0.001, 0.01], dtype=np.float32)
BINS, REACH, BLOCK = 1024, 16, 512


def dense_block(a_HQK: Any, first_row: int, ids: Any, marks: Any, edges: Any) -> dict[str, Any]:
    """Sums of one block of rows of a layer's heads, by numpy alone, on the keys that its rows can see."""
    heads, rows, _ = a_HQK.shape
    keys = first_row + rows
    a = a_HQK[:, :, :keys].astype(np.float32)
    i, j = np.arange(first_row, keys), np.arange(keys)
    visible = j <= i[:, None]
    with np.errstate(divide="ignore"):
        t = np.maximum(np.log2(a), -126)
    entropy = -(a * t).sum(2) * np.log(2)
    bins = np.clip(t * 32 + BINS, 0, BINS - 1).astype(np.int16)
    counts = np.stack([np.bincount(bins[h][visible], minlength=BINS) for h in range(heads)])
    masses = np.stack([np.bincount(bins[h][visible], a[h][visible], minlength=BINS) for h in range(heads)])
    linear = a.reshape(-1, keys) @ np.stack([np.ones(keys), j, j.astype(np.float64) ** 2, marks[:keys]], 1).astype(
        np.float32
    )
    mass, first, second, marked = linear.reshape(heads, rows, 4).transpose(2, 0, 1)
    sums = np.concatenate([np.zeros((heads, rows, 1), np.float32), np.cumsum(a, axis=2)], axis=2)
    near, far = np.clip(i[:, None] + 1 - edges[:-1], 0, None), np.clip(i[:, None] + 1 - edges[1:], 0, None)
    at = lambda place: np.take_along_axis(sums, np.broadcast_to(place, (heads, *place.shape)), 2)  # noqa: E731
    same = (ids[i][:, None] == ids[j]) & (j < i[:, None])
    follows = np.concatenate([np.zeros((rows, 1), bool), same[:, :-1]], 1)
    offsets = np.stack(
        [np.where(i >= d, a[:, np.arange(rows), np.maximum(i - d, 0)], 0).sum(1) for d in range(REACH + 1)], 1
    )
    argmax = i - a.argmax(2)
    flat = a.reshape(heads, -1)
    return {
        "entropy": entropy.sum(1), "entropy2": (entropy**2).sum(1), "support": np.exp(entropy).sum(1),
        "normalised": (entropy[:, i > 0] / np.log(i[i > 0] + 1)).sum(1), "mass": mass.sum(1),
        "squared": np.einsum("hqk,hqk->h", a, a), "maximum": a.max(2).sum(1), "first": a[:, :, 0].sum(1),
        "marked": marked.sum(1), "distance": (i * mass - first).sum(1), "variance": (second - first**2).sum(1),
        "by_distance": (at(near) - at(far)).sum(1), "duplicate": np.einsum("hqk,qk->h", a, same.astype(np.float32)),
        "induction": np.einsum("hqk,qk->h", a, follows.astype(np.float32)), "offsets": offsets,
        "argmax": np.stack([(argmax == d).sum(1) for d in range(REACH + 1)], 1), "counts": counts, "masses": masses,
        "below": np.stack([((a < limit) & visible).sum((1, 2)) for limit in THRESHOLDS], 1),
        "gram": (flat @ flat.T).astype(np.float64),
    }  # fmt: skip


def from_maps(store: Path, document: str, ids: Any, marks: Any, edges: Any) -> dict[str, Any]:
    """The sums of every layer and head from materialised maps, each block read through dask.array."""
    maps = attlas.open_atlas(store).root[f"self/maps/{document}/attention"]
    _, heads, _, keys = maps.shape  # type: ignore[union-attr]
    array = da.from_array(maps, chunks=(1, heads, BLOCK, keys), name=False)  # type: ignore[no-untyped-call]

    def task(block: Any, block_info: Any = None) -> Any:
        first_row = block_info[0]["array-location"][2][0]
        out = np.empty((1, 1, 1, 1), dtype=object)
        out[0, 0, 0, 0] = dense_block(block[0], first_row, ids, marks, edges)
        return out

    found = array.map_blocks(task, dtype=object, chunks=(1, 1, 1, 1)).compute(scheduler="threads")
    names = found[0, 0, 0, 0].keys()
    return {name: np.stack([sum(block[name] for block in layer[0, :, 0]) for layer in found]) for name in names}


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
    edges = np.array([0, *(2**p for p in range(int(np.ceil(np.log2(corpus.rows))) + 1))])
    sample = round(share * corpus.rows)
    results: dict[str, Any] = {}

    def dense() -> None:
        results["maps"] = from_maps(place / "maps.zarr", "text", ids, marks, edges)

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
