"""The rows of one layer and chunk: where they lie in the passage, what they see, and which of them are kept.

Suffixes: N the rows of one chunk, M keys so far, R kept rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall
from attlas.engine.kernels.problem import TokenFacts
from attlas.engine.model.layout import KINDS, LayerLayout
from attlas.engine.passage.passage import AxisTokens, Passage

__all__ = ["ChunkRows", "token_facts"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRows:
    """The rows of one layer and chunk: N of them on the query axis, and which of them are kept.

    rows: their range in the passage. start_N, stop_N: key intervals in indices into the passage's keys.
    chosen_R: the kept rows, as indices into the N; None for all. row_start: place of the first kept row on the atlas's
    axis. ordinal_R: how many kept rows of the own document come before.
    """

    layout: LayerLayout
    query_axis: AxisTokens
    key_axis: AxisTokens
    rows: slice
    start_N: Indices
    stop_N: Indices
    tokens: TokenFacts
    chosen_R: Indices | None
    row_start: int
    ordinal_R: Indices

    @classmethod
    def of(
        cls, call: AttentionCall, layout: LayerLayout, passage: Passage, chunk: tuple[int, int], tokens: TokenFacts
    ) -> ChunkRows:
        """tokens: of the layer's kind in this chunk, see `token_facts`."""
        query_name, key_name = KINDS[layout.kind]
        query_axis, key_axis = passage.axes[query_name], passage.axes[key_name]
        rows = _rows(passage, query_axis, chunk)
        start_N, stop_N = _intervals(call, layout, query_axis, key_axis, rows)
        choice = passage.rows.get(query_name)
        if choice is None:
            chosen_R, row_start, ordinal_R = None, query_axis.token_start + rows.start, query_axis.position_T[rows]
        else:
            first, last = np.searchsorted(choice.place_R, [rows.start, rows.stop])
            chosen_R = choice.place_R[first:last] - rows.start
            row_start, ordinal_R = choice.row_start + int(first), choice.ordinal_R[first:last]
        return cls(
            layout, query_axis, key_axis, rows, start_N, stop_N, tokens, chosen_R, row_start, ordinal_R
        )  # fmt: skip

    @property
    def own_keys(self) -> slice:
        """The keys that came with these rows, in the passage: earlier chunks' keys came with earlier rows."""
        return self.rows if self.query_axis is self.key_axis else slice(0, len(self.key_axis))

    def kept(self, values: Indices) -> Indices:
        """Of one value for each of the N rows, those of the kept rows."""
        return values if self.chosen_R is None else values[self.chosen_R]


def _rows(passage: Passage, query_axis: AxisTokens, chunk: tuple[int, int]) -> slice:
    """A chunk's rows on their axis."""
    return slice(0, len(query_axis)) if len(passage.chunks) == 1 else slice(*chunk)


def _intervals(
    call: AttentionCall, layout: LayerLayout, query_axis: AxisTokens, key_axis: AxisTokens, rows: slice
) -> tuple[Indices, Indices]:
    """Each row's key interval in indices into the passage's keys."""
    count = rows.stop - rows.start
    if query_axis is not key_axis:
        if call.mask is not None:
            call.mask.check_full(count, len(key_axis))
        return np.zeros(count, dtype=np.int64), np.full(count, len(key_axis), dtype=np.int64)
    position_N, length_N = query_axis.position_T[rows], query_axis.length_T[rows]
    first_N = query_axis.first_T[rows]
    if call.mask is not None:
        start_N, stop_N = call.mask.intervals(position_N, length_N)
    elif call.causal:
        start_N, stop_N = np.zeros_like(position_N), position_N + 1
    else:
        start_N, stop_N = np.zeros_like(position_N), length_N
    if layout.rule.bias is not None:
        layout.rule.bias.check_reach(int((start_N - position_N).min()), int((stop_N - position_N).max()) - 1)
    return first_N + start_N, first_N + stop_N


def token_facts(kind: str, passage: Passage, chunk: tuple[int, int], keys: int) -> TokenFacts:
    """What all layers of a kind have in common in one chunk, whose rows have `keys` keys before and beside them."""
    query_axis, key_axis = (passage.axes[name] for name in KINDS[kind])
    rows, same_axis = _rows(passage, query_axis, chunk), query_axis is key_axis
    return TokenFacts(
        first_N=query_axis.first_T[rows] if same_axis else np.zeros(rows.stop - rows.start, dtype=np.int64),
        own_N=np.arange(rows.start, rows.stop) if same_axis else None,
        ids_N=query_axis.ids_T[rows],
        ids_M=key_axis.ids_T[:keys],
        special_M=key_axis.special_T[:keys],
    )
