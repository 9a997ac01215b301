"""What a model says with its attention edited, beside what it says without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import xarray as xr

from attlas.engine.edit.edit import Edit, parse_edits
from attlas.experiments.answers import parse_answers
from attlas.experiments.asked import ask_model
from attlas.experiments.difference import MEASURES, Answer, difference
from attlas.experiments.kept import Part
from attlas.experiments.mean_outputs import fill_means
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary

__all__ = ["run"]


def run(
    model: Any,
    texts: Any,
    edits: Any,
    *,
    answers: Sequence[tuple[Any, Any]] | None = None,
    reference: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Loss and predictions of a causal model with edited attention, beside the unedited run of the same texts.

    >>> text = "one two three, one two three; and one two three again."
    >>> found = attlas.experiments.run("demo", text, attlas.Edit(do="zero", layer=1, head=0))
    >>> found.kl.item() > 0, found.agreement.item() < 1
    (True, True)

    model, texts: as of `attlas.capture`; texts may be an `attlas.Atlas` of the model. edits: `attlas.Edit` values, made
    in their order. answers: of each document a pair of tokens, the right and the wrong, as text of one token or as
    token id, whose logits behind the last token are compared. reference: texts over whose tokens edits that do "mean"
    take the mean; None for `texts`. options: see the page "Experiments" of the docs.

    Of each document (document), means over the positions that count: loss and loss_unedited, the next-token
    cross-entropy in nats; loss_change; kl and js, the divergence of the edited prediction in nats, and kl_last, of the
    one behind the last token; total_variation; agreement, the share of positions with the same most likely token;
    tokens predicted; and logit_difference and logit_difference_unedited with `answers`. For each the mean over
    documents, `..._mean`, with its interval, `..._low` and `..._high`, by a bootstrap of whole documents (`seed`), NaN
    of one document. Raises InputError where an edit is of nothing, UnsupportedModelError.
    """
    asked_edits, interval = parse_edits(edits), Interval.of(confidence, seed)
    asked = ask_model(model, texts, options, classes=True)
    asked_edits = fill_means(asked, asked_edits, reference, options)
    question = Run(edits=asked_edits, answers=parse_answers(answers, asked))
    found = ask_each(question, asked)
    variables = {name: ((), *MEASURES[name]) for name in MEASURES if name in found[0]}
    variables["tokens"] = ((), "predicted tokens", "1")
    edits_told = [str(edit) for edit in asked_edits]
    return summary(asked, found, variables, {}, interval, question="run", edits=edits_told)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run(Question):
    """edits: of every document. answers: document -> the right and the wrong one; empty for none."""

    name: ClassVar[str] = "run"
    edits: tuple[Edit, ...]
    answers: dict[str, Answer]

    def answer(self, answering: Answering) -> Part:
        return answering.once("whole", lambda: self._both(answering))

    def _both(self, answering: Answering) -> Part:
        """Both runs side by side, chunk by chunk."""
        asked, document = answering.asked, answering.document
        part = asked.passage(document)
        edited = asked.logits(part, [asked.editing(self.edits, document)])
        return difference(asked, document, part, edited, asked.logits(part, []), self.answers.get(document.id))
