"""Two texts that differ in some tokens, set side by side where their tokens are the same.

Suffixes: T tokens of a document, A aligned rows or keys, N rows of a chunk, Q rows of a block, H heads, W words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import door
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.listeners.keep import Kept, first_key
from attlas.engine.passage.alignment import Places, common_places
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.asked import ROWS
from attlas.experiments.difference import Answer, Sums
from attlas.experiments.kept import Part

__all__ = ["Aligned", "Rows", "divergence", "prediction_change", "variation"]

Floats = NDArray[np.float64]
Chunks = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aligned:
    """Where two documents have the same tokens, places in both ascending: keys_A all of these, rows_A the ones at or
    behind the first difference; only there can a causal model's runs differ."""

    keys: tuple[Places, Places]
    rows: tuple[Places, Places]

    @classmethod
    def of(cls, own: Document, other: Document) -> Self:
        """The last tokens are set side by side where neither stands in the other. Raises InputError."""
        ids, other_ids = (one.tokens["text"].ids for one in (own, other))
        shorter = min(len(ids), len(other_ids))
        unlike = np.flatnonzero(ids[:shorter] != other_ids[:shorter])
        if not unlike.size:
            what = "the same tokens as" if len(ids) == len(other_ids) else "the same tokens up to where one ends as"
            raise InputError(
                f"document {own.id!r} has {what} its other text: there is no later prediction to compare, give texts "
                "that differ before their end"
            )
        mine, theirs = common_places(ids.tolist(), other_ids.tolist())
        if not mine.size or (mine[-1] < len(ids) - 1 and theirs[-1] < len(other_ids) - 1):
            mine, theirs = np.append(mine, len(ids) - 1), np.append(theirs, len(other_ids) - 1)
        behind_A = (mine >= unlike[0]) & (theirs >= unlike[0])
        return cls(keys=(mine, theirs), rows=(mine[behind_A], theirs[behind_A]))


def divergence(own_W: torch.Tensor, other_W: torch.Tensor) -> float:
    """KL of another prediction from its own, nats, of their logits."""
    p_W, q_W = (x.double().log_softmax(0) for x in (own_W, other_W))
    return float((p_W.exp() * (p_W - q_W)).sum())


@dataclass(slots=True, eq=False)
class Rows:
    """Some rows of one run's logits. last_W: of its last token, once all blocks were taken."""

    logits: Iterable[torch.Tensor]
    chunks: Chunks
    at_A: Places
    last_W: torch.Tensor | None = None

    def blocks(self) -> Iterator[torch.Tensor]:
        """(at most ROWS, W), in order."""
        held: list[torch.Tensor] = []
        done = 0
        for logits_NW, (begin, end) in zip(self.logits, self.chunks, strict=True):
            stop = int(np.searchsorted(self.at_A, end))
            while done < stop:
                some = self.at_A[done : min(stop, (done // ROWS + 1) * ROWS)]
                held.append(logits_NW[torch.from_numpy(some - begin).to(logits_NW.device)])
                done += len(some)
                if done % ROWS == 0 or done == len(self.at_A):
                    yield torch.cat(held)
                    held = []
            self.last_W = logits_NW[-1].clone()


def prediction_change(own: Rows, other: Rows, answer: Answer | None) -> Part:
    """How far the predictions of two runs are apart, at rows that are set side by side.

    kl, js (nats), total_variation, agreement: means over rows; kl_last and flipped: of the prediction behind the last
    token of both; compared: how many rows; with `answer` the logit difference of both. Memory: a chunk of both.
    """
    sums = Sums()
    for own_QW, other_QW in zip(own.blocks(), other.blocks(), strict=True):
        sums.add(other_QW, own_QW)
    assert own.last_W is not None
    assert other.last_W is not None
    found: dict[str, float] = {name: getattr(sums, name) / len(own.at_A) for name in ("kl", "js", "total_variation")}
    found["agreement"] = 1 - float(torch.cat(sums.flipped).double().mean())
    found["kl_last"] = divergence(own.last_W, other.last_W)
    if answer is not None:
        right, wrong = answer
        for name, last_W in (("logit_difference", own.last_W), ("logit_difference_other", other.last_W)):
            found[name] = float(last_W[right] - last_W[wrong])
    flipped = bool(own.last_W.argmax() != other.last_W.argmax())
    return {name: np.array(value) for name, value in found.items()} | {
        "flipped": np.array(flipped), "compared": np.array(len(own.at_A)),
    }  # fmt: skip


def variation(
    own: Sequence[tuple[int, Kept]], other: Sequence[tuple[int, Kept]], lengths: tuple[int, int], aligned: Aligned
) -> Floats:
    """(H,): the share of weight that moved, mean over the aligned rows: half the sum of |other - own| over a row's
    aligned keys and, as one more, all it has elsewhere. own, other: chunks of one layer. Memory: a tile of both."""
    heads = own[0][1][0].heads
    step = max(1, TILE_BYTES // (heads * 8 * 2 * max(lengths)))
    moved_H = np.zeros(heads)
    keys, count = aligned.keys, len(aligned.rows[0])
    for begin in range(0, count, step):
        rows = [side[begin : begin + step] for side in aligned.rows]
        a_HQA, b_HQA = (
            _weights(chunks, at, length)[:, :, across]
            for chunks, at, length, across in zip((own, other), rows, lengths, keys, strict=True)
        )
        elsewhere_HQ = (b_HQA.sum(2) - a_HQA.sum(2)).abs()
        moved_H += (((b_HQA - a_HQA).abs().sum(2) + elsewhere_HQ) / 2).sum(1).numpy()
    return moved_H / count


def _weights(chunks: Sequence[tuple[int, Kept]], rows_Q: Places, length: int) -> torch.Tensor:
    """(H, Q, T), float64: of some rows, ascending, on all keys."""
    made = torch.zeros(chunks[0][1][0].heads, len(rows_Q), length, dtype=torch.float64)
    for first, (problem, lse_HN) in chunks:
        begin, end = np.searchsorted(rows_Q, (first, first + problem.rows))
        if begin == end:
            continue
        at = rows_Q[begin:end] - first
        shift = first_key(problem, first)
        a_HNM = door.weights(problem.of(rows=at), lse_HN[:, torch.from_numpy(at).to(lse_HN.device)])
        made[:, begin:end, shift : shift + problem.keys] = a_HNM.double().cpu()
    return made
