"""The tokenizer of a model: its own, or one that is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from attlas.engine.model.source import source_arguments
from attlas.errors import InputError, first_line

__all__ = ["find_tokenizer", "load_tokenizer"]


def load_tokenizer(
    given: PreTrainedTokenizerBase | str | None, source: str | Path, *, revision: str | None = None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer given, by object or name, else the model's own; None where it has none. Raises InputError."""
    if given is None or isinstance(given, str):
        return find_tokenizer(given, source_arguments(source, revision))
    return given


def find_tokenizer(given: str | None, where: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    if given is not None:
        where = {"pretrained_model_name_or_path": given}
    try:
        return AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:  # TypeError: a class that is given no vocabulary file
        if given is not None:
            raise InputError(f"cannot load a tokenizer from {given!r}: {first_line(error)}") from error
        return None  # a model alone is complete: its documents are then given as token ids
