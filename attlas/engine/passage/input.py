"""The door of a capture: whatever people hold texts and ids in becomes checked documents, or is refused by name."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attlas.engine.passage.batch import BESIDE, parse_batch
from attlas.engine.passage.files import read_file
from attlas.engine.passage.raw import (
    MOST_IDS,
    Ids,
    RawDocument,
    Side,
    as_array,
    describe,
    is_chat,
    parse_chat,
    parse_ids,
    parse_name,
    parse_text,
)
from attlas.engine.passage.records import is_record, parse_record
from attlas.errors import InputError
from attlas.parse import is_integer

__all__ = ["Texts", "parse_documents"]

Texts = str | Path | RawDocument | Mapping[Any, Any] | Iterable[Any]
"""What `parse_documents` takes."""

REFUSED = (bytes, bytearray, memoryview, set, frozenset, io.IOBase, int, float, complex, np.generic, type(None))
EXPECTED = "a text, a list of texts, token ids, a mapping of ids and texts, a frame with a column text, or a path"


def parse_documents(
    texts: Any,
    *,
    ids: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    pairs: str | None = None,
) -> list[RawDocument]:
    """Every document in order, each with an id of its own; raises InputError where anything is not what it seems.

    texts: one or many of: a str; token ids (a sequence, or a NumPy or torch array; a row a document where it has two
    dimensions); a pair of these as a tuple; chat messages; a record such as {"id", "text", ...}; a path of a file. Or
    a mapping from ids to such; a tokenizer's output; a frame or table with a column text.
    attention_mask, token_type_ids, position_ids: of token ids, shaped as they are; padding is left out, and a row is
    cut into documents where its positions restart.
    ids: the documents' names; their own by default, and "doc-0", "doc-1", ... where they have none.
    pairs: what a pair is to the model: "target" for an encoder-decoder, "sentence" for an encoder, None for no sense.
    """
    beside = {
        name: value
        for name, value in zip(BESIDE, (attention_mask, token_type_ids, position_ids), strict=True)
        if value is not None
    }
    names = None if ids is None else _names(ids)
    found = _with_beside(texts, beside) if beside else _documents(texts, pairs, names)
    if not found:
        raise InputError("there is nothing to capture: give at least one text")
    return _named(found, names)


def _with_beside(texts: Any, beside: dict[str, Any]) -> list[RawDocument]:
    """Token ids with a mask, types or positions given as arguments."""
    named = next(iter(beside))
    if isinstance(texts, Mapping) and "input_ids" in texts:
        twice = next((name for name in beside if name in texts), None)
        if twice is not None:
            raise InputError(f"{twice} is given twice, beside input_ids and as an argument: give it once")
        return parse_batch({**texts, **beside}, "the batch")
    if isinstance(texts, (str, Mapping, RawDocument, Path, *REFUSED)) or not isinstance(texts, Iterable):
        raise InputError(f"{named} belongs to token ids, and what is given is {describe(texts)}: leave it out")
    rows = texts if as_array(texts) is not None or isinstance(texts, list | tuple) else list(texts)
    if isinstance(rows, list | tuple) and any(isinstance(row, str | tuple | Mapping) for row in rows):
        raise InputError(f"{named} belongs to token ids, and what is given is {describe(rows)}: leave it out")
    return parse_batch({"input_ids": rows, **beside}, "the batch")


def _documents(texts: Any, pairs: str | None, names: list[str | None] | None) -> list[RawDocument]:
    def where(number: int) -> str:
        name = names[number] if names is not None and number < len(names) else None
        return f"document {(name or f'doc-{number}')!r}"

    if isinstance(texts, RawDocument):
        return [texts]
    if isinstance(texts, str):
        return [RawDocument(side=parse_text(texts, where(0)), where=where(0))]
    if isinstance(texts, Path):
        return read_file(texts)
    if isinstance(texts, REFUSED):
        raise InputError(f"what is to be captured is {describe(texts)}: give {EXPECTED}")
    if isinstance(texts, Mapping):
        return _of_mapping(texts, pairs)
    rows = _frame(texts)
    if rows is not None:
        return [document for i, row in enumerate(rows) for document in parse_record(row, f"row {i} of the frame")]
    if hasattr(texts, "detach") or isinstance(texts, np.ndarray):
        return _of_array(texts, pairs, where)
    if not isinstance(texts, Iterable) or (isinstance(texts, range) and texts[MOST_IDS:]):
        raise InputError(f"what is to be captured is {describe(texts)}: give {EXPECTED}")
    items = list(texts)
    if items and (is_integer(items[0]) or _is_scalar_tensor(items[0])):
        return [RawDocument(side=Ids(ids_N=parse_ids(items, where(0))), where=where(0))]
    if is_chat(items):
        return [RawDocument(side=parse_chat(items, where(0)), where=where(0))]
    if isinstance(texts, tuple) and len(texts) == 2 and pairs is not None and _is_pair(texts):
        if pairs == "sentence":
            raise InputError(
                "a tuple of two texts may be a pair of sentences or two documents: write [(a, b)] for the pair, "
                "[a, b] for the two"
            )
        return _item(texts, where(0), pairs)
    return [document for i, item in enumerate(items) for document in _item(item, where(i), pairs)]


def _of_mapping(texts: Mapping[Any, Any], pairs: str | None) -> list[RawDocument]:
    """A tokenizer's output, columns, or ids and documents."""
    if "input_ids" in texts:
        return parse_batch(texts, "the batch")
    if "role" in texts and "content" in texts:
        raise InputError("what is given is one chat message: put it into a list, [message], to make a conversation")
    if is_record(texts):
        columns = {name: value for name, value in texts.items() if not isinstance(value, str)}
        if len(columns) == len(texts) and all(isinstance(value, Iterable) for value in columns.values()):
            return _of_columns(texts)
        raise InputError(
            "the mapping may be one record, or documents whose ids are names such as 'text': write [record] for the "
            "one, and give texts with ids= for the others"
        )
    found: list[RawDocument] = []
    for key, item in texts.items():
        name = parse_name(key, f"the id {key!r}")
        if name is None:
            raise InputError("a document has the id None: give every document a name")
        own = _item(item, f"document {name!r}", pairs)
        if any(document.id is not None for document in own) or len(own) > 1:
            raise InputError(f"document {name!r} brings ids of its own ({own[0].id!r}): give it without the mapping")
        found += [replace(document, id=name) for document in own]
    return found


