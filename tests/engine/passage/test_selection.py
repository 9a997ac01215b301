"""What is chosen: the forms a person may write, the same for layers, heads and query rows, and the laws of the draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.passage.selection import Selection, parse_selection
from attlas.errors import InputError

FORMS: list[tuple[Any, list[int]]] = [
    ("7", [7]),
    ("-1", [9]),
    ("2:5", [2, 3, 4]),
    (":3", [0, 1, 2]),
    ("-2:", [8, 9]),
    (":-7", [0, 1, 2]),
    ("-4:-2", [6, 7]),
    ("1::4", [1, 5, 9]),
    ("::-5", [4, 9]),
    (":", list(range(10))),
    ("last:3", [7, 8, 9]),
    ("last:99", list(range(10))),
    ("stride:4", [0, 4, 8]),
    ("8:, 0:2 ,1:3", [0, 1, 2, 8, 9]),
    (3, [3]),
    (np.int32(-1), [9]),
    (slice(2, 5), [2, 3, 4]),
    (slice(None, None, 4), [0, 4, 8]),
    (slice(np.int64(-2), None), [8, 9]),
    (range(2, 8, 2), [2, 4, 6]),
    ([3, 1, -1], [1, 3, 9]),
    ((np.int64(3), slice(0, 2)), [0, 1, 3]),
    (np.array([5, 0]), [0, 5]),
    (np.array([5, 0], dtype=np.uint8), [0, 5]),
    ({3, 4}, [3, 4]),
    (parse_selection("2:5", "layers"), [2, 3, 4]),
]


def queries(spec: Any) -> Selection:
    return parse_selection(spec, "queries")


@pytest.mark.parametrize(("spec", "expected"), FORMS, ids=lambda one: str(one)[:20])
def test_forms_mean_the_same_of_query_rows_and_of_layers(spec: Any, expected: list[int]) -> None:
    assert queries(spec).places("d", 10).tolist() == expected
    assert parse_selection(spec, "layers", random=False).choose(range(10), "layer") == tuple(expected)


@settings(max_examples=300, deadline=None)
@given(
    start=st.none() | st.integers(-15, 15),
    stop=st.none() | st.integers(-15, 15),
    step=st.none() | st.integers(1, 5),
    length=st.integers(1, 12),
)
def test_ranges_are_those_of_python(start: int | None, stop: int | None, step: int | None, length: int) -> None:
    one = slice(start, stop, step)
    expected = list(range(length))[one]
    for spec in (one, ":".join("" if x is None else str(x) for x in (start, stop, *([step] if step else [])))):
        if expected:
            assert queries(spec).places("d", length).tolist() == expected
            assert list(parse_selection(spec, "heads").choose(range(length), "head")) == expected
            continue
        with pytest.raises(InputError):
            queries(spec).places("d", length)
        with pytest.raises(InputError):
            parse_selection(spec, "heads").choose(range(length), "head")


def test_labels_that_are_not_places() -> None:
    """A number names a label; a negative one, and a range's negative bound, counts from the end."""
    have = (1, 3, 5, 8)
    for spec, expected in {
        "3": (3,), "-1": (8,), "-4": (1,), "2:6": (3, 5), "-2:": (5, 8), ":-1": (1, 3, 5), "last:2": (5, 8),
        "stride:2": (1, 5), "8,1": (1, 8), ":": have,
    }.items():  # fmt: skip
        assert parse_selection(spec, "layers").choose(have, "layer") == expected, spec
    for spec in ("2", "9", "-5", "6:8", "1,4"):
        with pytest.raises(InputError, match="the model has 1, 3, 5, 8"):
            parse_selection(spec, "layers").choose(have, "layer")


@pytest.mark.parametrize(
    "spec",
    [
        "", " ", "x", "1:2:3:4", "1::0", "4:2", "3:3", "-1:-3", "1:4:-1", "::0", "last:0",
        "last:", "last:-1", "random:-3", "stride:1.5", "stride:0",
        "1,,2", "1.0", "1_0", "0x1", "--1", True, False, 1.0, np.float32(2), None, b"1", {"a": 1}, [1.0], [True],
        ["1"], [[1]], [None],
        np.array([1.0]), np.array([True, False]), np.array([[1]]), slice(0, 1.5), slice("a", None), object(),
    ],
    ids=lambda one: repr(one).partition(" at 0x")[0],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(spec: Any) -> None:
    with pytest.raises(InputError, match=r"^queries.*write ranges") as error:
        queries(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nothing", [[], (), np.array([], dtype=int), range(0)])
def test_nothing_is_no_choice(nothing: Any) -> None:
    with pytest.raises(InputError, match=r"heads is .*: nothing is chosen: leave it out to take all"):
        parse_selection(nothing, "heads")


def test_layers_are_not_drawn_at_random() -> None:
    with pytest.raises(InputError, match=r"^layers is 'random:3': write ranges"):
        parse_selection("random:3", "layers", random=False)


def test_a_document_without_any_of_them_is_named() -> None:
    with pytest.raises(InputError, match=r"'short' has 5 tokens and none of the queries 10:20"):
        queries("10:20").places("short", 5)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 400), count=st.integers(1, 500), seed=st.integers(0, 2**31), document=st.text(max_size=20))
def test_random_rows_are_drawn_by_seed_and_document_alone(length: int, count: int, seed: int, document: str) -> None:
    rows = queries(f"random:{count}").places(document, length, seed=seed)
    assert len(rows) == min(count, length)
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < length
    np.testing.assert_array_equal(rows, queries(f"random:{count}").places(document, length, seed=seed))


def test_random_rows_are_uniform() -> None:
    """Each of 50 places in 10 of 50 draws: over 2,000 documents about 400 times, within five standard deviations."""
    drawn = np.concatenate([queries("random:10").places(f"doc-{i}", 50) for i in range(2000)])
    counts = np.bincount(drawn, minlength=50)
    assert np.abs(counts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(InputError, match="there is no head 6: the model has 0 to 5"):
        parse_selection([6], "heads").choose(range(6), "head")
    with pytest.raises(InputError, match="no head is in 6:9: the model has 0 to 5"):
        parse_selection("6:9", "heads").choose(range(6), "head")
    with pytest.raises(InputError, match=r"there is no layer 1: the atlas has 0, 2, 4, 6, 8, 10, 12, 14, \.\.\. 98"):
        parse_selection(1, "layers").choose(range(0, 100, 2), "layer", "the atlas")
