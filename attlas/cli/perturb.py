"""attlas perturb: how far predictions move when attention is shaken, loses its largest weights, or is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from attlas.cli.experiment import (
    experiment_arguments,
    experiment_options,
    experiment_progress,
    head_options,
    interval_of,
    read_documents,
    told,
    write,
)
from attlas.cli.output import console, reports_errors, table
from attlas.cli.selection import COUNT, NUMBERS, Parsed
from attlas.parse import parse_numbers

__all__ = ["command"]

SIZES = Parsed("numbers", lambda value: _sizes(value))
OWN = {
    "noise": ("sizes", "draws", "on"), "largest": ("shares", "draws"), "adversarial": ("limit", "steps")
}  # fmt: skip


def _sizes(value: Any) -> tuple[float, ...]:
    given = [float(part) for part in value.split(",")] if isinstance(value, str) else value
    return parse_numbers(given, "sizes", high=1e6)


@click.command("perturb")
@experiment_arguments
@click.option("--largest", "test", flag_value="largest", help="Remove the largest weights, and random ones.")
@click.option("--adversarial", "test", flag_value="adversarial", help="Look for other weights that change nothing.")
@head_options
@click.option("--sizes", type=SIZES, help="Of the noise: standard deviations. [default: 0.1,0.3,1]")
@click.option("--on", type=click.Choice(["scores", "weights"]), help="What the noise is added to. [default: scores]")
@click.option("--draws", type=COUNT, help="Of noise or random weights. [default: 5, or 3 of --largest]")
@click.option("--shares", type=NUMBERS, help="Of each row's weights to remove. [default: 0.02,0.1,0.3]")
@click.option("--limit", type=click.FloatRange(0, 1), help="How far the prediction may move. [default: 0.01]")
@click.option("--steps", type=COUNT, help="Of the search for adversarial weights. [default: 200]")
@experiment_options
@reports_errors
def command(
    model: str,
    inputs: tuple[str, ...],
    test: str | None,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run MODEL over INPUTS with other attention weights, and see how far its predictions move.

    Without further options: noise of several sizes (Jain and Wallace 2019). With --largest: the largest weights of
    each row removed, beside random ones (Serrano and Smith 2019). With --adversarial: weights of the last query that
    are as far as can be found from the model's own and leave its prediction as it is.

    INPUTS are files as of attlas capture, or one atlas, whose documents are taken.

    \b
    Example:
      attlas perturb demo notes.txt
      attlas perturb demo notes.txt --largest --shares 0.05,0.2 --figure largest.png
      attlas perturb demo notes.txt --adversarial --layers -1
    """
    from attlas import experiments

    test = test or "noise"
    others = {name for own in OWN.values() for name in own} - set(OWN[test])
    wrong = next((name for name in sorted(others) if options[name] is not None), None)
    if wrong is not None:
        raise click.UsageError(f"--{wrong} is not of this test: it takes --{', --'.join(OWN[test])}")
    ask = {
        "noise": experiments.perturbation, "largest": experiments.remove_largest, "adversarial": experiments.adversarial
    }[test]  # fmt: skip
    show = {"noise": _show_noise, "largest": _show_largest, "adversarial": _show_adversarial}[test]
    documents = read_documents(inputs)
    with experiment_progress(test, options, shown=not as_json) as given:
        found = ask(model, documents, **given)
    write(found, figure, as_json=as_json, show=show)


def _show_noise(found: Any) -> None:
    attrs, several = found.attrs, found.sizes["document"] > 1
    told(found, f"noise on attention {attrs['on']}, mean of {attrs['draws']} draws")
    interval = [f"{attrs['confidence']:.0%} interval"] if several else []
    loss = {"loss change, nats": "loss_change"} if "loss_change_mean" in found else {}  # classes have none
    columns = {"KL, nats": "kl", "agreement": "agreement"} | loss
    rows = table("size", "robustness", *interval, *columns, right={"size", "robustness", *columns})
    for place, size in enumerate(found["size"].values):
        where = {"size": place}
        mean, span = interval_of(found, "robustness", where)
        more = (interval_of(found, name, where)[0] for name in columns.values())
        rows.add_row(f"{size:g}", mean, *([span] if several else []), *more)
    console().print(rows)
    console().print("robustness: 1 less the total variation distance of the predictions", style="dim")


def _show_largest(found: Any) -> None:
    told(found, f"weights removed from every row, random ones in {found.attrs['draws']} draws: divergence (JS), nats")
    names = {"largest": "largest", "random_mass": "random, as much weight", "random_count": "random, as many"}
    rows = table("share", *names.values(), "flips: largest alone", "random alone",
                 right={"share", *names.values(), "flips: largest alone", "random alone"})  # fmt: skip
    for place, share in enumerate(found["share"].values):
        js = [found.js_mean.isel(share=place).sel(removed=name).item() for name in names]
        flips = [found.flips_mean.isel(share=place).sel(flip=f"{name}_alone").item() for name in ("largest", "random")]
        rows.add_row(f"{share:g}", *(f"{one:.4f}" for one in js), *(f"{one:.1%}" for one in flips))
    console().print(rows)


def _show_adversarial(found: Any) -> None:
    attrs = found.attrs
    told(found, f"other weights of the last query, within {attrs['limit']:g} of the prediction (total variation)")
    js, moved = found.weights_js_mean, found.total_variation_mean.item()
    if float(js.max()) == 0:
        console().print(f"none were found in {attrs['steps']} steps: give --steps, or fewer --layers and --heads")
        return
    mean, most = float(js.mean()), float(js.max())
    layer, head = np.unravel_index(int(js.values.argmax()), js.shape)
    at = f"layer {js['layer'].values[layer]}, head {js['head'].values[head]}"
    console().print(f"mean distance from the model's own weights {mean:.3f} nats, of ln 2 = 0.693 at most")
    console().print(f"farthest {most:.3f} nats, {at}; the prediction moved by {moved:.4f}")
    console().print("")
    rows = table("layer", "mean distance", "farthest head", right={"layer", "mean distance"})
    for place, layer in enumerate(js["layer"].values):
        own = js.values[place]
        rows.add_row(str(layer), f"{own.mean():.3f}", f"{js['head'].values[own.argmax()]}  ({own.max():.3f})")
    console().print(rows)
