"""Causal tracing: attention of one run put into another, head by head or layer by layer, and how much of the answer
comes back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from attlas.engine.listeners.patch import CARRIED, Patching, Source
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.answers import parse_answers
from attlas.experiments.asked import Asked, ask_model
from attlas.experiments.difference import Answer
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.others import Pairs, ask_others
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.experiments.unedited import Unedited
from attlas.parse import parse_choice

__all__ = ["patching"]

EACH = {"head": ("layer", "head"), "layer": ("layer",), "position": ("layer", "position")}
SOURCE = (
    "https://arxiv.org/abs/2202.05262 (Meng et al. 2022, section 2), of attention; https://arxiv.org/abs/2309.16042"
)


def patching(
    model: Any,
    texts: Any,
    others: Any,
    answers: Any,
    *,
    what: str = "output",
    each: str = "head",
    layers: Any = None,
    heads: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """How much of an answer comes back where a run that lacks it is given attention of one that has it.

    >>> found = attlas.experiments.patching("demo", [[5, 9, 7, 5]], [[5, 3, 7, 5]], [(9, 3)], each="layer")
    >>> found.recovered.dims, found.logit_difference.item() > found.logit_difference_other.item()
    (('document', 'layer'), True)

    model, texts, options: as of `run`. texts: the runs that attention is taken from. others: of each a text of as many
    tokens, the run that it is put into. answers: of each a pair of tokens, the right one of `texts` and the wrong one.
    what: "output" takes the heads' outputs, "weights" their attention weights alone, which then weigh the other run's
    values. each: what is patched at a time: "head", "layer" (all chosen heads of one), or "position" (of one layer, all
    chosen heads, at one position; documents then are of one length). layers, heads: the model's indices; None for all.

    logit_difference, logit_difference_other (document): logit of the right less the wrong answer behind the last token
    of both runs as they are. logit_difference_patched (document, layer[, head or position]), and recovered, (patched -
    other) / (run - other): 0 nothing came back, 1 all of it. With means and intervals over documents as of `run`.
    Memory: what is taken, of all layers of a document. Raises InputError, where lengths differ too, or where both runs
    give the same difference.
    """
    what, each = parse_choice(what, "what", CARRIED), parse_choice(each, "each", tuple(EACH))
    interval = Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    pairs = ask_others(asked, others, options)
    _check_lengths(asked, pairs, each)
    choice = HeadChoice.of(asked, layers, heads)
    of = parse_answers(answers, asked)
    if not of:
        raise InputError("patching compares the logits of two answers: give answers, a pair of tokens of each document")
    found = ask_each(Patched(choice=choice, what=what, each=each, answers=of, others=pairs), asked)
    dims, length = EACH[each], len(asked.documents[0].tokens["text"])
    every = {"layer": list(choice.layers), "head": list(choice.heads), "position": list(range(length))}
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        "logit_difference": ((), "logit of the right less the wrong answer", "1"),
        "logit_difference_other": ((), "the same of the other run", "1"),
        "logit_difference_patched": (dims, "the same of the other run with attention of the first", "1"),
        "recovered": (dims, "share of the difference between both runs that came back", "1"),
    }
    coords = {name: every[name] for name in dims}
    return summary(
        asked, found, variables, coords, interval, question="patching", what=what, each=each, source=SOURCE
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patched(Question):
    """others: document -> its other text's token ids."""

    name: ClassVar[str] = "patching"
    choice: HeadChoice
    what: str
    each: str
    answers: dict[str, Answer]
    others: Pairs

    def parts(self, asked: Asked, document: Document) -> int:
        return len(self.choice.layers)

    def answer(self, answering: Answering) -> Part:
        asked, document = answering.asked, answering.document
        source, other = _Source(asked, document, self.what), Unedited(asked, self.others[document.id])
        found = [
            answering.once(f"layer-{layer}", partial(self._layer, source, other, document.id, layer))
            for layer in self.choice.layers
        ]
        patched, clean, corrupted = (
            np.stack([one["patched"] for one in found]),
            found[0]["clean"],
            found[0]["corrupted"],
        )
        if clean == corrupted:
            raise InputError(
                f"document {document.id!r} and its other text give the answers the same logit difference: there is "
                "nothing to recover; give texts that differ in their answer"
            )
        return {
            "logit_difference": clean, "logit_difference_other": corrupted, "logit_difference_patched": patched,
            "recovered": (patched - corrupted) / (clean - corrupted),
        }  # fmt: skip

    def _layer(self, source: _Source, other: Unedited, name: str, layer: int) -> dict[str, Any]:
        (call,) = [call for call in self.choice.calls(other.asked) if call.layer == layer]
        heads, length = np.array(self.choice.heads), len(other.document.tokens["text"])
        if self.each == "head":
            patches = [({call.module: heads[place : place + 1]}, None) for place in range(len(heads))]
        elif self.each == "layer":
            patches = [({call.module: heads}, None)]
        else:
            patches = [({call.module: heads}, np.arange(length) == place) for place in range(length)]
        patched = [
            other.answer(self.answers[name], other.logits_from(of, [Patching(source.kept, of, rows_T)], last_only=True))
            for of, rows_T in patches
        ]
        return {
            "patched": patched[0] if self.each == "layer" else patched,
            "clean": source.answer(self.answers[name]),
            "corrupted": other.answer(self.answers[name], other.logits()),
        }


class _Source:
    """The run that attention is taken from, made when it is first asked for."""

    def __init__(self, asked: Asked, document: Document, what: str) -> None:
        self.asked, self.document, self.what = asked, document, what
        self._kept: Source | None = None
        self._last: Any = None

    @property
    def kept(self) -> Source:
        if self._kept is None:
            self._kept = Source(self.what)
            for logits_NW in self.asked.logits(self.asked.passage(self.document), [self._kept]):
                self._last = logits_NW[-1]
        return self._kept

    def answer(self, answer: Answer) -> float:
        assert self.kept is not None
        return float(self._last[answer[0]] - self._last[answer[1]])


def _check_lengths(asked: Asked, pairs: Pairs, each: str) -> None:
    for document in asked.documents:
        own, other = (len(one.tokens["text"]) for one in (document, pairs[document.id]))
        if own != other:
            raise InputError(
                f"document {document.id!r} has {own} tokens, and its other text {other}: attention is patched position "
                "by position, give texts of as many tokens"
            )
    lengths = {len(document.tokens["text"]) for document in asked.documents}
    if each == "position" and len(lengths) > 1:
        raise InputError(
            f"documents have {min(lengths)} to {max(lengths)} tokens, and positions are compared over all: give texts "
            "of one length, or one at a time"
        )
