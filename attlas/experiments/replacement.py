"""What is put in the place of a token that is taken out of a text."""

from __future__ import annotations

from typing import Any

from attlas.engine.passage.token import parse_token
from attlas.errors import InputError
from attlas.experiments.asked import Asked

__all__ = ["parse_replacement"]


def parse_replacement(by: str, token: Any, asked: Asked) -> int | str:
    """A token's id, or `by` itself where nothing fixed is put in. Raises InputError."""
    if (token is not None) != (by == "token"):
        raise InputError('token is what by="token" puts in a token\'s place: give both, or neither')
    if by == "token":
        return parse_token(token, asked.loaded, "token")
    if by != "mask":
        return by
    tokenizer = asked.loaded.tokenizer
    found = next(
        (one for one in (getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "unk")) if one is not None),
        None,
    )
    if found is None:
        raise InputError(
            f'{asked.loaded.identity.name} has no mask token and no unknown token: give by="token" and a token'
        )
    return int(found)
