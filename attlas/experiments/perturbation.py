"""How far a model's predictions move when its attention is shaken: noise of several sizes, drawn several times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from attlas.engine.edit.edit import Edit
from attlas.engine.passage.documents import Document
from attlas.experiments.asked import Asked, ask_model
from attlas.experiments.difference import MEASURES
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.experiments.unedited import Unedited
from attlas.parse import parse_choice, parse_count, parse_numbers

__all__ = ["perturbation"]

ON = ("scores", "weights")
TAKEN = ("kl", "js", "total_variation", "agreement", "loss_change")
SIZES = (0.1, 0.3, 1.0)
MOST = 1e6
SOURCE = (
    "https://arxiv.org/abs/1902.10186 (Jain and Wallace 2019), by noise; the output's distance is their total variation"
)


def perturbation(
    model: Any,
    texts: Any,
    *,
    sizes: Any = SIZES,
    draws: int = 5,
    on: str = "scores",
    layers: Any = None,
    heads: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """How far a causal model's predictions move under noise on its attention.

    >>> found = attlas.experiments.perturbation("demo", "one two three, one two three.", sizes=[0.1, 2], draws=2)
    >>> bool(found.robustness_mean[0] > found.robustness_mean[1])
    True

    model, texts, options: as of `run`. sizes: standard deviations of the noise, above 0. draws: how many times it is
    drawn anew, of seeds `seed`, `seed` + 1 and so on. on: "scores", in nats before the softmax, or "weights", there
    never below 0 and the row's sum kept. layers, heads: which are shaken, all at once; None for all.

    Of each document and size (document, size), means over draws: kl, js (nats), total_variation (0 to 1), agreement and
    loss_change as of `run`; robustness, 1 - total_variation: 1 where no prediction moves; kl_deviation, the standard
    deviation of kl over draws (NaN of one). With means and intervals over documents. Raises InputError.
    """
    sizes = parse_numbers(sizes, "sizes", low=0.0, high=MOST)
    draws, on, interval = parse_count(draws, "draws"), parse_choice(on, "on", ON), Interval.of(confidence, seed)
    asked = ask_model(model, texts, options, classes=True)
    choice = HeadChoice.of(asked, layers, heads)
    found = ask_each(Shaken(choice=choice, sizes=sizes, draws=draws, on=on, seed=interval.seed), asked)
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        name: (("size",), f"{MEASURES[name][0]}, mean over draws", MEASURES[name][1])
        for name in TAKEN
        if name in found[0]
    }
    variables |= {
        "robustness": (("size",), "1 less the total variation distance of the predictions, mean over draws", "1"),
        "kl_deviation": (("size",), "standard deviation of kl over draws", "nat"),
    }
    size = xr.Variable("size", list(sizes), {"units": "nat" if on == "scores" else "1"})
    return summary(
        asked, found, variables, {"size": size}, interval, question="perturbation", on=on, draws=draws, source=SOURCE
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shaken(Question):
    """Noise on the chosen heads, of every size and draw."""

    name: ClassVar[str] = "perturbation"
    choice: HeadChoice
    sizes: tuple[float, ...]
    draws: int
    on: str
    seed: int

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.sizes)

    def answer(self, answering: Answering) -> Part:
        plain = Unedited(answering.asked, answering.document)
        found = [answering.once(f"size-{size:g}", partial(self._size, plain, size)) for size in self.sizes]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _size(self, plain: Unedited, size: float) -> dict[str, Any]:
        drawn = [plain.difference(plain.logits_with([self._edit(size, draw)])) for draw in range(self.draws)]
        mean = {name: np.mean([one[name] for one in drawn]) for name in TAKEN if name in drawn[0]}
        deviation = np.std([one["kl"] for one in drawn], ddof=1) if self.draws > 1 else np.nan
        return mean | {"robustness": 1 - mean["total_variation"], "kl_deviation": deviation}

    def _edit(self, size: float, draw: int) -> Edit:
        return Edit(
            do="noise", size=size, on=self.on, seed=self.seed + draw, layer=list(self.choice.layers),
            head=list(self.choice.heads),
        )  # fmt: skip
