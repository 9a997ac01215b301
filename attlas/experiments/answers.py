"""What a model is to say and what not, of each document: a pair of tokens whose logits are compared."""

from __future__ import annotations

from typing import Any

from attlas.engine.passage.token import parse_token
from attlas.errors import InputError
from attlas.experiments.asked import Asked
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
    if asked.classes:
        labels = asked.loaded.config.num_labels or 1
        pairs = [[parse_count(one, "an answer", least=0, most=labels - 1) for one in pair] for pair in pairs]
    if len(pairs) != len(asked.documents):
        raise InputError(f"answers are {len(pairs)} pairs for {len(asked.documents)} documents: give one a document")
    if asked.classes:
        return {document.id: (pair[0], pair[1]) for document, pair in zip(asked.documents, pairs, strict=True)}
    return {
        document.id: (parse_token(right, asked.loaded, "an answer"), parse_token(wrong, asked.loaded, "an answer"))
        for document, (right, wrong) in zip(asked.documents, pairs, strict=True)
    }
