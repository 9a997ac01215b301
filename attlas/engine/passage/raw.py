"""A document as it was given, checked and not yet tokenised, and the parsers of its parts. Needs no torch.

Each parser takes a value and `what` it is called in an error, and returns it in one form or raises InputError, which
says what was found, what is expected, and the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = [
    "Chat",
    "Field",
    "Ids",
    "RawDocument",
    "MOST_IDS",
    "Side",
    "as_array",
    "describe",
    "is_chat",
    "parse_chat",
    "parse_field",
    "parse_ids",
    "parse_name",
    "parse_text",
]

Indices = NDArray[np.int64]
MOST_IDS = 2**31
"""Of one text, far beyond any model."""
Field = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ids:
    """A text given as its N token ids, without padding.

    type_N: token types (segments), where given. first_position: the position id of the first token, as given; the
    others follow it one by one. padding_left: pads that stood before the first. masked: a mask said which are pads.
    packed: the ids were cut out of a row of several documents, behind the first. labels: what a decoder is to predict.
    """

    ids_N: Indices
    type_N: Indices | None = None
    first_position: int | None = None
    padding_left: int = 0
    masked: bool = False
    packed: bool = False
    labels: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation, which the tokenizer's chat template turns into one text."""

    messages: tuple[Mapping[str, Any], ...]


Side = str | Ids | Chat


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawDocument:
    """side: the text. pair: the second sentence for an encoder, the target for an encoder-decoder.

    is_target: whether the pair was named a target. id: None where the user gave none. fields: what else is known of
    the document, stored beside it. where: how an error calls it.
    """

    side: Side
    pair: Side | None = None
    is_target: bool = False
    id: str | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)
    where: str


def parse_text(value: Any, what: str) -> str:
    """A text with something in it, of characters that exist."""
    if not isinstance(value, str):
        raise InputError(f"{what} must be a string, and is {describe(value)}")
    if not value.strip():
        raise InputError(f"{what} is empty: remove it, or give it a text")
    return _without_surrogates(str(value), what)


def parse_name(value: Any, what: str) -> str | None:
    """A document's id: a string or an integer; None for none."""
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{what} must be a string or an integer, and is {describe(value)}")
    if value == "":
        raise InputError(f"{what} is an empty id: give every document a name, or leave it out")
    try:
        return _without_surrogates(str(value), what)
    except InputError:
        raise
    except ValueError as error:  # an integer of more digits than Python writes out
        raise InputError(f"{what} is an integer of too many digits: give the id as a string") from error


def parse_field(value: Any, what: str) -> Field:
    """A value stored beside a document: string, number, boolean or None; anything else as its JSON text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value != value:  # NaN, NaT: a frame's way to say that there is none
        return None
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} is {describe(value)}: give a string, a number, a boolean or null") from error
    return _without_surrogates(text, what)


def parse_ids(value: Any, what: str) -> Indices:
    """Token ids of one text: one dimension of integers."""
    array = as_array(value)
    if array is None or array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{what} must be a text or a non-empty sequence of token ids (integers), and is {describe(value)}"
        )
    if array.dtype == np.uint64 and array.max() >= 2**63:
        raise InputError(f"{what} has the token id {array.max()}, which no vocabulary has")
    return array.astype(np.int64)


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages, or was meant to be one."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(m, Mapping) and "role" in m for m in value)
    )


def parse_chat(value: Any, what: str) -> Chat:
    """Messages, each with a role and a content: a text, or a list of parts of type text."""
    if not is_chat(value):
        raise InputError(
            f'{what} must be a list of messages such as {{"role": "user", "content": "..."}}, and is {describe(value)}'
        )
    for number, message in enumerate(value):
        told = f"{what}, message {number}"
        if not isinstance(message["role"], str):
            raise InputError(f"{told}: role must be a string, and is {describe(message['role'])}")
        content = message.get("content")
        if isinstance(content, list | tuple):
            for part in content:
                if not (isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                    raise InputError(f"{told} has a part that is not text: give texts alone")
                _without_surrogates(part["text"], told)
        elif isinstance(content, str):
            _without_surrogates(content, told)
        elif content is not None or "tool_calls" not in message:
            raise InputError(f"{told}: content must be a string, and is {describe(content)}")
    return Chat(messages=tuple(dict(message) for message in value))


def as_array(value: Any) -> NDArray[Any] | None:
    """A value as a NumPy array, tensors of any device too; None where it is none, or mixes booleans with numbers."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, range) and value[MOST_IDS:]:
        return None
    if isinstance(value, list | tuple) and any(isinstance(one, bool | np.bool_) for one in value):
        return np.asarray(value) if all(isinstance(one, bool | np.bool_) for one in value) else None
    try:
        if hasattr(value, "detach"):
            return np.asarray(value.detach().cpu().numpy())
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # ragged, of a type or device without numbers
        return None


def describe(value: Any) -> str:
    """A value in a few words, for an error."""
    if value is None:
        return "None"
    if isinstance(value, bool | int | float | np.generic):
        try:
            shown = str(value)
        except ValueError:  # an integer of more digits than Python writes out
            shown = "very large"
        return f"{shown[:40]} ({type(value).__name__})"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"an array of {getattr(value, 'dtype', 'unknown type')} and shape {tuple(shape)}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        kinds = sorted({type(one).__name__ for one in value[:100]})
        return f"an empty {type(value).__name__}" if not kinds else f"a {type(value).__name__} of {' and '.join(kinds)}"
    return f"of type {type(value).__name__}"


def _without_surrogates(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half of a surrogate pair (U+{ord(text[error.start]):04X} at character {error.start}), which "
            "is no character: write the whole one"
        ) from error
    return text
