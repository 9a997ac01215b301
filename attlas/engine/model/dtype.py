"""The dtypes a model can be captured in, and the spellings that are taken for them."""

from __future__ import annotations

from typing import Any

from attlas.parse import refuse, shown

__all__ = ["DTYPE_NAMES", "parse_dtype"]

DTYPE_NAMES = ("float32", "bfloat16", "float16")


def parse_dtype(given: Any) -> str:
    """ "auto" or one of DTYPE_NAMES, from its name, a torch dtype or a numpy one; raises InputError.

    >>> parse_dtype("float32"), parse_dtype("torch.bfloat16"), parse_dtype("auto")
    ('float32', 'bfloat16', 'auto')
    """
    named = given if isinstance(given, str) else getattr(given, "__name__", None) or getattr(given, "name", None)
    name = named or shown(given)
    name = str(name).strip().removeprefix("torch.")
    if isinstance(given, bool | None) or name not in ("auto", *DTYPE_NAMES):
        raise refuse(given, "dtype", f"use auto, {', '.join(DTYPE_NAMES)}")
    return name
