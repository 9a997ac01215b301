"""Which query rows are kept: the forms a person may write, and the laws of the draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.passage.selection import choose_indices, parse_queries
from attlas.errors import InputError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("7", [7]),
        ("-1", [9]),
        ("2:5", [2, 3, 4]),
        (":3", [0, 1, 2]),
        ("-2:", [8, 9]),
        ("1::4", [1, 5, 9]),
        ("last:3", [7, 8, 9]),
        ("last:99", list(range(10))),
        ("stride:4", [0, 4, 8]),
        ("8:, 0:2 ,1:3", [0, 1, 2, 8, 9]),
    ],
)
def test_forms(spec: str, expected: list[int]) -> None:
    assert parse_queries(spec).places("d", 10).tolist() == expected


def test_numbers_alone() -> None:
    assert parse_queries([3, 1, -1]).places("d", 10).tolist() == [1, 3, 9]


@pytest.mark.parametrize("spec", ["", "x", "1:2:3:4", "1::0", "last:0", "last:", "random:-3", "stride:1.5", "1,,2"])
def test_what_cannot_be_read_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="write ranges"):
        parse_queries(spec)


def test_a_document_without_any_of_them_is_named() -> None:
    with pytest.raises(InputError, match=r"'short' has 5 tokens and none of the queries 10:20"):
        parse_queries("10:20").places("short", 5)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 400), count=st.integers(1, 500), seed=st.integers(0, 2**31), document=st.text(max_size=20))
def test_random_rows_are_drawn_by_seed_and_document_alone(length: int, count: int, seed: int, document: str) -> None:
    rows = parse_queries(f"random:{count}", seed).places(document, length)
    assert len(rows) == min(count, length)
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < length
    np.testing.assert_array_equal(rows, parse_queries(f"random:{count}", seed).places(document, length))


def test_random_rows_are_uniform() -> None:
    """Each of 50 places in 10 of 50 draws: over 2,000 documents about 400 times, within five standard deviations."""
    drawn = np.concatenate([parse_queries("random:10").places(f"doc-{i}", 50) for i in range(2000)])
    counts = np.bincount(drawn, minlength=50)
    assert np.abs(counts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_indices() -> None:
    assert choose_indices(range(6), [5, 0, -2], "head") == (0, 4, 5)
    with pytest.raises(InputError, match="there is no head 6: the model has 0 to 5"):
        choose_indices(range(6), [6], "head")
    with pytest.raises(InputError, match="no head is chosen"):
        choose_indices(range(6), [], "head")
