"""What may be done with a block of weights, one function an action.

Suffixes: H the block's heads, Q its rows, K its keys. Every function changes the block, of the cells that `mask_HQK`
names: its heads, queries, keys and offsets, inside the key intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from attlas.engine.edit import noise
from attlas.engine.edit.block import Block
from attlas.engine.edit.edit import Edit

__all__ = ["DOING", "Cells"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """Which of a block an edit is of. mask_HQK: the cells, visible ones alone; rows_HQ: the rows. other: the place in
    the block of the head to swap with. values: of `set`, the part that belongs to this block, to be broadcast."""

    mask_HQK: torch.Tensor
    rows_HQ: torch.Tensor
    other: int | None = None
    values: torch.Tensor | None = None


def _knock_out(block: Block, edit: Edit, cells: Cells) -> None:
    assert edit.renormalise is not None
    block.take_out(cells.mask_HQK, edit.renormalise)


def _zero(block: Block, edit: Edit, cells: Cells) -> None:
    block.weights().masked_fill_(cells.mask_HQK, 0.0)


def _scale(block: Block, edit: Edit, cells: Cells) -> None:
    assert edit.factor is not None
    block.weights()[cells.mask_HQK] *= edit.factor


def _uniform(block: Block, edit: Edit, cells: Cells) -> None:
    a_HQK = block.weights()
    seen_Q = block.visible_QK.sum(1).clamp_min(1)
    even_HQ = a_HQK.sum(2) / seen_Q
    torch.where(cells.mask_HQK, even_HQ[:, :, None], a_HQK, out=a_HQK)


def _temperature(block: Block, edit: Edit, cells: Cells) -> None:
    assert edit.temperature is not None
    if block.s_HQK is not None:
        sink_H = None if block.sink_H is None else block.sink_H / edit.temperature
        block.renew(block.s_HQK / edit.temperature, sink_H, cells.rows_HQ)
        return
    a_HQK = block.weights()
    before_HQ = a_HQK.sum(2)
    torch.where(cells.mask_HQK, a_HQK.clamp_min(0) ** (1 / edit.temperature), a_HQK, out=a_HQK)
    block.to_sum(before_HQ, cells.rows_HQ)


def _noise(block: Block, edit: Edit, cells: Cells) -> None:
    assert edit.size is not None
    assert edit.seed is not None
    drawn_HQK = noise.normal(edit.seed, block.layer, block.heads, block.query_Q, block.key_K, block.device)
    drawn_HQK = drawn_HQK.mul_(edit.size).masked_fill_(~cells.mask_HQK, 0.0)
    if edit.on == "scores" and block.s_HQK is not None:
        block.renew(block.s_HQK + drawn_HQK, block.sink_H, cells.rows_HQ)
        return
    a_HQK = block.weights()
    before_HQ = a_HQK.sum(2)
    if edit.on == "scores":
        a_HQK *= drawn_HQK.exp_()
    else:
        a_HQK += drawn_HQK
        a_HQK.clamp_min_(0.0)
    block.to_sum(before_HQ, cells.rows_HQ)


def _drop_top(block: Block, edit: Edit, cells: Cells) -> None:
    assert edit.renormalise is not None
    block.take_out(_largest(block, edit, cells), edit.renormalise)


def _drop_random(block: Block, edit: Edit, cells: Cells) -> None:
    assert edit.seed is not None
    top_HQK = _largest(block, edit, cells)
    if edit.match == "count":
        assert edit.renormalise is not None
        block.take_out(_drawn(block, edit, cells, top_HQK.sum(2)), edit.renormalise)
        return
    a_HQK = block.weights()
    goal_HQ = torch.where(top_HQK, a_HQK, 0.0).double().sum(2)
    order = noise.uniform(edit.seed, block.layer, block.heads, block.query_Q, block.key_K, block.device)
    order = order.masked_fill_(~cells.mask_HQK, 2.0).argsort(dim=2, stable=True)
    drawn = torch.where(cells.mask_HQK, a_HQK, 0.0).gather(2, order).double()
    gone = (goal_HQ[:, :, None] - (drawn.cumsum(2) - drawn)).clamp_min_(0.0)
    gone = torch.minimum(gone, drawn)
    before_HQ = a_HQK.sum(2)
    a_HQK -= torch.zeros_like(a_HQK).scatter_(2, order, gone.float())
    a_HQK.clamp_min_(0.0)
    if edit.renormalise == "rest":
        block.to_sum(before_HQ, cells.rows_HQ)


def _swap(block: Block, edit: Edit, cells: Cells) -> None:
    assert cells.other is not None
    own = int(torch.nonzero(cells.rows_HQ.any(1))[0, 0])
    rows_Q = cells.rows_HQ[own]
    for x in (block.a_HQK, block.s_HQK, block.lse_HQ):
        if x is not None:
            mine, theirs = x[own, rows_Q].clone(), x[cells.other, rows_Q].clone()
            x[own, rows_Q], x[cells.other, rows_Q] = theirs, mine


def _set(block: Block, edit: Edit, cells: Cells) -> None:
    assert cells.values is not None
    a_HQK = block.weights()
    torch.where(cells.mask_HQK, cells.values, a_HQK, out=a_HQK)


DOING: dict[str, Callable[[Block, Edit, Cells], None]] = {
    "knock_out": _knock_out, "zero": _zero, "scale": _scale, "uniform": _uniform, "temperature": _temperature,
    "noise": _noise, "drop_top": _drop_top, "drop_random": _drop_random, "swap": _swap, "set": _set,
}  # fmt: skip


def _drawn(block: Block, edit: Edit, cells: Cells, count_HQ: torch.Tensor) -> torch.Tensor:
    """As many cells of each row, drawn by the edit's seed (H, Q, K)."""
    assert edit.seed is not None
    order = noise.uniform(edit.seed, block.layer, block.heads, block.query_Q, block.key_K, block.device)
    place = order.masked_fill_(~cells.mask_HQK, 2.0).argsort(dim=2, stable=True)
    chosen = (torch.arange(place.shape[2], device=place.device) < count_HQ[:, :, None]).expand(place.shape)
    return torch.zeros_like(cells.mask_HQK).scatter_(2, place, chosen)


def _largest(block: Block, edit: Edit, cells: Cells) -> torch.Tensor:
    """The largest cells of each row (H, Q, K); of equal ones those of the earlier keys."""
    value = block.s_HQK if block.s_HQK is not None else block.weights()
    value = value.masked_fill(~cells.mask_HQK, -torch.inf)
    sees_HQ = cells.mask_HQK.sum(2)
    if edit.top is not None:
        count_HQ = sees_HQ.clamp_max(edit.top)
    else:
        assert edit.share is not None
        count_HQ = torch.floor(sees_HQ.double() * edit.share + 1e-9).long()
    most = int(count_HQ.max())
    found_HQK = torch.zeros_like(cells.mask_HQK)
    if most == 0:
        return found_HQK
    place = torch.sort(value, dim=2, descending=True, stable=True).indices[:, :, :most]
    return found_HQK.scatter_(2, place, torch.arange(most, device=place.device) < count_HQ[:, :, None])
