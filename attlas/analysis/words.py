"""From tokens to words: weights between the words of a text, out of the weights between their tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["merge_words"]


def merge_words(a: Any, word_Q: Any, word_K: Any) -> NDArray[np.float64]:
    """(..., words of the queries, words of the keys), float64, of weights a (..., Q, K).

    A word attends as its tokens do on average, and is attended to as much as all of them together (Clark et al. 2019,
    arXiv 1906.04341, section 4.1): mean over rows, sum over columns, so that rows that sum to one still do.
    word_Q, word_K: each token's word, as `page.query_word` and `page.key_word`; tokens of no word (-1) stand alone, in
    their places. Raises InputError where the lengths do not fit.
    """
    weights = np.asarray(a, dtype=np.float64)
    words = [np.asarray(word) for word in (word_Q, word_K)]
    if weights.ndim < 2 or weights.shape[-2:] != tuple(len(word) for word in words):
        raise InputError(
            f"weights of shape {weights.shape}, for {len(words[0])} queries and {len(words[1])} keys with a word each: "
            "give both of one page"
        )
    (starts_Q, counts_Q), (starts_K, _) = (_runs(word) for word in words)
    summed = np.add.reduceat(np.add.reduceat(weights, starts_Q, axis=-2), starts_K, axis=-1)
    return np.asarray(summed / counts_Q[:, None])


def _runs(word_N: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the tokens of each word begin, and how many they are."""
    begins = np.r_[True, (word_N[1:] != word_N[:-1]) | (word_N[1:] < 0)]
    starts = np.flatnonzero(begins)
    return starts, np.diff(np.r_[starts, len(word_N)])
