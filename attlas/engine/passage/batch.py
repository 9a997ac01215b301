"""Rows of token ids with what a tokenizer gives beside them: masks, token types, positions. Documents come out.

A document is a row without its padding; a row whose positions restart holds several.
Suffixes: N the tokens of one row, as given or without padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.engine.passage.raw import Ids, RawDocument, as_array, describe, parse_ids
from attlas.errors import InputError
from attlas.parse import is_integer

__all__ = ["BESIDE", "BATCH_NAMES", "parse_batch"]

Indices = NDArray[np.int64]
BESIDE = ("attention_mask", "token_type_ids", "position_ids")
BATCH_NAMES = {"input_ids", "decoder_input_ids", "decoder_attention_mask", "labels", *BESIDE}
UNHEARD = {"special_tokens_mask", "offset_mapping", "length", "overflowing_tokens", "num_truncated_tokens"}
UNHEARD |= {"overflow_to_sample_mapping"}
"""What a tokenizer may give besides, which no model reads."""
NO_LABEL = -100


def parse_batch(batch: Mapping[str, Any], where: str, *, more: bool = False) -> list[RawDocument]:
    """Documents of `input_ids`, one row or many, and what belongs to it, in the order of the rows.

    where: what the batch is called in an error. more: other names may stand beside, which are not looked at.
    Raises InputError.
    """
    unknown = sorted(str(name) for name in batch if name not in BATCH_NAMES | UNHEARD)
    if unknown and not more:
        raise InputError(
            f"{where} has {unknown[0]!r} beside input_ids, of which a capture knows nothing: give "
            f"{', '.join(('input_ids', *BESIDE))}"
        )
    rows = _rows(batch["input_ids"], f"{where}: input_ids")
    masks, types, positions = (
        _beside(batch.get(name), rows, f"{where}: {name}", alike=name == "position_ids") for name in BESIDE
    )
    targets = _targets(batch, where, len(rows))
    documents: list[RawDocument] = []
    for number, ids_N in enumerate(rows):
        told = f"{where}, row {number}" if len(rows) > 1 else where
        parts = _documents(ids_N, masks[number], types[number], positions[number], told)
        if targets is not None and len(parts) > 1:
            raise InputError(f"{told} has position_ids that restart beside a target: give one document a row")
        documents += [
            RawDocument(
                side=part,
                pair=None if targets is None else targets[number],
                is_target=targets is not None,
                where=told,
            )
            for part in parts
        ]
    return documents


def _rows(value: Any, what: str) -> list[Indices]:
    """One row of ids, or many: a matrix, or a list of rows of any lengths."""
    array = None if isinstance(value, list | tuple) and value and not is_integer(value[0]) else as_array(value)
    if array is not None and array.ndim == 1 and array.size and array.dtype != object:
        return [parse_ids(value, what)]
    if array is not None and (array.ndim > 2 or array.ndim == 0):
        raise InputError(f"{what} is {describe(value)}: give one row of token ids, or a row a document")
    if array is None and not isinstance(value, list | tuple):
        raise InputError(f"{what} is {describe(value)}: give one row of token ids, or a row a document")
    items = list(value) if array is None else list(array)
    if not items:
        raise InputError(f"{what} is empty: there is nothing to capture")
    return [parse_ids(row, f"{what}, row {number}") for number, row in enumerate(items)]


def _beside(value: Any, rows: list[Indices], what: str, *, alike: bool) -> list[Indices] | list[None]:
    """As many rows of integers, each as long as its ids. alike: one row may stand for all."""
    if value is None:
        return [None] * len(rows)
    array = as_array(value)
    if array is not None and array.dtype == np.bool_:
        value = array.astype(np.int64)
    elif isinstance(value, list | tuple):
        value = [np.asarray(row, dtype=np.int64) if _is_boolean(row) else row for row in value]
    found = _rows(value, what)
    if alike and len(found) == 1:
        found = found * len(rows)
    if len(found) != len(rows):
        raise InputError(f"{what} has {len(found)} rows, and input_ids has {len(rows)}: give one for each")
    for number, (row, ids_N) in enumerate(zip(found, rows, strict=True)):
        if len(row) != len(ids_N):
            raise InputError(
                f"{what}, row {number}, has {len(row)} places, and its token ids {len(ids_N)}: give one for each"
            )
    return found


def _is_boolean(row: Any) -> bool:
    array = as_array(row)
    return array is not None and array.dtype == np.bool_


def _targets(batch: Mapping[str, Any], where: str, count: int) -> list[Ids] | None:
    """The targets of an encoder-decoder's batch, by what its decoder reads or by what it is to predict."""
    given = batch.get("decoder_input_ids")
    if given is None and batch.get("labels") is None:
        return None
    name = "labels" if given is None else "decoder_input_ids"
    rows = _rows(batch[name], f"{where}: {name}")
    if len(rows) != count:
        raise InputError(f"{where}: {name} has {len(rows)} rows, and input_ids has {count}: give one for each")
    mask = batch.get("decoder_attention_mask")
    masks = _beside(mask, rows, f"{where}: decoder_attention_mask", alike=False)
    if given is None:
        masks = [np.asarray(row != NO_LABEL, dtype=np.int64) for row in rows]
    targets = []
    for number, (row, row_mask) in enumerate(zip(rows, masks, strict=True)):
        keep = _unpadded(row_mask, len(row), f"{where}, {name} of row {number}")
        targets.append(Ids(ids_N=row[keep], padding_left=keep.start, masked=row_mask is not None, labels=given is None))
    return targets


def _documents(
    ids_N: Indices, mask_N: Indices | None, type_N: Indices | None, position_N: Indices | None, what: str
) -> list[Ids]:
    """The documents of one row: one, or several where positions restart."""
    keep = _unpadded(mask_N, len(ids_N), what)
    ids_N, type_N, position_N = (None if x is None else x[keep] for x in (ids_N, type_N, position_N))  # type: ignore[assignment]
    starts = [0] if position_N is None else [0, *(np.flatnonzero(np.diff(position_N) != 1) + 1).tolist()]
    return [
        Ids(
            ids_N=ids_N[start:stop],
            type_N=None if type_N is None else type_N[start:stop],
            first_position=None if position_N is None else int(position_N[start]),
            padding_left=keep.start,
            masked=mask_N is not None,
            packed=start > 0,
        )
        for start, stop in zip(starts, [*starts[1:], len(ids_N)], strict=True)
    ]


def _unpadded(mask_N: Indices | None, length: int, what: str) -> slice:
    """The run of tokens that a mask leaves; all without one."""
    if mask_N is None:
        return slice(0, length)
    if not np.isin(mask_N, (0, 1)).all():
        wrong = mask_N[~np.isin(mask_N, (0, 1))][0]
        raise InputError(f"{what} has an attention_mask with {wrong} in it: give 1 for tokens and 0 for padding")
    places = np.flatnonzero(mask_N)
    if not len(places):
        raise InputError(f"{what} is padding alone by its attention_mask: remove it")
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 != len(places):
        hole = first + int(np.flatnonzero(mask_N[first : last + 1] == 0)[0])
        raise InputError(
            f"{what} has an attention_mask with a hole at place {hole}: it may leave out padding at the ends alone; "
            "take the token out of the ids"
        )
    return slice(first, last + 1)
