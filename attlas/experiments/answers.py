"""What a model is to say and what not, of each document: a pair of tokens whose logits are compared."""

from __future__ import annotations

from typing import Any

from attlas.errors import InputError
from attlas.experiments.asked import Asked, vocabulary_of
from attlas.experiments.difference import Answer
from attlas.parse import parse_count, refuse

__all__ = ["parse_answers"]


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
        document.id: (_word(right, asked), _word(wrong, asked))
        for document, (right, wrong) in zip(asked.documents, pairs, strict=True)
    }


def _word(given: Any, asked: Asked) -> int:
    """The id of an answer of one token."""
    if isinstance(given, str):
        if asked.loaded.tokenizer is None:
            raise InputError(f"the answer {given!r} cannot be looked up without a tokenizer: give its token id")
        ids = asked.loaded.tokenizer(given, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(
                f"the answer {given!r} is {len(ids)} tokens, and a logit is of one: give one, such as ' Paris'"
            )
        return int(ids[0])
    return parse_count(given, "an answer", least=0, most=vocabulary_of(asked.loaded) - 1)
