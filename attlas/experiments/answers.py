"""What a model is to say and what not, of each document: a pair of tokens whose logits are compared."""

from __future__ import annotations

from typing import Any

from attlas.errors import InputError
from attlas.experiments.asked import Asked, vocabulary_of
from attlas.experiments.difference import Answer
from attlas.parse import parse_count, refuse

__all__ = ["parse_answers", "parse_word"]


def parse_answers(given: Any, asked: Asked) -> dict[str, Answer]:
    """Document -> the token ids of its answers; empty where none are given. Raises InputError."""
    if given is None:
        return {}
    if not isinstance(given, list | tuple) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in given):
        raise refuse(given, "answers", "give a list of pairs, the right and the wrong token of each document")
    pairs = list(given)
    if len(pairs) != len(asked.documents):
        raise InputError(f"answers are {len(pairs)} pairs for {len(asked.documents)} documents: give one a document")
    return {
        document.id: (parse_word(right, asked, "an answer"), parse_word(wrong, asked, "an answer"))
        for document, (right, wrong) in zip(asked.documents, pairs, strict=True)
    }


def parse_word(given: Any, asked: Asked, field: str) -> int:
    """The id of a token, given as its text or as its id. Raises InputError."""
    if isinstance(given, str):
        if asked.loaded.tokenizer is None:
            raise InputError(f"{field}, {given!r}, cannot be looked up without a tokenizer: give its token id")
        ids = asked.loaded.tokenizer(given, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(f"{field}, {given!r}, is {len(ids)} tokens, and is to be one: give one, such as ' Paris'")
        return int(ids[0])
    return parse_count(given, field, least=0, most=vocabulary_of(asked.loaded) - 1)
