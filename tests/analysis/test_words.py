"""Weights between words, against sums and means written out."""

from __future__ import annotations

import numpy as np
import pytest

import attlas
from attlas.analysis.words import merge_words
from attlas.errors import InputError


def test_rows_by_mean_and_columns_by_sum() -> None:
    a = np.random.default_rng(0).random((2, 5, 6))
    word_Q, word_K = [-1, -1, 0, 0, 1], [-1, 0, 0, 0, 1, -1]
    found = merge_words(a, word_Q, word_K)
    rows, columns = [[0], [1], [2, 3], [4]], [[0], [1, 2, 3], [4], [5]]
    assert found.shape == (2, 4, 4)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected = sum(a[:, q, k] for q in row for k in column) / len(row)
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-12)


def test_words_of_a_page() -> None:
    page = attlas.capture("demo", "the cat sat.", "memory://words", overwrite=True)["doc-0"]
    found = merge_words(page.attention.isel(layer=0).values, page.query_word.values, page.key_word.values)
    assert found.shape == (4, 4, 4)  # the start token and three words
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_lengths_must_fit() -> None:
    with pytest.raises(InputError, match="3 queries and 2 keys"):
        merge_words(np.ones((2, 2)), [0, 0, 1], [0, 1])
