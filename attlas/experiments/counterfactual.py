"""Another text in the place of one: what of the model's predictions and of its attention moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from attlas.engine.listeners.keep import KeepingProblems
from attlas.engine.passage.alignment import Places
from attlas.engine.passage.documents import Document
from attlas.experiments.aligned import Aligned, Rows, prediction_change, variation
from attlas.experiments.answers import parse_answers
from attlas.experiments.asked import ask_model
from attlas.experiments.difference import MEASURES, Answer
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.others import Pairs, ask_others
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary

__all__ = ["counterfactual"]

PREDICTED = ("kl_last", "kl", "js", "total_variation", "agreement")


def counterfactual(
    model: Any,
    texts: Any,
    others: Any,
    *,
    answers: Any = None,
    layers: Any = None,
    heads: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """How far predictions and attention move where a text is another: a word replaced, left out or put in.

    >>> found = attlas.experiments.counterfactual("demo", "one two three, one two.", "one six three, one two.")
    >>> found.variation.dims, found.kl_last.item() > 0
    (('document', 'layer', 'head'), True)

    model, texts, options: as of `run`. others: of each text another, of any length. answers: of each a pair of tokens,
    whose logits behind the last token are compared. layers, heads: the model's indices; None for all.

    Both are set side by side at the tokens they have in common, in order, and the last ones where neither is; compared
    are those at or behind the first that differs, where alone a causal model's runs can. Of each document (document):
    kl_last and flipped, of the prediction behind the last token; kl, js (nats), total_variation and agreement, means
    over the compared positions whose prediction counts; compared and aligned, how many; logit_difference and
    logit_difference_other. variation (document, layer, head): the share of a row's weight that lies on other keys, 0 to
    1, mean over compared rows: half the sum of |other - own| over the aligned keys and, as one, all others with a
    learned sink. With means and intervals over documents as of `run`. Memory: q, k and log-sum-exp of the chosen
    layers, of both. Raises InputError, where a text and its other are alike up to the end of one too.
    """
    interval = Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    pairs = ask_others(asked, others, options)
    for document in asked.documents:
        Aligned.of(document, pairs[document.id])
    choice, of = HeadChoice.of(asked, layers, heads), parse_answers(answers, asked)
    found = ask_each(Counterfactual(choice=choice, others=pairs, answers=of), asked)
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        name: ((), MEASURES[name][0].replace("changed", "other"), MEASURES[name][1]) for name in PREDICTED
    }
    if of:
        variables["logit_difference"] = (), "logit of the right less the wrong answer behind the last token", "1"
        variables["logit_difference_other"] = (), "the same of the other text", "1"
    variables |= {
        "variation": (("layer", "head"), "share of a row's weight that moved, mean over compared rows", "1"),
        "flipped": ((), "whether the likeliest next token is another", "1"),
        "compared": ((), "compared positions", "1"),
        "aligned": ((), "tokens in common", "1"),
    }
    coords = {"layer": list(choice.layers), "head": list(choice.heads)}
    return summary(asked, found, variables, coords, interval, question="counterfactual")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactual(Question):
    """others: document -> its other text. answers: document -> the right and the wrong one; empty for none."""

    name: ClassVar[str] = "counterfactual"
    choice: HeadChoice
    others: Pairs
    answers: dict[str, Answer]

    def answer(self, answering: Answering) -> Part:
        return answering.once("whole", lambda: self._both(answering))

    def _both(self, answering: Answering) -> Part:
        asked, own = answering.asked, answering.document
        other = self.others[own.id]
        aligned, calls = Aligned.of(own, other), self.choice.calls(asked)
        counted_T = np.append(asked.counted(own)[1:], True)
        inside_A = counted_T[aligned.rows[0]]
        inside_A[-1] = True
        mine, theirs = (KeepingProblems([call.module for call in calls], np.array(self.choice.heads)) for _ in range(2))

        def rows(document: Document, at_A: Places, listener: KeepingProblems) -> Rows:
            part = asked.passage(document)
            return Rows(asked.logits(part, [listener]), part.chunks, at_A[inside_A])

        found = prediction_change(
            rows(own, aligned.rows[0], mine), rows(other, aligned.rows[1], theirs), self.answers.get(own.id)
        )
        lengths = len(own.tokens["text"]), len(other.tokens["text"])
        moved = [variation(mine.chunks(call.module), theirs.chunks(call.module), lengths, aligned) for call in calls]
        return found | {"variation": np.stack(moved), "aligned": np.array(len(aligned.keys[0]))}
