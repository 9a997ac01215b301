"""The tokenizer of a model: its own, or one that is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from attlas.engine.model.source import source_arguments
from attlas.errors import InputError, UnsupportedModelError, first_line

__all__ = ["FoundTokenizer", "find_tokenizer", "load_tokenizer"]

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundTokenizer:
    """A tokenizer, or why there is none: None for a model that came without, which takes documents as token ids."""

    tokenizer: PreTrainedTokenizerBase | None = None
    missing: str | None = None


def load_tokenizer(
    given: PreTrainedTokenizerBase | str | Path | None, source: str | Path, *, revision: str | None = None
) -> FoundTokenizer:
    """The tokenizer given, by object or name, else the model's own. Raises InputError where the one given is none."""
    if given is None or isinstance(given, str | Path):
        return find_tokenizer(given, source_arguments(source, revision))
    if not isinstance(given, PreTrainedTokenizerBase):
        raise InputError(f"tokenizer is a {type(given).__name__}: give a transformers tokenizer, or its name or folder")
    return FoundTokenizer(tokenizer=given)


def find_tokenizer(given: str | Path | None, where: dict[str, Any]) -> FoundTokenizer:
    """By name, or from the place where a model lies, as arguments of from_pretrained; runs no code from there."""
    if given is not None:
        where = source_arguments(given, None)
    try:
        return FoundTokenizer(tokenizer=AutoTokenizer.from_pretrained(**where, trust_remote_code=False))
    except Exception as error:  # foreign files: tokenizers raises bare Exceptions, a missing package an ImportError
        needs_code = "trust_remote_code" in str(error)
        reason = "it needs code from its repository, which attlas never runs" if needs_code else first_line(error)
        if given is not None:
            kind = UnsupportedModelError if needs_code else InputError
            raise kind(f"cannot load a tokenizer from {str(given)!r}: {reason}") from error
        folder = Path(where["pretrained_model_name_or_path"])
        came_without = "gguf_file" not in where and not any((folder / name).is_file() for name in FILES)
        return FoundTokenizer(missing=None if folder.is_dir() and came_without else reason)
