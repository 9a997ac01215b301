"""A token of a model's vocabulary, as a person names it."""

from __future__ import annotations

from typing import Any

from attlas.engine.model.head import vocabulary_of
from attlas.engine.model.load import LoadedModel
from attlas.errors import InputError
from attlas.parse import parse_count

__all__ = ["parse_token"]


def parse_token(given: Any, loaded: LoadedModel, field: str) -> int:
    """The id of a token, given as its text or as its id. Raises InputError."""
    if isinstance(given, str):
        if loaded.tokenizer is None:
            raise InputError(f"{field}, {given!r}, cannot be looked up without a tokenizer: give its token id")
        ids = loaded.tokenizer(given, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(f"{field}, {given!r}, is {len(ids)} tokens, and is to be one: give one, such as ' Paris'")
        return int(ids[0])
    return parse_count(given, field, least=0, most=vocabulary_of(loaded) - 1)
