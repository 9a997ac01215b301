"""A passage: the documents that go through the model together, laid end to end, cut into query chunks. A value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.engine.passage.documents import ROW_AXES, Document, Pack, Tokens

__all__ = ["AxisTokens", "ChosenRows", "Passage", "passages"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AxisTokens:
    """The tokens of a passage on one axis, T of them.

    token_start: place of the first on the atlas's token axis. position_T: place in the own document. length_T: length
    of the own document. document_T: the own document's place in the user's order. number_T: the place as the model
    numbers it, which begins later in a document that the user numbered so. type_T: token types; None for none.
    """

    token_start: int
    ids_T: Indices
    special_T: NDArray[np.bool_]
    position_T: Indices
    length_T: Indices
    document_T: Indices
    number_T: Indices
    type_T: Indices | None = None

    def __len__(self) -> int:
        return len(self.ids_T)

    @property
    def first_T(self) -> Indices:
        """Index in the passage of each token's document's first token."""
        return np.arange(len(self.ids_T)) - self.position_T


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChosenRows:
    """The query rows to keep of a passage on one axis, R of them, ascending.

    row_start: place of the first on the atlas's axis of rows. place_R: index into the passage's tokens.
    ordinal_R: how many of the own document's rows come before.
    """

    row_start: int
    place_R: Indices
    ordinal_R: Indices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passage:
    """axes: "text", or "source" and "target". chunks: ranges of tokens of the first axis, one forward pass each.

    rows: for each axis the query rows to keep; empty where all are.
    """

    documents: tuple[int, ...]
    axes: dict[str, AxisTokens]
    rows: dict[str, ChosenRows]
    chunks: tuple[tuple[int, int], ...]

    @property
    def explicit_positions(self) -> bool:
        """Whether the model must be told the positions, because it would number them otherwise by itself."""
        first = next(iter(self.axes.values()))
        return len(self.documents) > 1 or len(self.chunks) > 1 or not np.array_equal(first.number_T, first.position_T)


def passages(
    pack: Pack, documents: Sequence[Document], *, pack_documents: bool, chunk_tokens: int | None
) -> tuple[Passage, ...]:
    """Cut a pack into passages.

    pack_documents: lay documents end to end, as many as fit into one forward pass; else each document goes alone.
    chunk_tokens: the most query tokens in a forward pass, None for all at once. A longer document is a passage of its
    own in several chunks, and no other needs its keys and values kept from one pass to the next.
    """
    numbers = range(len(pack.documents))
    groups: list[list[int]] = []
    if pack_documents:
        room = 0
        for i in numbers:
            size = sum(documents[pack.documents[i]].length(axis) for axis in pack.token_start if axis in ROW_AXES)
            if not groups or (chunk_tokens is not None and size > room):
                groups.append([])
                room = chunk_tokens or 0
            groups[-1].append(i)
            room -= size
    else:
        groups = [[i] for i in numbers]
    return tuple(_passage(pack, documents, tuple(group), chunk_tokens) for group in groups)


def _passage(pack: Pack, documents: Sequence[Document], group: tuple[int, ...], chunk_tokens: int | None) -> Passage:
    axes, chosen = {}, {}
    numbers = [pack.documents[i] for i in group]
    for axis in (axis for axis in pack.token_start if axis in ROW_AXES):
        tokens = [documents[i].tokens[axis] for i in numbers]
        axes[axis] = _axis(pack.document_start[axis][group[0]], tokens, numbers)
        row_axis = ROW_AXES[axis]
        if row_axis in pack.token_start:
            rows = [documents[i].tokens[row_axis].positions for i in numbers]
            begins = np.cumsum([0, *map(len, tokens)])
            chosen[axis] = ChosenRows(
                row_start=pack.document_start[row_axis][group[0]],
                place_R=np.concatenate([begin + places for begin, places in zip(begins, rows, strict=False)]),
                ordinal_R=np.concatenate([np.arange(len(places)) for places in rows]),
            )
    length = len(next(iter(axes.values())))
    step = chunk_tokens or length
    chunks = tuple((start, min(start + step, length)) for start in range(0, length, step))
    return Passage(documents=tuple(numbers), axes=axes, rows=chosen, chunks=chunks)


def _axis(token_start: int, tokens: list[Tokens], numbers: list[int]) -> AxisTokens:
    lengths = np.array([len(t) for t in tokens])
    position_T = np.concatenate([np.arange(n) for n in lengths]).astype(np.int64)
    types = None
    if any(t.type is not None for t in tokens):  # no type is type 0
        types = np.concatenate([np.zeros(len(t), dtype=np.int64) if t.type is None else t.type for t in tokens])
    return AxisTokens(
        token_start=token_start,
        ids_T=np.concatenate([t.ids for t in tokens]).astype(np.int64),
        special_T=np.concatenate([t.special for t in tokens]),
        position_T=position_T,
        length_T=np.repeat(lengths, lengths).astype(np.int64),
        document_T=np.repeat(np.array(numbers), lengths).astype(np.int64),
        number_T=position_T + np.repeat(np.array([t.first_position for t in tokens], dtype=np.int64), lengths),
        type_T=None if types is None else types.astype(np.int64),
    )
