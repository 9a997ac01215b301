"""How much each head's attention pattern is the same over texts that say the same.

Suffixes: D texts of a document, H heads, R and C rows and columns of a grid, N rows of a chunk, Q rows and K keys of a
block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.kernels import door, reference
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.listeners.keep import KeepingProblems, Kept, first_key
from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.asked import Asked, ask_model, ask_texts, refuse_predicted
from attlas.experiments.heads import HeadChoice
from attlas.experiments.kept import Part
from attlas.experiments.question import Answering, Question, ask_each
from attlas.experiments.summary import Interval, summary
from attlas.parse import is_integer, parse_count, refuse

__all__ = ["paraphrases"]

Floats = NDArray[np.float64]


def paraphrases(
    model: Any,
    texts: Any,
    others: Any,
    *,
    cells: int = 16,
    layers: Any = None,
    heads: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """How much each head's pattern of attention varies over texts that say the same in other words.

    >>> found = attlas.experiments.paraphrases("demo", "one two, one", [["two one, two"]], cells=4)
    >>> found.cv.dims, bool((found.correlation <= 1).all())
    (('document', 'layer', 'head'), True)

    model, texts, options: as of `run`. others: of each text one or several others, of any lengths, as lists. layers,
    heads: the model's indices; None for all. cells: each map is pooled to a grid of so many rows and columns by the
    relative place of query and key in their text; a cell is the weight on its keys, mean over its queries, so that a
    row is 1 in all. Texts have at least as many tokens.

    Of each document and head (document, layer, head), over the cells on or below the diagonal: deviation, the standard
    deviation of a cell over texts, mean over cells; cv, the sum of a row's deviations by the sum of its means, mean
    over rows; correlation, of the cells of two texts, mean over pairs. pattern (document, layer, head, row, column):
    the mean over texts. With means and intervals over documents as of `run`. Patterns of all heads alike, such as a
    first token that takes all, make correlations high too: compare heads. Memory: q, k and log-sum-exp of one text.
    Raises InputError.
    """
    cells, interval = parse_count(cells, "cells", least=2), Interval.of(confidence, seed)
    asked = ask_model(model, texts, options)
    refuse_predicted(asked, "paraphrases compares weights")
    pairs = _others(asked, others, options)
    for document in asked.documents:
        for one in (document, *pairs[document.id]):
            if len(one.tokens["text"]) < cells:
                raise InputError(
                    f"a text of document {document.id!r} has {len(one.tokens['text'])} tokens, and the grid {cells} "
                    "rows: give cells"
                )
    choice = HeadChoice.of(asked, layers, heads)
    found = ask_each(Paraphrased(choice=choice, cells=cells, others=pairs), asked)
    of_head = ("layer", "head")
    variables: dict[str, tuple[tuple[str, ...], str, str]] = {
        "deviation": (of_head, "standard deviation of a cell over texts, mean over cells", "1"),
        "cv": (of_head, "coefficient of variation of the pooled weights, mean over rows", "1"),
        "correlation": (of_head, "correlation of the pooled weights of two texts, mean over pairs", "1"),
        "pattern": ((*of_head, "row", "column"), "weight on a cell's keys, mean over its queries and texts", "1"),
    }
    place = (np.arange(cells) + 0.5) / cells
    coords = {"layer": list(choice.layers), "head": list(choice.heads), "row": place, "column": place}
    return summary(asked, found, variables, coords, interval, question="paraphrases", cells=cells)


def _others(asked: Asked, others: Any, options: Mapping[str, Any]) -> dict[str, tuple[Document, ...]]:
    """The other texts of each document."""
    remedy = "give a list of lists, of each text its others"
    if isinstance(others, str) or not isinstance(others, Sequence) or len(others) != len(asked.documents):
        raise refuse(others, "others", remedy)
    for some in others:
        if isinstance(some, str) or not isinstance(some, Sequence) or not some or any(map(is_integer, some)):
            raise refuse(others, "others", remedy)
    given = {name: options[name] for name in ("max_tokens", "extrapolate") if name in options}
    flat = ask_texts(asked, [one for some in others for one in some], **given).documents
    ends = np.cumsum([len(some) for some in others]).tolist()
    spans = zip(asked.documents, [0, *ends], ends, strict=False)
    return {document.id: tuple(flat[begin:end]) for document, begin, end in spans}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paraphrased(Question):
    """others: document -> the others that say the same."""

    name: ClassVar[str] = "paraphrases"
    choice: HeadChoice
    cells: int
    others: Mapping[str, tuple[Document, ...]]

    def parts(self, asked: Asked, document: Document) -> int:
        return 1 + len(self.others[document.id])

    def answer(self, answering: Answering) -> Part:
        own = answering.document
        grids = [
            answering.once(f"text-{number}", partial(self._grid, answering.asked, one))["grid"]
            for number, one in enumerate((own, *self.others[own.id]))
        ]
        return _variation(np.stack(grids))

    def _grid(self, asked: Asked, document: Document) -> dict[str, Floats]:
        """(L, H, R, C) of a text."""
        calls = self.choice.calls(asked)
        keeping = KeepingProblems([call.module for call in calls], np.array(self.choice.heads))
        for _ in asked.logits(asked.passage(document), [keeping], last_only=True):
            pass
        length = len(document.tokens["text"])
        grids = [pooled_by_place(keeping.chunks(call.module), length, self.cells) for call in calls]
        return {"grid": np.stack(grids)}


def pooled_by_place(chunks: Sequence[tuple[int, Kept]], length: int, cells: int) -> Floats:
    """(H, R, C) of one layer's chunks: the weight on the keys of a cell, mean over its queries."""
    heads = chunks[0][1][0].heads
    place_T = torch.arange(length) * cells // length
    sums_HRC = torch.zeros(heads, cells, cells, dtype=torch.float64)
    for first, (problem, lse_HN) in chunks:
        shift = first_key(problem, first)
        for begin, end, low, high in reference.plan_rows(problem.start_N, problem.stop_N, heads * 4 * 4, TILE_BYTES):
            at = slice(begin, end)
            a_HQK = door.weights(problem.tile(at, slice(low, high)), lse_HN[:, at], key_M=np.arange(low, high))
            by_key_HQC = torch.zeros(heads, end - begin, cells, dtype=torch.float64)
            by_key_HQC.index_add_(2, place_T[shift + low : shift + high], a_HQK.double().cpu())
            sums_HRC.index_add_(1, place_T[first + begin : first + end], by_key_HQC)
    queries_R = torch.bincount(place_T, minlength=cells)
    made: Floats = (sums_HRC / queries_R[:, None]).numpy()
    return made


def _variation(grids_DLHRC: Floats) -> Part:
    texts, cells = len(grids_DLHRC), grids_DLHRC.shape[-1]
    seen_RC = np.tril(np.ones((cells, cells), dtype=bool))
    deviation_LHRC, mean_LHRC = grids_DLHRC.std(axis=0, ddof=1), grids_DLHRC.mean(axis=0)
    flat_DLHC = grids_DLHRC[..., seen_RC]
    centred = flat_DLHC - flat_DLHC.mean(axis=-1, keepdims=True)
    centred /= np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    of_pairs = [(centred[i] * centred[j]).sum(axis=-1) for i in range(texts) for j in range(i)]
    return {
        "deviation": deviation_LHRC[..., seen_RC].mean(axis=-1),
        "cv": (deviation_LHRC.sum(axis=-1) / mean_LHRC.sum(axis=-1)).mean(axis=-1),
        "correlation": np.clip(np.mean(of_pairs, axis=0), -1, 1),
        "pattern": mean_LHRC,
    }
