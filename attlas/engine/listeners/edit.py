"""The listener that edits: changes weights between what the model asks and what it is answered.

Suffixes: H query heads, h those that are edited, N the rows of a chunk, M keys so far, Q and K the rows and keys of one
block, V value features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.edit.actions import DOING, Cells
from attlas.engine.edit.block import Block
from attlas.engine.edit.change import change_of
from attlas.engine.edit.edit import Edit
from attlas.engine.edit.places import TokenText
from attlas.engine.edit.plan import REPLACING, LayerEdits, plan_edits
from attlas.engine.kernels import door, reference
from attlas.engine.kernels.edited_cpu import attend_edited
from attlas.engine.kernels.measure import TILE_BYTES, Attended, Measure, RowStatistics
from attlas.engine.kernels.problem import Problem
from attlas.engine.listeners.compute import Compute
from attlas.engine.model.layout import ModelLayout
from attlas.engine.passage.chunk_rows import ChunkRows
from attlas.errors import InputError

__all__ = ["Editing"]

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

HELD = 6
"""Arrays of a block that are held at a time: scores, weights, a mask, random numbers, an order."""


class Editing(Listener):
    """Makes edits in the layers that they are of; all others are answered as they would be.

    text: token ids -> their texts, for edits that name tokens. tile_bytes: what the arrays of a block take at most, or
    those of one row. output_only: nobody asks for the log-sum-exp of the unedited weights, for anything measured of
    them, or for the unedited output: a layer of which every weight is edited is then computed once. What stands outside
    sees the model's call unedited and the edited output; statistics of the weights are of the unedited ones. The calls
    must be placed in a passage. Raises InputError where an edit is of nothing in the model, or of places that a
    document lacks.
    """

    def __init__(
        self,
        edits: Sequence[Edit],
        layout: ModelLayout,
        *,
        text: TokenText | None = None,
        document_ids: Callable[[int], str] = str,
        tile_bytes: int = TILE_BYTES,
        output_only: bool = False,
    ) -> None:
        self.plans: Mapping[str, LayerEdits] = plan_edits(edits, layout)
        self.text, self.document_ids, self.tile_bytes = text, document_ids, tile_bytes
        self.output_only = output_only
        self._places: dict[tuple[int, str, str, int, int], Flags] = {}

    def compute(self, call: AttentionCall) -> Attended:
        """What the model asks, or nothing where all of it is computed anew."""
        if not self._is_anew(call):
            return Compute().compute(call)
        heads, rows = call.q_HND.shape[:2]
        out_NHV = call.v_GMV.new_empty(rows, heads, call.v_GMV.shape[2])
        return Attended(out_NHV=out_NHV, rows=RowStatistics(lse_HN=torch.full((heads, rows), torch.nan)))

    def _is_anew(self, call: AttentionCall) -> bool:
        plan = self._plan(call)
        if plan is None or plan.way != "rows" or not self.output_only or call.q_HND.device.type != "cpu":
            return False
        needs_gradient = torch.is_grad_enabled() and call.q_HND.requires_grad
        every = len(plan.union) == call.q_HND.shape[0] and bool(self._rows(call, plan.edits[0]).all())
        return every and not call.measure.anything and not needs_gradient

    def before(self, call: AttentionCall) -> AttentionCall:
        plan = self._plan(call)
        if plan is None or plan.way != "call":
            return call
        (edit,), (heads,) = plan.edits, plan.heads
        assert edit.temperature is not None
        by_HN = torch.ones(call.q_HND.shape[:2])
        by_HN[torch.from_numpy(heads)[:, None], torch.from_numpy(np.flatnonzero(self._rows(call, edit)))] = (
            1 / edit.temperature
        )
        q_HND = call.q_HND * by_HN[:, :, None].to(call.q_HND)
        rule = call.rule
        if rule.sink_H is not None:
            sink_H = rule.sink_H.copy()
            sink_H[heads] /= np.float32(edit.temperature)
            rule = replace(rule, sink_H=sink_H)
        return replace(call, q_HND=q_HND, rule=rule)

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        plan = self._plan(call)
        if plan is None or plan.way == "call":
            return attended
        out_NHV = attended.out_NHV.clone()
        if plan.way == "heads":
            self._swapped(call, plan, out_NHV)
        elif plan.way == "rows" and call.q_HND.device.type == "cpu":
            self._by_rows(call, plan, None if self._is_anew(call) else attended.rows.lse_HN, out_NHV)
        elif plan.way in ("rows", "tiles"):
            self._by_tiles(call, plan, out_NHV)
        for edit, heads, place in zip(plan.edits, plan.heads, plan.places, strict=True):
            if plan.way == "output" or edit.do in REPLACING:
                self._output(call, edit, heads, place, out_NHV)
        return replace(attended, out_NHV=out_NHV)

    def _plan(self, call: AttentionCall) -> LayerEdits | None:
        return self.plans.get(_chunk(call).layout.module)

    def _output(self, call: AttentionCall, edit: Edit, heads: Indices, place: int, out_NHV: torch.Tensor) -> None:
        row_N = np.flatnonzero(self._rows(call, edit))
        if not row_N.size:
            return
        at = torch.from_numpy(row_N)[:, None], torch.from_numpy(heads)
        if edit.do == "zero":
            out_NHV[at] = 0
        elif edit.do == "scale":
            assert edit.factor is not None
            out_NHV[at] *= edit.factor
        elif edit.do == "uniform":
            v_hMV = _of_heads(call, call.v_GMV, heads)
            out_NHV[at] = _means(v_hMV, call, row_N).to(out_NHV.dtype)
        else:
            values_hQV = self._values(edit, place, len(heads), self._ordinals(call, edit, row_N), out_NHV.shape[2])
            out_NHV[at] = values_hQV.transpose(0, 1).to(out_NHV)

    def _swapped(self, call: AttentionCall, plan: LayerEdits, out_NHV: torch.Tensor) -> None:
        """Each of the two heads again, by q and k of the other."""
        (edit,), (own,) = plan.edits, plan.heads
        assert edit.other is not None
        row_N = np.flatnonzero(self._rows(call, edit))
        if not row_N.size or own[0] == edit.other:
            return
        two, rows = np.array([own[0], edit.other]), torch.from_numpy(row_N)
        for head, other in (two, two[::-1]):
            problem = _part(call, np.array([other]), row_N)
            found = door.attend(problem, _of_heads(call, call.v_GMV, np.array([head])), Measure())
            out_NHV[rows, int(head)] = found.out_NHV[:, 0].to(out_NHV.dtype)

    def _by_rows(
        self, call: AttentionCall, plan: LayerEdits, lse_HN: torch.Tensor | None, out_NHV: torch.Tensor
    ) -> None:
        """The same by compiled passes, of one edit that they know."""
        rows, heads, edit = _chunk(call), plan.union, plan.edits[0]
        touched_N = self._rows(call, edit)
        keys = call.k_GMD.shape[1]
        key_in_M = self._keys(call, edit) if edit.key is not None else np.ones(keys, dtype=bool)
        document_N, position_N = (x[rows.rows] for x in (rows.query_axis.document_T, rows.query_axis.position_T))
        for document in np.unique(document_N[touched_N]).tolist():
            row_R = np.flatnonzero(touched_N & (document_N == document))
            part = _part(call, heads, row_R)
            change = change_of(edit, plan.layer, heads, key_in_M, position_N[row_R], int(part.tokens.first_N[0]))
            v_GMV = _of_groups(call, heads, part.groups)
            at = torch.from_numpy(heads)[:, None], torch.from_numpy(row_R)
            lse_HR = None if lse_HN is None else lse_HN[at]
            found_RHV = attend_edited(part, lse_HR, v_GMV, change, tile_bytes=self.tile_bytes)
            place_R = torch.from_numpy(row_R)[:, None]
            out_NHV[place_R, torch.from_numpy(heads)] = found_RHV.to(out_NHV.dtype)

    def _by_tiles(self, call: AttentionCall, plan: LayerEdits, out_NHV: torch.Tensor) -> None:
        """The rows of the edited heads again, a block at a time."""
        rows, heads = _chunk(call), plan.union
        steps = [
            (e, h, p) for e, h, p in zip(plan.edits, plan.heads, plan.places, strict=True) if e.do not in REPLACING
        ]
        touched_N = np.logical_or.reduce([self._rows(call, edit) for edit, _, _ in steps])
        v_hMV = _of_heads(call, call.v_GMV, heads)
        document_N = rows.query_axis.document_T[rows.rows]
        for document in np.unique(document_N[touched_N]).tolist():
            row_R = np.flatnonzero(touched_N & (document_N == document))
            part = call.problem().of(heads, row_R)
            first = int(part.tokens.first_N[0])
            for begin, end, low, high in reference.plan_rows(
                part.start_N, part.stop_N, len(heads) * 4 * HELD, door.device_tile(part, self.tile_bytes)
            ):
                at, key_K = slice(begin, end), np.arange(low, high)
                tile = part.tile(at, slice(low, high))
                block = _block(plan.layer, heads, tile, key_K, rows.query_axis.position_T[rows.rows][row_R[at]], first)
                for edit, own, place in steps:
                    cells = self._cells(call, edit, own, place, block, row_R[at], low, heads)
                    if bool(cells.mask_HQK.any()):
                        DOING[edit.do](block, edit, cells)
                out_HQV = torch.bmm(block.weights(), v_hMV[:, low:high].float())
                place_Q = torch.from_numpy(row_R[at])[:, None]
                out_NHV[place_Q, torch.from_numpy(heads)] = out_HQV.transpose(0, 1).to(out_NHV.dtype)

    def _cells(
        self, call: AttentionCall, edit: Edit, own: Indices, place: int, block: Block, row_Q: Indices, low: int,
        heads: Indices,
    ) -> Cells:  # fmt: skip
        device = block.visible_QK.device
        row_in = torch.from_numpy(self._rows(call, edit)[row_Q]).to(device)
        mask_QK = block.visible_QK & row_in[:, None]
        if edit.key is not None:
            mask_QK &= torch.from_numpy(self._keys(call, edit)[low : low + len(block.key_K)]).to(device)
        if edit.offset is not None:
            offset_QK = block.key_K[None, :] - block.query_Q[:, None]
            mask_QK &= torch.from_numpy(np.isin(offset_QK, edit.offset)).to(device)
        of_H = torch.from_numpy(np.isin(heads, own)).to(device)
        values = None
        if edit.do == "set":
            values = self._cell_values(call, edit, own, place, block, row_Q, low, heads).to(device)
        return Cells(
            mask_HQK=of_H[:, None, None] & mask_QK, rows_HQ=of_H[:, None] & row_in, values=values,
            other=None if edit.other is None else int(np.searchsorted(heads, edit.other)),
        )  # fmt: skip

    def _cell_values(
        self, call: AttentionCall, edit: Edit, own: Indices, place: int, block: Block, row_Q: Indices, low: int,
        heads: Indices,
    ) -> torch.Tensor:  # fmt: skip
        """`set`'s values at the cells of a block (H, Q, K), zero elsewhere."""
        key_in = self._keys(call, edit) if edit.key is not None else np.ones(call.k_GMD.shape[1], dtype=bool)
        document_M = self._own_keys(call, int(row_Q[0]))
        chosen_M = np.flatnonzero(key_in[document_M]) + document_M.start
        inside = np.flatnonzero((chosen_M >= low) & (chosen_M < low + len(block.key_K)))
        given = self._values(edit, place, len(own), self._ordinals(call, edit, row_Q), len(chosen_M))
        out = torch.zeros(len(heads), len(row_Q), len(block.key_K))
        columns = torch.from_numpy(chosen_M[inside] - low)
        at = torch.from_numpy(np.searchsorted(heads, own))
        out[at[:, None, None], torch.arange(len(row_Q))[:, None], columns] = given[:, :, torch.from_numpy(inside)]
        return out

    def _values(self, edit: Edit, place: int, heads: int, ordinal_Q: Indices, width: int) -> torch.Tensor:
        """`values` of one layer, (heads, Q, width), of rows that are the n-th of those chosen."""
        layers, have, queries, columns = edit.values.shape
        most = int(ordinal_Q.max()) + 1 if ordinal_Q.size else 0
        for name, size, needed in (("heads", have, heads), ("columns", columns, width)):
            if size not in (1, needed):
                raise InputError(
                    f"values hold {size} {name}, and the edit is of {needed}: give as many, or one for all"
                )
        if (layers != 1 and place >= layers) or (queries != 1 and most > queries):
            raise InputError(f"values hold {layers} layers x {queries} queries, and the edit is of more: give as many")
        part = torch.from_numpy(edit.values[place if layers > 1 else 0])
        part = part[:, torch.from_numpy(ordinal_Q)] if queries > 1 else part
        return part.expand(heads, len(ordinal_Q), width)

    def _ordinals(self, call: AttentionCall, edit: Edit, row_Q: Indices) -> Indices:
        """How many chosen rows of the own document come before each of these."""
        rows = _chunk(call)
        axis, place_Q = rows.query_axis, rows.rows.start + row_Q
        chosen_T = self._of_axis(edit, "query", call)
        before_T = np.concatenate([[0], np.cumsum(chosen_T)])
        ordinal_Q: Indices = before_T[place_Q] - before_T[axis.first_T[place_Q]]
        return ordinal_Q

    def _rows(self, call: AttentionCall, edit: Edit) -> Flags:
        """Which rows of the chunk an edit is of, (N,)."""
        return self._of_axis(edit, "query", call)[_chunk(call).rows]

    def _keys(self, call: AttentionCall, edit: Edit) -> Flags:
        """Which keys, (M,)."""
        return self._of_axis(edit, "key", call)[: call.k_GMD.shape[1]]

    def _of_axis(self, edit: Edit, dim: str, call: AttentionCall) -> Flags:
        """Which tokens of the passage's axis, (T,); found out once."""
        rows = _chunk(call)
        axis, places = (rows.query_axis, edit.query) if dim == "query" else (rows.key_axis, edit.key)
        known = (id(edit), dim, rows.layout.kind, id(axis), len(axis))
        if known not in self._places:
            inside_T = np.ones(len(axis), dtype=bool)
            if places is not None:
                for document in np.unique(axis.document_T):
                    at = axis.document_T == document
                    inside_T[at] = places.within(
                        self.document_ids(int(document)), axis.ids_T[at], axis.special_T[at], self.text
                    )
            self._places[known] = inside_T
        return self._places[known]

    def _own_keys(self, call: AttentionCall, row: int) -> slice:
        rows = _chunk(call)
        if rows.query_axis is not rows.key_axis:
            return slice(0, call.k_GMD.shape[1])
        place = rows.rows.start + row
        first = int(rows.key_axis.first_T[place])
        return slice(first, min(first + int(rows.key_axis.length_T[place]), call.k_GMD.shape[1]))


