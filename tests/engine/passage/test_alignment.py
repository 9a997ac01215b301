"""Tokens in common of two texts: the same at both places, in order, none twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.engine.passage import alignment
from attlas.engine.passage.alignment import common_places
from attlas.errors import InputError

TEXTS = st.lists(st.integers(0, 4), max_size=30)


@given(TEXTS, TEXTS)
def test_places_hold_the_same_in_order(mine: list[int], theirs: list[int]) -> None:
    own, other = common_places(mine, theirs)
    assert [mine[place] for place in own] == [theirs[place] for place in other]
    assert (np.diff(own) > 0).all()
    assert (np.diff(other) > 0).all()


@given(TEXTS, TEXTS, TEXTS)
def test_all_but_what_is_put_in_is_found(begin: list[int], inner: list[int], end: list[int]) -> None:
    own, other = common_places([*begin, *end], [*begin, *inner, *end])
    assert len(own) == len(other) == len(begin) + len(end)


def test_one_change_in_a_long_text_costs_no_more_than_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "MOST_EDITED", 1)
    mine = list(range(100_000))
    own, other = common_places(mine, [*mine[:50_000], -1, *mine[50_001:]])
    np.testing.assert_array_equal(own, other)
    assert len(own) == 99_999
    with pytest.raises(InputError, match="two unlike texts of 2 tokens take long to align"):
        common_places([1, 2], [3, 4])
