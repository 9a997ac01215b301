"""The other text of each document: what an experiment sets beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attlas.engine.passage.documents import Document
from attlas.errors import InputError
from attlas.experiments.asked import Asked, ask_texts

__all__ = ["Pairs", "ask_others"]

Pairs = Mapping[str, Document]
"""Document -> its other one."""


def ask_others(asked: Asked, others: Any, options: Mapping[str, Any]) -> Pairs:
    """Tokenise the other texts, one of each document in their order. Raises InputError."""
    given = {name: options[name] for name in ("max_tokens", "extrapolate") if name in options}
    documents = ask_texts(asked, others, **given).documents
    if len(documents) != len(asked.documents):
        raise InputError(
            f"there are {len(documents)} other texts of {len(asked.documents)} documents: give one of each"
        )
    return {own.id: other for own, other in zip(asked.documents, documents, strict=True)}