def _of_columns(columns: Mapping[str, Any]) -> list[RawDocument]:
    lists = {name: list(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns have different lengths ({lengths}): give one value a document in each")
    rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    return [document for i, row in enumerate(rows) for document in parse_record(row, f"row {i}")]


def _of_array(texts: Any, pairs: str | None, where: Any) -> list[RawDocument]:
    array = as_array(texts)
    if array is not None and array.ndim == 1 and array.dtype.kind in "OUT":
        return [document for i, item in enumerate(array.tolist()) for document in _item(item, where(i), pairs)]
    if array is None or array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"what is to be captured is {describe(texts)}: give token ids as integers, one row, or a row a document"
        )
    rows = [array] if array.ndim == 1 else list(array)
    return [RawDocument(side=Ids(ids_N=parse_ids(row, where(i))), where=where(i)) for i, row in enumerate(rows)]


def _item(item: Any, where: str, pairs: str | None) -> list[RawDocument]:
    """The document that one of many is; the documents of a file, or of a packed record."""
    if isinstance(item, RawDocument):
        return [item]
    if isinstance(item, Path):
        return read_file(item)
    if isinstance(item, Mapping):
        if "role" in item and "content" in item:
            raise InputError(f"{where} is one chat message among other things: give a list of messages a conversation")
        return parse_record(item, where)
    if is_chat(item):
        return [RawDocument(side=parse_chat(item, where), where=where)]
    if isinstance(item, tuple | list) and len(item) == 2 and not any(map(is_integer, item)):
        if isinstance(item, tuple) or pairs == "target":
            first, second = (
                _side(one, f"{where} ({name})") for one, name in zip(item, _pair_names(pairs), strict=True)
            )
            return [RawDocument(side=first, pair=second, where=where)]
        if _is_pair(item):
            raise InputError(f"{where} is a list of two texts: write a tuple, (a, b), for a pair of sentences")
    return [RawDocument(side=_side(item, where), where=where)]


def _pair_names(pairs: str | None) -> tuple[str, str]:
    return ("first", "second") if pairs == "sentence" else ("source", "target")


def _is_pair(item: Any) -> bool:
    """Whether two things are two texts, rather than two token ids."""
    return all(
        isinstance(one, str | list | tuple | np.ndarray) or (hasattr(one, "detach") and one.ndim) for one in item
    )


def _side(value: Any, where: str) -> Side:
    if isinstance(value, str):
        return parse_text(value, where)
    if is_chat(value):
        raise InputError(f"{where} is a chat, and a pair is of texts or token ids: give the chat alone")
    if isinstance(value, (Mapping, *REFUSED)):
        raise InputError(f"{where} is {describe(value)}: give a text, or a non-empty sequence of token ids (integers)")
    return Ids(ids_N=parse_ids(value, where))


def _is_scalar_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and value.ndim == 0


def _frame(texts: Any) -> list[dict[str, Any]] | None:
    """The rows of a pandas, polars or Arrow table; None where it is none."""
    if hasattr(texts, "to_pylist") and hasattr(texts, "column_names"):
        columns, rows = list(texts.column_names), texts.to_pylist
    elif hasattr(texts, "columns") and hasattr(texts, "to_dicts"):
        columns, rows = list(texts.columns), texts.to_dicts
    elif hasattr(texts, "columns") and hasattr(texts, "to_dict"):
        if getattr(texts.index, "name", None) == "id" and "id" not in texts.columns:
            texts = texts.reset_index()
        frame = texts
        columns, rows = list(frame.columns), lambda: frame.to_dict("records")
    else:
        return None
    if not any(name in columns for name in ("text", "source", "messages", "input_ids")):
        told = ", ".join(map(str, columns[:5])) or "no column"
        raise InputError(f"the frame has no column text ({told}): rename the column of texts to text")
    found: list[dict[str, Any]] = rows()
    return found


def _names(ids: Any) -> list[str | None]:
    too_many = isinstance(ids, range) and bool(ids[MOST_IDS:])
    scalar = getattr(ids, "ndim", 1) != 1
    if isinstance(ids, (str, Mapping, *REFUSED)) or not isinstance(ids, Iterable) or too_many or scalar:
        raise InputError(f"ids is {describe(ids)}: give a list with one id a document")
    return [parse_name(name, f"id {number}") for number, name in enumerate(ids)]


def _named(found: list[RawDocument], names: list[str | None] | None) -> list[RawDocument]:
    """The documents with their ids, which differ."""
    if names is not None:
        if len(names) != len(found):
            raise InputError(f"{len(names)} ids for {len(found)} documents: give one id a document")
        own = next((document for document in found if document.id is not None), None)
        if own is not None:
            raise InputError(f"ids are given, and {own.where} has an id of its own ({own.id!r}): give one of the two")
    else:
        names = [document.id for document in found]
    full = [f"doc-{i}" if name is None else name for i, name in enumerate(names)]
    seen: set[str] = set()
    for name in full:
        if name in seen:
            raise InputError(f"two documents have the id {name!r}: ids must differ")
        seen.add(name)
    return [replace(document, id=name) for document, name in zip(found, full, strict=True)]
