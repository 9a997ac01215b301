"""Is the largest weight the important one? Predictions without the largest weights, and without random ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from attlas.engine.edit.edit import Edit
from attlas.engine.edit.places import Places, parse_places
from attlas.engine.passage.documents import Document
from attlas.experiments.asked import Asked, ask_model
from attlas.experiments.difference import MEASURES
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.experiments.unedited import Unedited
from attlas.parse import parse_count, parse_numbers

__all__ = ["remove_largest"]

TAKEN = ("js", "kl", "total_variation", "agreement", "loss_change")
REMOVED = ("largest", "random_mass", "random_count")
FLIPS = ("largest_alone", "random_alone", "both", "neither")
SHARES = (0.02, 0.1, 0.3)
SOURCE = "https://arxiv.org/abs/1906.03731 (Serrano and Smith 2019, sections 4 and 5)"


def remove_largest(
    model: Any,
    texts: Any,
    *,
    shares: Any = SHARES,
    draws: int = 3,
    layers: Any = None,
    heads: Any = None,
    queries: Any = None,
    keys: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """What a causal model says without its largest attention weights, beside removing random ones.

    >>> found = attlas.experiments.remove_largest("demo", "one two three, one two three.", shares=[0.3], draws=1)
    >>> found.js.dims, found.removed.values.tolist()
    (('document', 'share', 'removed'), ['largest', 'random_mass', 'random_count'])

    model, texts, options: as of `run`. shares: parts, 0 to 1, of the weights that each row sees. draws: how many times
    random ones are drawn anew, from `seed` on. layers, heads: the model's indices, of all of which weights are removed
    at once; None for all. queries, keys: places as of `attlas.Edit`; None for all. What is left of a row keeps its sum.

    removed: "largest", the largest weights of each row; "random_mass", as much weight in random order; "random_count",
    as many random weights. js, kl (nats), total_variation, agreement, loss_change (document, share, removed): as of
    `run`, means over draws. flips (document, share, flip): share of positions whose likeliest token changes without
    the largest weights alone, without as many random ones alone (mean over draws), with both, with neither. With means
    and intervals over documents. Raises InputError.
    """
    shares, draws = parse_numbers(shares, "shares"), parse_count(draws, "draws")
    of, interval = (parse_places(queries, "queries"), parse_places(keys, "keys")), Interval.of(confidence, seed)
    asked = ask_model(model, texts, options, classes=True)
    choice = HeadChoice.of(asked, layers, heads)
    question = Removed(
        choice=choice, shares=shares, draws=draws, queries=of[0], keys=of[1], seed=interval.seed
    )  # fmt: skip
    found = ask_each(question, asked)
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        name: (("share", "removed"), *MEASURES[name]) for name in TAKEN if name in found[0]
    }
    variables["flips"] = ("share", "flip"), "share of positions whose likeliest token changes", "1"
    coords = {"share": list(shares), "removed": list(REMOVED), "flip": list(FLIPS)}
    return summary(
        asked, found, variables, coords, interval, question="remove_largest", draws=draws, source=SOURCE
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Removed(Question):
    """Weights of the chosen heads removed, of every share, in each of three ways."""

    name: ClassVar[str] = "remove_largest"
    choice: HeadChoice
    shares: tuple[float, ...]
    draws: int
    queries: Places | None
    keys: Places | None
    seed: int

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.shares)

    def answer(self, answering: Answering) -> Part:
        plain = Unedited(answering.asked, answering.document)
        found = [answering.once(f"share-{share:g}", partial(self._share, plain, share)) for share in self.shares]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _share(self, plain: Unedited, share: float) -> dict[str, Any]:
        largest = self._without(plain, do="drop_top", share=share)
        seeds = [self.seed + draw for draw in range(self.draws)]
        mass, count = (
            [self._without(plain, do="drop_random", share=share, match=match, seed=seed) for seed in seeds]
            for match in ("mass", "count")
        )
        means = {
            name: np.array([largest[name], *(np.mean([one[name] for one in some]) for some in (mass, count))])
            for name in TAKEN
            if name in largest
        }
        flips = np.mean([_flips(largest["flipped"], one["flipped"]) for one in count], axis=0)
        return means | {"flips": flips}

    def _without(self, plain: Unedited, **how: Any) -> Part:
        edit = Edit(
            layer=list(self.choice.layers), head=list(self.choice.heads), query=self.queries, key=self.keys, **how
        )  # fmt: skip
        return plain.difference(plain.logits_with([edit]))


def _flips(largest_P: Any, random_P: Any) -> list[float]:
    """Of FLIPS, the share of positions."""
    return [
        float(one.mean())
        for one in (
            largest_P & ~random_P, ~largest_P & random_P, largest_P & random_P, ~largest_P & ~random_P
        )
    ]  # fmt: skip
