"""The mean output of each head over a corpus: what mean ablation puts in the place of a head.

Suffixes: L layers, H heads, N tokens, V value features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.kernels.measure import Attended
from attlas.experiments.asked import Asked, ask_model, ask_texts
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each

__all__ = ["fill_means", "mean_outputs"]


def mean_outputs(model: Any, texts: Any, *, layers: Any = None, heads: Any = None, **options: Any) -> Edit:
    """An edit that puts, in the place of each head's output, its mean over all tokens of a corpus.

    >>> edit = attlas.experiments.mean_outputs("demo", "one two three, one two three.", layers=1)
    >>> edit.do, edit.values.shape
    ('mean', (1, 4, 1, 32))

    model, texts, options: as of `run`. layers, heads: the model's indices; None for all. Raises InputError.
    """
    asked = ask_model(model, texts, options)
    return _edit(asked, HeadChoice.of(asked, layers, heads))


def fill_means(asked: Asked, edits: tuple[Edit, ...], reference: Any, options: Mapping[str, Any]) -> tuple[Edit, ...]:
    """Edits that do "mean" without values get those of the reference corpus, or of the documents themselves."""
    if all(edit.do != "mean" or edit.values is not None for edit in edits):
        return edits
    corpus = asked
    if reference is not None:
        given = {name: options[name] for name in ("max_tokens", "extrapolate") if name in options}
        corpus = ask_texts(asked, reference, **given)
    corpus = replace(corpus, running=replace(corpus.running, progress=None))
    return tuple(_filled(corpus, edit) if edit.do == "mean" and edit.values is None else edit for edit in edits)


def _filled(corpus: Asked, edit: Edit) -> Edit:
    values = _edit(corpus, HeadChoice.of(corpus, edit.layer, edit.head)).values
    return Edit(do="mean", layer=edit.layer, head=edit.head, query=edit.query, values=values)


def _edit(asked: Asked, choice: HeadChoice) -> Edit:
    found = ask_each(MeanOutputs(choice=choice), asked)
    sums, tokens = np.sum([one["sums"] for one in found], axis=0), np.sum([one["tokens"] for one in found])
    values = (sums / tokens).astype(np.float32)[:, :, None]
    return Edit(do="mean", layer=list(choice.layers), head=list(choice.heads), values=values)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanOutputs(Question):
    """Sums over a document's tokens of what each head gives."""

    name: ClassVar[str] = "mean_outputs"
    choice: HeadChoice

    def answer(self, answering: Answering) -> Part:
        return answering.once("sums", lambda: self._sums(answering))

    def _sums(self, answering: Answering) -> dict[str, Any]:
        asked, document = answering.asked, answering.document
        adding = _Adding()
        for _ in asked.logits(asked.passage(document), [adding], last_only=True):
            pass
        sums_LHV = np.stack([adding.sum_HV[call.module] for call in self.choice.calls(asked)])
        return {"sums": sums_LHV[:, list(self.choice.heads)], "tokens": len(document.tokens["text"])}


class _Adding(Listener):
    """Sums of the heads' outputs, layer by layer, in float64."""

    def __init__(self) -> None:
        self.sum_HV: dict[str, Any] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        module = call.chunk.layout.module
        self.sum_HV[module] = self.sum_HV.get(module, 0.0) + attended.out_NHV.double().sum(0).cpu().numpy()
        return attended
