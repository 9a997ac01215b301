"""Documents given as records: objects of a JSONL file, rows of a frame, mappings of a data set. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attlas.engine.passage.batch import BATCH_NAMES, UNHEARD, parse_batch
from attlas.engine.passage.raw import RawDocument, describe, parse_chat, parse_field, parse_name, parse_text
from attlas.errors import InputError

__all__ = ["CONTENTS", "is_record", "parse_record"]

CONTENTS = ("text", "source", "target", "messages", "input_ids")
"""A record has one of these; source and target go together."""
OWN = {"id", "text", "text_pair", "source", "target", "messages"}
EXPECTED = "text, or source and target, or messages"


def is_record(value: Any) -> bool:
    return isinstance(value, Mapping) and any(name in value for name in CONTENTS)


def parse_record(record: Any, where: str) -> list[RawDocument]:
    """The document of one record (of token ids whose positions restart: the documents); every further field is kept.

    "text" (with "text_pair", a second sentence), "source" and "target", "messages" (a chat), or "input_ids" with what
    belongs to them; "id" names it, null or left out for no name. Raises InputError naming `where` and the field.
    """
    if not isinstance(record, Mapping):
        raise InputError(f'{where} is not an object: write {{"id": ..., "text": ...}}')
    if any(not isinstance(name, str) or not name for name in record):
        raise InputError(f"{where} has a field without a name: give every field one")
    name = parse_name(record.get("id"), f"{where}: id")
    if record.get("input_ids") is not None:
        own = {"id"} | BATCH_NAMES | UNHEARD
        found = parse_batch({key: record[key] for key in record if key in BATCH_NAMES}, where)
    else:
        own, found = OWN, [_content(record, where)]
    fields = {key: parse_field(value, f"{where}: {key}") for key, value in record.items() if key not in own}
    if name is not None and len(found) > 1:
        raise InputError(f"{where} is {len(found)} documents by its position_ids, and has one id: leave it out")
    return [replace(document, id=name, fields=fields) for document in found]


def _content(record: Mapping[str, Any], where: str) -> RawDocument:
    forms = ["text" in record, "source" in record or "target" in record, "messages" in record]
    if sum(forms) != 1:
        raise InputError(f"{where} needs either {EXPECTED}")
    if "text_pair" in record and "text" not in record:
        raise InputError(f"{where} has a text_pair without a text: a pair of sentences has both")
    if "messages" in record:
        return RawDocument(side=parse_chat(record["messages"], f"{where}: messages"), where=where)
    first, second = ("text", "text_pair") if "text" in record else ("source", "target")
    for field in (first, second):
        if field == "text_pair" and record.get(field) is None:
            continue
        if not isinstance(record.get(field), str):
            raise InputError(f"{where}: {field} must be a string, and is {describe(record.get(field))}")
    pair = record.get(second)
    return RawDocument(
        side=parse_text(record[first], f"{where}: {first}"),
        pair=None if pair is None else parse_text(pair, f"{where}: {second}"),
        is_target=second == "target",
        where=where,
    )
