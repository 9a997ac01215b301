"""A document's run as the model makes it, and others of it that begin where they first differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from attlas.engine.attention.call import Listener
from attlas.engine.edit.edit import Edit
from attlas.engine.passage.documents import Document
from attlas.experiments.asked import Asked
from attlas.experiments.difference import Answer, difference
from attlas.experiments.kept import Part

__all__ = ["Unedited"]


class Unedited:
    """Made when it is first asked for.

    What each layer gave is kept, so that no run of the same document need begin below its first edited layer; where
    more than hidden states goes between the layers, all begin at the first.
    """

    def __init__(self, asked: Asked, document: Document) -> None:
        self.asked, self.document, self.part = asked, document, asked.passage(document)
        self.prefix = asked.prefix()
        self._loss: float | None = None

    @property
    def loss(self) -> float:
        """The mean next-token cross-entropy, nats."""
        if self._loss is None:
            logits = self.asked.logits(self.part, [], prefix=self.prefix)
            if self.asked.classes:  # which have no loss without labels
                for _ in logits:
                    pass
                self._loss = float("nan")
            else:
                self._loss = self.asked.loss(self.document, self.part, logits)
        return self._loss

    def logits(self) -> Iterator[torch.Tensor]:
        """(N, W) of each chunk, of the run as it is: only the head on what the last layer gave."""
        assert self.loss is not None  # what the layers gave is kept
        if self.prefix is None:
            return self.asked.logits(self.part, [])
        return self.asked.logits(self.part, [], prefix=self.prefix, begin=len(self.prefix.layers))

    def logits_with(self, edits: Sequence[Edit]) -> Iterator[torch.Tensor]:
        """The same of an edited run."""
        assert self.loss is not None
        editing = self.asked.editing(edits, self.document)
        return self.logits_from(editing.plans, [editing])

    def logits_from(
        self, modules: Iterable[str], listeners: Sequence[Listener], *, last_only: bool = False
    ) -> Iterator[torch.Tensor]:
        """The same of a run that listeners change in these layers, by the names of their attention modules."""
        assert self.loss is not None
        places = [] if self.prefix is None else [self.prefix.begin_of(module) for module in modules]
        if self.prefix is None or not places:
            return self.asked.logits(self.part, listeners, last_only=last_only)
        return self.asked.logits(self.part, listeners, prefix=self.prefix, begin=min(places), last_only=last_only)

    def loss_with(self, edits: Sequence[Edit]) -> float:
        return self.asked.loss(self.document, self.part, self.logits_with(edits))

    def answer(self, answer: Answer, logits: Iterator[torch.Tensor]) -> float:
        """The logit of the right less that of the wrong answer behind the last token, of a run's logits."""
        right, wrong = answer
        *_, last_NW = logits
        return float(last_NW[-1, right] - last_NW[-1, wrong])

    def difference(self, changed: Iterator[torch.Tensor], answer: Answer | None = None) -> Part:
        """How far a changed run, by its logits, is from this one."""
        return difference(self.asked, self.document, self.part, changed, self.logits(), answer)
