"""Known findings about attention, looked for in a model: sinks, the sink metric, induction, and a control without them.

The natural text is English that every Python carries: the topics of its own help.

python benchmarks/science.py sinks MODEL
python benchmarks/science.py induction MODEL
python benchmarks/science.py control MODEL
"""

from __future__ import annotations

import pydoc_data.topics
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr

import attlas
from attlas import analysis
from attlas.analysis.head_probe import repeated_documents
from attlas.engine.model.load import load_model

TOPICS = ("execmodel", "exceptions", "class", "function", "customization", "compound")


def natural_text() -> str:
    return "\n\n".join(pydoc_data.topics.topics[name] for name in TOPICS)


class Reading:
    """A model, and the natural text in its tokens."""

    def __init__(self, model: str) -> None:
        self.loaded = load_model(model, dtype="float32", device="cpu")
        self.vocabulary = int(self.loaded.config.get_text_config().vocab_size)
        self.ids = np.array(self.loaded.tokenizer(natural_text()).input_ids)  # type: ignore[misc]

    def capture(self, documents: dict[str, Any], folder: str, name: str) -> attlas.Atlas:
        ids = [np.asarray(document).tolist() for document in documents.values()]
        return attlas.capture(self.loaded.model, ids, Path(folder) / name, ids=list(documents), overwrite=True)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("model")
@click.option("--count", default=100, show_default=True, help="Texts of each sort, of 64 tokens.")
@click.option("--seed", default=0, show_default=True)
def sinks(model: str, count: int, seed: int) -> None:
    """Sink share by layer on 4,096 tokens, and the sink metric of Gu et al. 2024 on three sorts of text."""
    read = Reading(model)
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(read.ids) - 64, count)
    low = read.vocabulary // 20
    sorts = {
        "natural": [read.ids[start : start + 64] for start in starts],
        "random": list(rng.integers(low, read.vocabulary - low, (count, 64))),
        "repeated": [np.full(64, token) for token in rng.integers(low, read.vocabulary - low, count)],
    }
    with tempfile.TemporaryDirectory() as folder:
        atlas = read.capture({"text": read.ids[:4096]}, folder, "long.zarr")
        share = analysis.statistics(atlas, names=["first_weight"]).first_weight.mean("head")
        click.echo("share of attention on the first token, 4,096 tokens of natural text, by layer")
        click.echo("  " + " ".join(f"{float(value):.2f}" for value in share))
        click.echo("sink metric, T = 64, epsilon = 0.3 (Gu et al. 2024): share of heads, mean over texts")
        for sort, texts in sorts.items():
            found = analysis.sink_metric(read.capture({f"{i}": t for i, t in enumerate(texts)}, folder, f"{sort}.zarr"))
            error = float(found.sink.std()) / np.sqrt(count)
            click.echo(
                f"  {sort:<9} {float(found.sink.mean()):7.2%} ± {error:.2%}   "
                f"mean weight {float(found['first'].mean()):.3f}"
            )


