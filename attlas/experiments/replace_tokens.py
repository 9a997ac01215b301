"""Which tokens does the prediction need? Each is left out or replaced in turn, and the model asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from attlas.engine.edit.places import Places, parse_places
from attlas.engine.listeners.keep import KeepingRow
from attlas.engine.model.head import vocabulary_of
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.aligned import Rows, prediction_change
from attlas.experiments.answers import parse_answers
from attlas.experiments.asked import Asked, ask_model, ask_texts, refuse_predicted
from attlas.experiments.difference import Answer
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.replacement import parse_replacement
from attlas.experiments.unedited import Unedited
from attlas.parse import parse_choice, parse_count, parse_seed

__all__ = ["replace_tokens"]

BY = ("delete", "mask", "random", "token")
TOGETHER = 16
"""Tokens of a part that is kept."""
MEASURED = {
    "kl_last": ("divergence of the prediction behind the last token", "nat"),
    "kl": ("divergence of the predictions behind the token, mean", "nat"),
    "total_variation": ("total variation distance of the predictions behind the token, mean", "1"),
    "flips": ("share of draws in which the likeliest next token is another", "1"),
    "variation": ("share of the last row's weight that lies on other keys, mean over layers and heads", "1"),
}
SOURCE = "https://arxiv.org/abs/1612.08220 (Li et al. 2016, erasure)"


def replace_tokens(
    model: Any,
    texts: Any,
    *,
    by: str = "delete",
    token: Any = None,
    places: Any = "not_special",
    draws: int = 5,
    answers: Any = None,
    layers: Any = None,
    heads: Any = None,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """How far the prediction moves where one token is left out or replaced, token by token, the largest first.

    >>> found = attlas.experiments.replace_tokens("demo", "one two three, one two")
    >>> found.kl_last.dims, bool((found.kl_last.diff("rank") <= 0).all())
    (('rank',), True)

    model, texts, options: as of `run`. by: "delete"; "mask", the tokenizer's mask token, or unknown token where it has
    no mask; "random", `draws` tokens drawn from the vocabulary without special ones, of seeds `seed`, `seed` + 1 and so
    on; or "token", the one that `token` names, as text or as token id. places: which tokens, as of `attlas.Edit`; the
    last one stays, as the prediction behind it is what is compared. answers: of each document a pair of tokens, whose
    logits behind the last token are compared. layers, heads: whose attention is compared; None for all.

    Over all documents and tokens, by falling kl_last (rank): document, position and token, as coordinates; means over
    draws of kl_last, the divergence of the prediction behind the last token, kl and total_variation, means over the
    predictions behind the token, nats; flips, the share of draws where the likeliest next token is another; variation,
    the share of the last row's weight that lies on other keys, half the sum of |changed - own| (of a deleted token its
    whole weight), mean over heads, and variation_by_layer (rank, layer); kl_deviation, over draws of kl_last, NaN of
    one; and with `answers` logit_difference_change. One run a token and draw. Raises InputError.

    Source: Li et al. 2016 (erasure), https://arxiv.org/abs/1612.08220.
    """
    by, seed = parse_choice(by, "by", BY), parse_seed(seed)
    draws = parse_count(draws, "draws") if by == "random" else 1
    where = parse_places(places, "places")
    asked = ask_model(model, texts, options)
    refuse_predicted(asked, "replace_tokens compares those behind each token")
    choice, of = HeadChoice.of(asked, layers, heads), parse_answers(answers, asked)
    question = Replaced(
        choice=choice, given=parse_replacement(by, token, asked), places=where, draws=draws, seed=seed, answers=of
    )  # fmt: skip
    counts = [len(question.at(asked, document)) for document in asked.documents]
    parts = ask_each(question, asked)
    named = np.repeat([document.id for document in asked.documents], counts)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(-found["kl_last"], kind="stable")
    texts_of = [document.tokens["text"].text for document in asked.documents]
    tokens = [text[at] for text, part in zip(texts_of, parts, strict=True) for at in part["position"]]
    measured = dict(MEASURED) | {"kl_deviation": ("standard deviation of kl_last over draws", "nat")}
    if of:
        measured["logit_difference_change"] = "change of the logit of the right less the wrong answer", "1"
    layer_units = {"long_name": MEASURED["variation"][0].replace("layers and heads", "heads"), "units": "1"}
    return xr.Dataset(
        {
            **{name: ("rank", found[name][order], {"long_name": long_name, "units": units})
               for name, (long_name, units) in measured.items()},
            "variation_by_layer": (("rank", "layer"), found["by_layer"][order], layer_units),
        },
        {
            "rank": np.arange(len(order)), "document": ("rank", named[order]),
            "position": ("rank", found["position"][order]), "token": ("rank", np.array(tokens)[order]),
            "layer": list(choice.layers),
        },
        {
            "question": "replace_tokens", "model": asked.loaded.identity.name, "by": by, "draws": draws, "seed": seed,
            "documents": len(counts), "source": SOURCE,
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replaced(Question):
    """given: the id of what is put in, or "delete" or "random"."""

    name: ClassVar[str] = "replace_tokens"
    choice: HeadChoice
    given: int | str
    places: Places | None
    draws: int
    seed: int
    answers: dict[str, Answer]

    def told(self) -> dict[str, Any]:
        return Question.told(self) | {"places": None if self.places is None else self.places.to_json()}

    def at(self, asked: Asked, document: Document) -> list[int]:
        """The places of a document that are replaced. Raises InputError where there is none."""
        tokens = document.tokens["text"]
        inside_T = np.ones(len(tokens), dtype=bool)
        if self.places is not None:
            texts = None if asked.loaded.tokenizer is None else asked.texts
            inside_T = self.places.within(document.id, tokens.ids.astype(np.int64), tokens.special, texts)
        inside_T[-1] = False
        at = [int(place) for place in np.flatnonzero(inside_T) if int(tokens.ids[place]) != self.given]
        if self.given == "delete" and len(tokens) == 2:
            at = []
        if not at:
            raise InputError(
                f"no token of document {document.id!r} can be replaced: places must name one before the last that is "
                "not what is put in its place"
            )
        return at

    def parts(self, asked: Asked, document: Document) -> int:
        return -(-len(self.at(asked, document)) // TOGETHER)

    def answer(self, answering: Answering) -> Part:
        at = self.at(answering.asked, answering.document)
        one = _Own(self, answering)
        found = [
            answering.once(f"tokens-{begin}", partial(one.some, at[begin : begin + TOGETHER]))
            for begin in range(0, len(at), TOGETHER)
        ]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


class _Own:
    """A document as it is, and its runs with one token changed."""

    def __init__(self, question: Replaced, answering: Answering) -> None:
        self.question, self.asked, self.document = question, answering.asked, answering.document
        self.calls = question.choice.calls(self.asked)
        self.ids = self.document.tokens["text"].ids.tolist()
        self.plain = Unedited(self.asked, self.document)
        self._row: KeepingRow | None = None

    @property
    def row(self) -> KeepingRow:
        """The last row's weights."""
        if self._row is None:
            self._row = self._keeping(len(self.ids))
            for _ in self.asked.logits(self.plain.part, [self._row], last_only=True):
                pass
        return self._row

    def some(self, places: Sequence[int]) -> dict[str, Any]:
        every = [self._one(place) for place in places]
        return {name: np.stack([one[name] for one in every]) for name in every[0]} | {"position": np.array(places)}

    def _one(self, place: int) -> dict[str, Any]:
        drawn = [self._drawn(place, draw) for draw in range(self.question.draws)]
        mean = {name: np.mean([one[name] for one in drawn], axis=0) for name in drawn[0]}
        deviation = np.std([one["kl_last"] for one in drawn], ddof=1) if len(drawn) > 1 else np.nan
        return mean | {"kl_deviation": deviation}

    def _drawn(self, place: int, draw: int) -> dict[str, Any]:
        changed = ask_texts(self.asked, [self._changed(place, draw)]).documents[0]
        shift = len(changed.tokens["text"]) - len(self.ids)
        behind = np.arange(place + 1, len(self.ids))
        answer = self.question.answers.get(self.document.id)
        row = self._keeping(len(self.ids) + shift)
        part = self.asked.passage(changed)
        own = Rows(self.plain.logits(), self.plain.part.chunks, behind)
        other = Rows(self.asked.logits(part, [row]), part.chunks, behind + shift)
        found = prediction_change(own, other, answer)
        by_layer = np.array([self._moved(row, call.module, place, shift) for call in self.calls])
        more = {}
        if answer is not None:
            more["logit_difference_change"] = found["logit_difference_other"] - found["logit_difference"]
        kept = {name: found[name] for name in ("kl_last", "kl", "total_variation")}
        return kept | more | {
            "flips": found["flipped"], "by_layer": by_layer.mean(axis=1), "variation": by_layer.mean()
        }  # fmt: skip

    def _changed(self, place: int, draw: int) -> list[int]:
        given, rest = self.question.given, self.ids[place + 1 :]
        if given == "delete":
            return [*self.ids[:place], *rest]
        if given == "random":
            return [*self.ids[:place], self._random(place, draw), *rest]
        return [*self.ids[:place], int(given), *rest]

    def _random(self, place: int, draw: int) -> int:
        loaded = self.asked.loaded
        never = {self.ids[place]} | (set() if loaded.tokenizer is None else set(loaded.tokenizer.all_special_ids))
        most = vocabulary_of(loaded) if loaded.tokenizer is None else min(vocabulary_of(loaded), len(loaded.tokenizer))
        drawn = np.random.default_rng((self.question.seed + draw, place)).permutation(most)
        return next(int(one) for one in drawn if int(one) not in never)

    def _keeping(self, length: int) -> KeepingRow:
        return KeepingRow([call.module for call in self.calls], np.array(self.question.choice.heads), length - 1)

    def _moved(self, row: KeepingRow, module: str, place: int, shift: int) -> Any:
        """(H,): half the sum of |changed - own| of the last row's weights; a deleted token keeps none."""
        own_HT, other_HT = (one.weights[module].astype(np.float64) for one in (self.row, row))
        if shift:
            other_HT = np.insert(other_HT, place, 0.0, axis=1)
        return np.abs(other_HT - own_HT).sum(axis=1) / 2
