"""How far one run's predictions are from another's, over the positions that count, a few at a time.

Suffixes: T tokens of a document, N those of a chunk, W words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from attlas.engine.passage.documents import Document
from attlas.engine.passage.passage import Passage
from attlas.experiments.asked import ROWS, Asked, token_ids
from attlas.experiments.kept import Part

__all__ = ["MEASURES", "Answer", "Sums", "difference"]

Answer = tuple[int, int]
"""The right and the wrong token, by their ids."""

MEASURES = {
    "loss": ("next-token cross-entropy, changed", "nat"),
    "loss_unedited": ("next-token cross-entropy", "nat"),
    "loss_change": ("changed less unchanged cross-entropy", "nat"),
    "kl": ("divergence of the changed from the unchanged prediction", "nat"),
    "kl_last": ("divergence of the changed prediction behind the last token", "nat"),
    "js": ("Jensen-Shannon divergence of both predictions, at most ln 2", "nat"),
    "total_variation": ("total variation distance of both predictions, 0 to 1", "1"),
    "agreement": ("share of positions with the same likeliest token", "1"),
    "logit_difference": ("logit of the right less the wrong answer behind the last token, changed", "1"),
    "logit_difference_unedited": ("logit of the right less the wrong answer behind the last token", "1"),
}
"""Of a document -> what it says, and its units."""


SUMMED = ("loss", "loss_unedited", "kl", "js", "total_variation")


@dataclass(slots=True)
class Sums:
    """Over positions, some at a time. flipped: whether the likeliest token is another."""

    loss: float = 0.0
    loss_unedited: float = 0.0
    kl: float = 0.0
    js: float = 0.0
    total_variation: float = 0.0
    flipped: list[torch.Tensor] = field(default_factory=list)

    def add(self, edited_NW: torch.Tensor, plain_NW: torch.Tensor, next_N: torch.Tensor | None = None) -> None:
        """Of both runs' logits; next_N: the tokens whose loss counts, None for no loss."""
        q, p = (x.float().log_softmax(1) for x in (edited_NW, plain_NW))
        if next_N is not None:
            target = next_N[:, None]
            self.loss -= _sum(q.gather(1, target))
            self.loss_unedited -= _sum(p.gather(1, target))
        self.flipped.append(q.argmax(1) != p.argmax(1))
        if torch.equal(p, q):  # and nothing is left of rounding
            return
        in_p, in_q = p.exp(), q.exp()
        self.kl += _sum((in_p * (p - q)).sum(1))
        self.total_variation += _sum((in_p - in_q).abs().sum(1)) / 2
        middle = torch.logaddexp(p, q) - math.log(2)
        self.js += _sum((in_p * (p - middle) + in_q * (q - middle)).sum(1)) / 2


def difference(
    asked: Asked,
    document: Document,
    part: Passage,
    edited: Iterable[torch.Tensor],
    plain: Iterable[torch.Tensor],
    answer: Answer | None = None,
) -> Part:
    """Every one of MEASURES of two runs of a document, from the logits (N, W) of their chunks: means over the positions
    that count; with `answer` its logit differences; tokens, how many count; and flipped, for each of these whether the
    likeliest token is another. Of classes (1, classes) the same of the one prediction, and no loss."""
    if asked.classes:
        return _of_classes(next(iter(edited)), next(iter(plain)), answer)
    ids_T, counted_T, sums = token_ids(document), asked.counted(document), Sums()
    found: dict[str, float] = {}
    for edited_NW, plain_NW, (begin, end) in zip(edited, plain, part.chunks, strict=True):
        at_N = torch.from_numpy(np.flatnonzero(counted_T[begin + 1 : end + 1]))
        next_N = ids_T[at_N + begin + 1].to(edited_NW.device)
        for first in range(0, len(at_N), ROWS):
            at = slice(first, first + ROWS)
            sums.add(edited_NW[at_N[at]], plain_NW[at_N[at]], next_N[at])
        if end == len(ids_T):
            q_W, p_W = (x[-1].double().log_softmax(0) for x in (edited_NW, plain_NW))
            found["kl_last"] = _sum(p_W.exp() * (p_W - q_W))
        if answer is not None and end == len(ids_T):
            right, wrong = answer
            found["logit_difference"] = float(edited_NW[-1, right] - edited_NW[-1, wrong])
            found["logit_difference_unedited"] = float(plain_NW[-1, right] - plain_NW[-1, wrong])
    tokens = int(counted_T.sum())
    found |= {name: getattr(sums, name) / tokens for name in SUMMED}
    flipped = torch.cat(sums.flipped).cpu().numpy()
    found["agreement"] = 1 - float(flipped.mean())
    found["loss_change"] = found["loss"] - found["loss_unedited"]
    measures = {name: np.array(found[name]) for name in MEASURES if name in found}
    return measures | {"tokens": np.array(tokens), "flipped": flipped}


def _of_classes(edited_1W: torch.Tensor, plain_1W: torch.Tensor, answer: Answer | None) -> Part:
    sums, found = Sums(), {}
    sums.add(edited_1W, plain_1W)
    found = {name: getattr(sums, name) for name in ("kl", "js", "total_variation")}
    found["kl_last"], flipped = sums.kl, torch.cat(sums.flipped).cpu().numpy()
    found["agreement"] = 1 - float(flipped.mean())
    if answer is not None:
        right, wrong = answer
        for name, logits_1W in (("logit_difference", edited_1W), ("logit_difference_unedited", plain_1W)):
            found[name] = float(logits_1W[0, right] - logits_1W[0, wrong])
    measures = {name: np.array(found[name]) for name in MEASURES if name in found}
    return measures | {"tokens": np.array(1), "flipped": flipped}


def _sum(x: torch.Tensor) -> float:
    return float(x.double().sum())