@main.command()
@click.argument("model")
@click.option("--top", default=6, show_default=True)
@click.option("--seed", default=0, show_default=True)
def induction(model: str, top: int, seed: int) -> None:
    """Heads by the probe of 2 x 100 random ids, twice, and by 4,096 tokens of natural text, and how far they agree."""
    read = Reading(model)
    probe = analysis.probe_heads(read.loaded.model, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        roles = analysis.head_roles(read.capture({"text": read.ids[:4096]}, folder, "long.zarr"))
        for name in ("previous", "duplicate", "induction"):
            on_probe, on_text = probe[name].values, roles.role_score.sel(role=name).values
            baseline = float(roles.role_baseline.sel(role=name).mean())
            click.echo(
                f"{name}: evenly spread {float(probe[f'{name}_baseline']):.3f} on the probe, {baseline:.3f} on the text"
            )
            click.echo(f"  probe {best(on_probe, probe, top)}")
            click.echo(f"  text  {best(on_text, probe, top)}")
            both = len(set(order(on_probe)[:top]) & set(order(on_text)[:top]))
            click.echo(f"  {both} of {top} in both; rank correlation {rank_correlation(on_probe, on_text):.2f}")
        prefix = probe.prefix_matching.values
        click.echo(
            f"prefix matching (Olsson et al. 2022; evenly {float(probe.prefix_matching_baseline):.3f}): "
            f"{best(prefix, probe, top)}"
        )


@main.command()
@click.argument("model")
@click.option("--length", default=100, show_default=True)
@click.option("--count", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
def control(model: str, length: int, count: int, seed: int) -> None:
    """The same scores where there is nothing to find: the second repeat shuffled, and a text out of order."""
    read = Reading(model)
    rng = np.random.default_rng(seed)
    repeated = repeated_documents(read.vocabulary, length=length, count=count, seed=seed)
    shuffled = [np.concatenate([d[:length], rng.permutation(d[length:])]) for d in repeated]
    with tempfile.TemporaryDirectory() as folder:
        atlas = read.capture(
            {f"whole-{i}": d for i, d in enumerate(repeated)} | {f"shuffled-{i}": d for i, d in enumerate(shuffled)},
            folder, "probe.zarr",
        )  # fmt: skip
        click.echo(
            "largest head's mean weight on the diagonal, second repeat as it was | shuffled "
            f"({count} x {length} random ids)"
        )
        for name, offset in (("duplicate", length), ("induction", length - 1)):
            whole, mixed = (
                np.mean([diagonal(atlas[f"{sort}-{i}"], offset) for i in range(count)], axis=0)
                for sort in ("whole", "shuffled")
            )
            head = np.unravel_index(int(whole.argmax()), whole.shape)
            click.echo(f"  {name:<10} {whole.max():.3f} | {mixed.max():.3f} (that head: {mixed[head]:.3f})")
        text = read.ids[:1024]
        order_ = rng.permutation(len(text))
        mixed_text = text[order_]
        place = np.argsort(order_)  # where each token of the text stands in the mixed one
        atlas = read.capture({"text": text, "mixed": mixed_text}, folder, "text.zarr")
        follows, moved = np.arange(1, len(text)), place[1:]
        before = place[:-1]
        seen = before < moved
        whole = pairs(atlas["text"], follows, follows - 1)
        mixed = pairs(atlas["mixed"], moved[seen], before[seen])
        head = np.unravel_index(int(whole.argmax()), whole.shape)
        click.echo("mean weight on the token that comes before in the text, in order | out of order (1,024 tokens)")
        click.echo(f"  previous   {whole.max():.3f} | {mixed.max():.3f} (that head: {mixed[head]:.3f})")
        repeats = repeats_of(text)
        whole = pairs(atlas["text"], repeats[:, 0], repeats[:, 1] + 1)
        keys, queries = place[repeats[:, 1] + 1], place[repeats[:, 0]]
        seen = keys < queries
        mixed = pairs(atlas["mixed"], queries[seen], keys[seen])
        head = np.unravel_index(int(whole.argmax()), whole.shape)
        click.echo(
            "mean weight on what followed the last copy of a repeated run of three tokens, in order | out of order"
        )
        click.echo(f"  induction  {whole.max():.3f} | {mixed.max():.3f} (that head: {mixed[head]:.3f})")


def repeats_of(ids: Any, run: int = 3) -> Any:
    """(n, 2): tokens that end a run of `run` tokens seen before, and the end of that run's last earlier copy."""
    last: dict[tuple[int, ...], int] = {}
    found = []
    for i in range(run - 1, len(ids)):
        key = tuple(ids[i - run + 1 : i + 1])
        if key in last:
            found.append((i, last[key]))
        last[key] = i
    return np.array(found)


def pairs(page: xr.Dataset, queries: Any, keys: Any) -> Any:
    """(layer, head): mean weight over (query, key) pairs."""
    layers = [page.attention.sel(layer=layer).values for layer in page["layer"].values]
    return np.array([a[:, queries, keys].mean(axis=1, dtype=np.float64) for a in layers])


def diagonal(page: xr.Dataset, offset: int) -> Any:
    rows = np.arange(offset, page.sizes["query"])
    return pairs(page, rows, rows - offset)


def order(scores: Any) -> list[int]:
    return [int(i) for i in np.argsort(-scores.ravel(), kind="stable")]


def best(scores: Any, labels: xr.Dataset, count: int) -> str:
    heads = len(labels["head"])
    return "  ".join(
        f"{labels['layer'].values[i // heads]}.{labels['head'].values[i % heads]} {scores.ravel()[i]:.2f}"
        for i in order(scores)[:count]
    )


def rank_correlation(one: Any, other: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one.ravel(), other.ravel()).statistic)


if __name__ == "__main__":
    main()