def _block(
    layer: int, heads: Indices, tile: Problem, key_K: Indices, query_Q: Indices, first: int
) -> Block:  # fmt: skip
    s_HQK, visible_QK = reference.scores(tile, key_M=key_K)
    lse_HQ = torch.logsumexp(s_HQK, dim=2)
    sink_H = None
    if tile.rule.sink_H is not None:
        sink_H = torch.from_numpy(np.ascontiguousarray(tile.rule.sink_H)).to(tile.device)
    if sink_H is not None:
        lse_HQ = torch.logaddexp(lse_HQ, sink_H[:, None])
    return Block(
        layer=layer, heads=heads, query_Q=query_Q, key_K=key_K - first, visible_QK=visible_QK, s_HQK=s_HQK,
        lse_HQ=lse_HQ, sink_H=sink_H,
    )  # fmt: skip


def _part(call: AttentionCall, heads: Indices, row_R: Indices) -> Problem:
    """The problem of some heads and rows; what is all of them is not copied."""
    every = len(heads) == call.q_HND.shape[0], len(row_R) == call.q_HND.shape[1]
    return call.problem().of(None if every[0] else heads, None if every[1] else row_R)


def _of_heads(call: AttentionCall, v_GMV: torch.Tensor, heads: Indices) -> torch.Tensor:
    """(h, M, V): each head's values."""
    return v_GMV[torch.from_numpy(heads // (call.q_HND.shape[0] // len(v_GMV)))]


def _of_groups(call: AttentionCall, heads: Indices, groups: int) -> torch.Tensor:
    """The values of kv heads as `Problem.of` shares them among these heads."""
    place = heads // (call.q_HND.shape[0] // len(call.v_GMV))
    shared = np.unique(place)
    if len(shared) == len(call.v_GMV) == groups:
        return call.v_GMV
    return call.v_GMV[torch.from_numpy(shared if len(shared) == groups else place)]


def _means(v_hMV: torch.Tensor, call: AttentionCall, row_N: Indices) -> torch.Tensor:
    """(rows, h, V): the mean of the values in each row's key interval."""
    assert call.start_N is not None
    assert call.stop_N is not None
    start, stop = (torch.from_numpy(x[row_N]).to(v_hMV.device) for x in (call.start_N, call.stop_N))
    running = torch.nn.functional.pad(v_hMV.double().cumsum(1), (0, 0, 1, 0))
    return ((running[:, stop] - running[:, start]) / (stop - start)[:, None]).transpose(0, 1)


def _chunk(call: AttentionCall) -> ChunkRows:
    assert call.chunk is not None, "a call is placed in a passage before it is edited"
    return call.chunk
