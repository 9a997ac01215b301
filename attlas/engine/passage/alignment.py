"""Which tokens of two texts are the same, in order."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["Places", "common_places"]

Places = NDArray[np.int64]

MOST_EDITED = 20_000
"""Tokens of two unlike texts that are aligned."""


def common_places(mine: Sequence[Any], theirs: Sequence[Any]) -> tuple[Places, Places]:
    """Places in both of what stands in both, in order, ascending.

    >>> common_places("abcd", "abxd")
    (array([0, 1, 3]), array([0, 1, 3]))

    Ends that are alike are taken first, so that a text with one place changed costs no more than its length. Raises
    InputError where more than 20,000 tokens between them are unlike.
    """
    shorter = min(len(mine), len(theirs))
    begin = next((place for place in range(shorter) if mine[place] != theirs[place]), shorter)
    end = next((n for n in range(shorter - begin) if mine[-1 - n] != theirs[-1 - n]), shorter - begin)
    inner, other = mine[begin : len(mine) - end], theirs[begin : len(theirs) - end]
    if max(len(inner), len(other)) > MOST_EDITED:
        raise InputError(
            f"two unlike texts of {max(len(inner), len(other)):,} tokens take long to align: choose at most "
            f"{MOST_EDITED:,} of each"
        )
    blocks = SequenceMatcher(None, inner, other, autojunk=False).get_matching_blocks()
    own = [np.arange(begin), *(np.arange(block.a, block.a + block.size) + begin for block in blocks)]
    their = [np.arange(begin), *(np.arange(block.b, block.b + block.size) + begin for block in blocks)]
    return (
        np.concatenate([*own, np.arange(len(mine) - end, len(mine))]),
        np.concatenate([*their, np.arange(len(theirs) - end, len(theirs))]),
    )
