"""Documents and packs as values: token ids, their text, and where each lies on the atlas's token axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from attlas.engine.passage.selection import Selection

__all__ = ["ROW_AXES", "Document", "Pack", "Tokens", "plan_packs", "with_chosen_rows"]

ROW_AXES = {"text": "query", "source": "source_query", "target": "target_query"}
"""Token axis -> the axis of its query rows, where only some of them are kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """One document's tokens on one axis.

    ids: int32. text: what each token reads as. char_start, char_end: int32 span in the input text, -1 where there is
    none (special tokens, documents given as ids). special: bool. word: int32, the word that each token belongs to,
    counted from 0, -1 for special tokens; None where none is known. type: int32, the token type (segment) that the
    model is given; None where it is given none. first_position: what the model's numbering of the first token is beyond
    its own first. truncated_from: the length before --max-tokens cut it.
    chosen: on an axis of chosen query rows, the place of each in its document; None where all tokens are there.
    """

    ids: NDArray[np.int32]
    text: tuple[str, ...]
    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]
    special: NDArray[np.bool_]
    word: NDArray[np.int32] | None = None
    type: NDArray[np.int32] | None = None
    first_position: int = 0
    truncated_from: int | None = None
    chosen: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The place of each token in its document."""
        return np.arange(len(self.ids)) if self.chosen is None else self.chosen

    def picked(self, places: NDArray[np.int64]) -> Tokens:
        """The tokens at some places."""
        return replace(
            self,
            ids=self.ids[places],
            text=tuple(self.text[i] for i in places),
            char_start=self.char_start[places],
            char_end=self.char_end[places],
            special=self.special[places],
            word=None if self.word is None else self.word[places],
            type=None if self.type is None else self.type[places],
        )

    def rows(self, chosen: NDArray[np.int64]) -> Tokens:
        """Some of the tokens, as an axis of query rows."""
        return replace(self.picked(chosen), chosen=chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """One input sequence; `tokens` has the axis "text", or "source" and "target", and axes of chosen rows beside.

    fields: what else the user said of it, by name.
    """

    id: str
    tokens: Mapping[str, Tokens]
    fields: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def length(self, axis: str) -> int:
        return len(self.tokens[axis])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A run of whole documents that is captured, written and committed as one unit of work.

    documents: their places in the user's order. token_start, token_stop: axis -> the pack's range on the token axis.
    document_start: axis -> where each document of the pack begins on the token axis.
    token_start is a multiple of the store's block, so that no two packs share a chunk; the few positions between one
    pack's stop and the next pack's start are never written.
    """

    index: int
    documents: tuple[int, ...]
    token_start: Mapping[str, int]
    token_stop: Mapping[str, int]
    document_start: Mapping[str, tuple[int, ...]]


def with_chosen_rows(document: Document, selection: Selection, *, seed: int) -> Document:
    """The document with an axis of chosen query rows beside each of its token axes. seed: of rows drawn at random.

    Raises InputError where it has none of the rows.
    """
    rows = {
        ROW_AXES[axis]: tokens.rows(selection.places(document.id, len(tokens), seed=seed))
        for axis, tokens in document.tokens.items()
    }
    return replace(document, tokens=dict(document.tokens) | rows)


def name_pack(pack: Pack, documents: Sequence[Document]) -> str:
    """A pack and its documents in a few words, for messages."""
    first, count = documents[pack.documents[0]].id, len(pack.documents)
    more = f" and {count - 1} more" if count > 1 else ""
    tokens = sum(pack.token_stop[axis] - pack.token_start[axis] for axis in pack.token_start if axis in ROW_AXES)
    return f"pack {pack.index} ({first!r}{more}, {tokens} tokens)"


def plan_packs(lengths: Sequence[Mapping[str, int]], *, pack_tokens: int, block: int) -> tuple[Pack, ...]:
    """Put documents into packs, in the user's order, each pack as full as `pack_tokens` allows.

    lengths: for each document its length on every axis. pack_tokens: the most tokens in a pack, over all axes but
    those of chosen rows; a longer document is a pack of its own. block: the alignment of packs on the axes.
    """
    axes = tuple(lengths[0]) if lengths else ()
    groups: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        size = sum(count for axis, count in length.items() if axis not in ROW_AXES.values())
        if not groups or size > room:
            groups.append([])
            room = pack_tokens
        groups[-1].append(index)
        room -= size

    packs: list[Pack] = []
    begin = dict.fromkeys(axes, 0)
    for number, group in enumerate(groups):
        starts = {axis: begin[axis] + _running([lengths[i][axis] for i in group]) for axis in axes}
        stop = {axis: begin[axis] + sum(lengths[i][axis] for i in group) for axis in axes}
        packs.append(
            Pack(
                index=number,
                documents=tuple(group),
                token_start=dict(begin),
                token_stop=stop,
                document_start={axis: tuple(int(s) for s in starts[axis]) for axis in axes},
            )
        )
        begin = {axis: -(-stop[axis] // block) * block for axis in axes}
    return tuple(packs)


def _running(sizes: list[int]) -> NDArray[np.int64]:
    """Where each of `sizes` begins when laid end to end."""
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)
