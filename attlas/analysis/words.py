"""From tokens to words and sentences: which tokens each has, and weights between the words of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["merge_words", "runs", "sentences_of"]

CLOSING = "[\"')\\]\u201d\u2019\u00bb\u300d]*"
ENDED = re.compile(rf"[.!?\u2026]{CLOSING}$")
"""A sentence that has ended if a space comes next."""
ENDED_ALONE = re.compile(rf"[\u3002\uff01\uff1f]{CLOSING}$")
"""One of Chinese or Japanese, that has ended unless more of its end comes next."""
LONGEST_END = 16


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
    (starts_Q, counts_Q), (starts_K, _) = (runs(word) for word in words)
    summed = np.add.reduceat(np.add.reduceat(weights, starts_Q, axis=-2), starts_K, axis=-1)
    return np.asarray(summed / counts_Q[:, None])


def runs(word_N: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the tokens of each word or sentence begin, and how many they are; those of -1 stand alone."""
    begins = np.r_[True, (word_N[1:] != word_N[:-1]) | (word_N[1:] < 0)]
    starts = np.flatnonzero(begins)
    return starts, np.diff(np.r_[starts, len(word_N)])


def sentences_of(
    tokens: Sequence[str], word_N: NDArray[Any], start_N: NDArray[Any] | None, end_N: NDArray[Any] | None
) -> NDArray[np.int64]:
    """The number of each token's sentence, -1 of a token of no word that is no space, which stands alone.

    A sentence ends at a line's end, and at . ! ? or their like, closing quotes and brackets after them included, where
    a space comes next. word_N: each token's word, -1 where it has none. start_N, end_N: characters in the text, where
    they are known: tokenizers that drop spaces leave a gap there.

    >>> sentences_of(["It", " is", " 3", ".", "5", ".", " No", "!"], np.array([0, 1, 2, 2, 2, 3, 4, 5]), None, None)
    array([0, 0, 0, 0, 0, 0, 1, 1])
    """
    number_N, number, tail, end = np.full(len(tokens), -1), 0, "", None
    for n, token in enumerate(tokens):
        if word_N[n] < 0 and token.strip():
            number, tail = number + bool(tail), ""
            continue
        gap = start_N is not None and end is not None and start_N[n] > end
        if tail and _is_over(tail, token, gap):
            number, tail = number + 1, ""
        number_N[n] = number
        tail, end = (tail + token)[-LONGEST_END:], None if end_N is None else end_N[n]
    return number_N


def _is_over(tail: str, following: str, gap: bool) -> bool:
    """Whether a sentence that ends so is over before the following token. gap: whether a space was dropped between."""
    if "\n" in tail[len(tail.rstrip()) :]:
        return bool(following.strip())
    plain = tail.rstrip()
    if ENDED.search(plain) and (gap or len(plain) < len(tail) or following[:1].isspace()):
        return bool(following.strip())
    return bool(ENDED_ALONE.search(plain)) and not re.match(
        "[\u3002\uff01\uff1f\"')\\]\u201d\u2019\u00bb\u300d\\s]", following
    )
