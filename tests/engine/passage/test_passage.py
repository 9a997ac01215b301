"""Passages: which documents of a pack go through the model together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.passage.documents import Document, Tokens, plan_packs
from attlas.engine.passage.passage import passages


def document(number: int, length: int) -> Document:
    none = np.full(length, -1, dtype=np.int32)
    tokens = Tokens(
        ids=np.arange(length, dtype=np.int32), text=("t",) * length, char_start=none, char_end=none,
        special=np.zeros(length, dtype=bool),
    )  # fmt: skip
    return Document(id=f"doc-{number}", tokens={"text": tokens})


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20), chunk=st.integers(1, 60))
def test_documents_go_together_as_many_as_fit_and_only_long_ones_are_cut(lengths: list[int], chunk: int) -> None:
    made = [document(i, n) for i, n in enumerate(lengths)]
    (pack,) = plan_packs([{"text": n} for n in lengths], pack_tokens=10_000, block=64)
    parts = passages(pack, made, pack_documents=True, chunk_tokens=chunk)
    assert [number for part in parts for number in part.documents] == list(range(len(lengths)))
    for part in parts:
        size = sum(lengths[i] for i in part.documents)
        assert part.axes["text"].token_start == sum(lengths[: part.documents[0]])
        assert part.chunks[0][0] == 0
        assert part.chunks[-1][1] == size
        assert all(stop - start <= chunk for start, stop in part.chunks)
        if len(part.chunks) > 1:
            assert len(part.documents) == 1
    for one, other in pairwise(parts):  # none that would have fitted was left out
        assert sum(lengths[i] for i in one.documents) + lengths[other.documents[0]] > chunk
