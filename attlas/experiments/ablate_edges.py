"""Attention knockout: the path from some keys to some queries cut, layer by layer, and what the model then says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from attlas.engine.edit.edit import RENORMALISE, Edit
from attlas.engine.edit.places import Places, parse_places
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.answers import parse_answers
from attlas.experiments.asked import Asked, ask_model
from attlas.experiments.difference import MEASURES, Answer
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.experiments.unedited import Unedited
from attlas.parse import parse_choice, parse_count

__all__ = ["ablate_edges"]

EACH = {"layer": ("layer",), "head": ("layer", "head")}
SOURCE = "https://arxiv.org/abs/2304.14767 (Geva et al. 2023, section 4)"


def ablate_edges(
    model: Any,
    texts: Any,
    queries: Any,
    keys: Any,
    *,
    each: str = "layer",
    window: int = 1,
    layers: Any = None,
    heads: Any = None,
    renormalise: str = "scores",
    answers: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """What a causal model says where some queries no longer attend to some keys, in one layer after the other.

    >>> found = attlas.experiments.ablate_edges("demo", "one two three, one two", "last:1", "0:3")
    >>> found.kl_last.dims, bool((found.kl_last > 0).all())
    (('document', 'layer'), True)

    model, texts, answers, options: as of `run`. queries, keys: positions in a document, {"tokens": ["Paris"]}, or
    "special", "not_special", "first", "not_first", as of `attlas.Edit`. each: what is cut at a time: "layer", all
    chosen heads of `window` neighbouring chosen layers around it, or "head", one head of it. layers, heads: the
    model's indices; None for all. renormalise: what becomes of the rest of the row, as of `attlas.Edit`.

    kl, kl_last, js (nats), total_variation, agreement, loss_change and, with answers, logit_difference (document,
    layer[, head]), all as of `run`; and each of them `..._together`, (document), with the edges cut in all chosen
    layers and heads at once; loss_unedited, logit_difference_unedited (document). With means and intervals over
    documents. Raises InputError where a document has no such places.
    """
    each, window = parse_choice(each, "each", tuple(EACH)), parse_count(window, "window")
    renormalise, interval = parse_choice(renormalise, "renormalise", RENORMALISE), Interval.of(confidence, seed)
    of = parse_places(queries, "queries"), parse_places(keys, "keys")
    if of == (None, None):
        raise InputError("all edges are of every query and key: give queries, keys, or both")
    if each == "head" and window > 1:
        raise InputError("a window is of layers: leave it out where heads are cut one by one")
    asked = ask_model(model, texts, options)
    choice = HeadChoice.of(asked, layers, heads)
    question = Edges(
        choice=choice, each=each, window=window, renormalise=renormalise, queries=of[0], keys=of[1],
        answers=parse_answers(answers, asked),
    )  # fmt: skip
    found = ask_each(question, asked)
    dims = EACH[each]
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {}
    for name, (long_name, units) in MEASURES.items():
        if name in found[0]:
            variables[name] = (() if name.endswith("unedited") else dims), long_name, units
        if f"{name}_together" in found[0]:
            variables[f"{name}_together"] = (), f"{long_name}, in all layers and heads at once", units
    coords = {name: list(getattr(choice, f"{name}s")) for name in dims}
    told = {"queries": _said(of[0]), "keys": _said(of[1]), "window": window, "renormalise": renormalise}
    return summary(
        asked, found, variables, coords, interval, question="ablate_edges", each=each, source=SOURCE, **told
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edges(Question):
    """Edges of queries and keys, cut in each layer or head of a choice."""

    name: ClassVar[str] = "ablate_edges"
    choice: HeadChoice
    each: str
    window: int
    renormalise: str
    queries: Places | None
    keys: Places | None
    answers: dict[str, Answer]

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.choice.layers) + 1

    def answer(self, answering: Answering) -> Part:
        plain = Unedited(answering.asked, answering.document)
        together = answering.once("together", partial(self._cut, plain, self.choice.layers, self.choice.heads))
        found = [
            answering.once(f"layer-{layer}", partial(self._layer, plain, place))
            for place, layer in enumerate(self.choice.layers)
        ]
        same = [name for name in together if name.endswith("unedited")]
        several = [name for name in together if name in MEASURES and name not in same]
        return {
            **{name: np.stack([one[name] for one in found]) for name in several},
            **{f"{name}_together": together[name] for name in several},
            **{name: together[name] for name in same},
        }

    def _layer(self, plain: Unedited, place: int) -> Part:
        layers, heads = self.choice.layers, self.choice.heads
        if self.each == "layer":
            first = max(0, place - (self.window - 1) // 2)
            return self._cut(plain, layers[first : place + self.window // 2 + 1], heads)
        one_by_one = [self._cut(plain, layers[place : place + 1], [head]) for head in heads]
        return {name: np.stack([one[name] for one in one_by_one]) for name in one_by_one[0]}

    def _cut(self, plain: Unedited, layers: Any, heads: Any) -> Part:
        edit = Edit(
            do="knock_out", layer=list(layers), head=list(heads), query=self.queries, key=self.keys,
            renormalise=self.renormalise,
        )  # fmt: skip
        found = plain.difference(plain.logits_with([edit]), self.answers.get(plain.document.id))
        return {name: value for name, value in found.items() if name in MEASURES}


def _said(places: Places | None) -> str:
    return "all" if places is None else str(places.to_json())
