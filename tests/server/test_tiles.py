"""Tiles equal numpy's pooling of the full map: every level, ragged, every kind, whatever is masked.

To the bit where the weights are the same numbers; those of another tiling differ by float32 rounding of q . k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import attlas
from attlas.server import tiles
from attlas.server.session import Session
from attlas.server.tiles import POOLS, choose_box, pooled, top_level
from attlas.storage.blocks import quantised
from attlas.storage.lazy import LazyAttention
from tests.analysis.test_statistics import write
from tests.families import BY_NAME, build_model, documents
from tests.server.asking import asked, dense_tile, full_map, visible
from tests.storage.synthetic import synthetic

ROUNDING = 2e-6


@dataclass(frozen=True)
class Dense:
    """Weights that are there (H, Q, K), in the place of those computed from factors."""

    a_HQK: NDArray[np.float32]

    def compute(self, chosen: list[NDArray[np.int64]]) -> NDArray[np.float32]:
        _, heads, queries, keys = chosen
        return self.a_HQK[np.ix_(heads, queries, keys)][None]


SIZES = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, st.data())
def test_pooling_is_equal_to_the_bit(queries: int, keys: int, data: st.DataObject) -> None:
    """Any map and any key intervals, empty ones too; any tile of any level."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    start_Q = rng.integers(0, keys + 1, queries)
    stop_Q = np.minimum(start_Q + rng.integers(0, keys + 1, queries), keys)
    seen_QK = (np.arange(keys) >= start_Q[:, None]) & (np.arange(keys) < stop_Q[:, None])
    a_HQK = np.where(seen_QK, rng.random((3, queries, keys), dtype=np.float32) ** 8, 0)
    heads = data.draw(st.sampled_from([(1,), (0, 1, 2)]))
    a_QK = a_HQK[list(heads)].astype(np.float64).mean(axis=0).astype(np.float32)
    head_map = tiles.HeadMap(cast(LazyAttention, Dense(a_HQK)), 0, heads, start_Q, stop_Q)
    side = data.draw(st.sampled_from([2, 4, 7]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "SIDE", side)
        patch.setattr(tiles, "BLOCK_BYTES", data.draw(st.sampled_from([200, 1500, 2**25])))
        level = data.draw(st.integers(0, top_level(queries, keys)))
        row, column = (data.draw(st.integers(0, -(-size // (side << level)) - 1)) for size in (queries, keys))
        box = choose_box(queries, keys, level, row, column)
        for pool in POOLS:
            expected = dense_tile(a_QK, seen_QK, level, row, column, pool, side)
            np.testing.assert_array_equal(pooled(head_map, box, pool), expected)
        assert head_map.cost(box) == seen_QK[box.queries, box.keys].sum() * len(heads)


@pytest.fixture
def small_side(monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of few blocks, so that short documents have many levels."""
    monkeypatch.setattr(tiles, "SIDE", 8)
    return 8


def captured(name: str, **options: Any) -> attlas.Atlas:
    family = BY_NAME[name]
    inputs = documents(family, lengths=(45, 5, 30))
    return attlas.capture(build_model(family), inputs, f"memory://tiles-{name}", overwrite=True, **options)


def check_all_tiles(atlas: attlas.Atlas, document: str, kind: str, layer: int, head: Any, side: int) -> int:
    """How many tiles there are."""
    session, count = Session(atlas), 0
    a_QK = full_map(atlas, document, kind, layer, head)
    seen_QK = visible(atlas, document, kind, layer, a_QK.shape[1])
    queries, keys = a_QK.shape
    for level in range(top_level(queries, keys) + 1):
        for row in range(-(-queries // (side << level))):
            for column in range(-(-keys // (side << level))):
                for pool in POOLS:
                    data, (tile,) = asked(
                        session, "tile", document=document, kind=kind, layer=layer, head=head, level=level, row=row,
                        column=column, pool=pool, format="f32",
                    )  # fmt: skip
                    expected = dense_tile(a_QK, seen_QK, level, row, column, pool, side)
                    np.testing.assert_allclose(
                        tile, expected, rtol=0, atol=ROUNDING, err_msg=f"{level} {row} {column} {pool}"
                    )
                    assert data["shape"] == list(expected.shape)
                    assert data["block"] == 1 << level
                    count += 1
    return count


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss", "llama4", "modernbert", "t5", "bart"])
def test_every_family(name: str, small_side: int) -> None:
    atlas = captured(name)
    for document in ("doc-0", "doc-2"):
        for kind in atlas.kinds:
            for layer, head in zip(atlas.layers(kind), (0, "mean"), strict=False):
                assert check_all_tiles(atlas, document, kind, layer, head, small_side)


@pytest.mark.parametrize("pair", [False, True])
def test_chosen_query_rows(pair: bool, small_side: int) -> None:
    atlas = captured("t5" if pair else "llama", queries="last:9")
    kind = "cross" if pair else "self"
    data, _ = asked(Session(atlas), "document", document="doc-0")
    found = data["kinds"][kind]
    assert found["rows_kept"] == "chosen"
    assert found["queries"] == (9 if kind == "self" else 3)  # of a source of 45 tokens; its target has but 3
    assert found["query_places"] == atlas.attention("doc-0", kind)["query"].values.tolist()
    assert check_all_tiles(atlas, "doc-0", kind, 1, 2, small_side)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=3), st.sampled_from([None, 5, 23]), st.data(),
    st.sampled_from([4, 7]), st.sampled_from([700, 2**25]),
)  # fmt: skip
def test_any_length(lengths: list[int], window: int | None, data: st.DataObject, side: int, block_bytes: int) -> None:
    """Packed documents of any length; some rows at a time and all at once."""
    made = synthetic(lengths, window=window, seed=len(lengths))
    atlas = write(made, "tiles-any")
    document = data.draw(st.integers(0, len(lengths) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "SIDE", side)
        patch.setattr(tiles, "BLOCK_BYTES", block_bytes)
        check_all_tiles(atlas, f"doc-{document}", "self", 1, data.draw(st.sampled_from([3, "mean"])), side)


def test_tiles_of_a_long_document_near_the_exact_weights() -> None:
    """Real sides, and the oracle in float64: within 1e-5, as every weight is."""
    made = synthetic((1100,), seed=9, block=256, pack_tokens=2000)
    atlas, a_LHQK = write(made, "tiles-long"), made.dense(0)
    session = Session(atlas)
    seen_QK = np.tril(np.ones((1100, 1100), np.bool_))
    for level, row, column in [(0, 4, 1), (0, 1, 4), (1, 2, 0), (2, 1, 1), (3, 0, 0)]:
        for pool in POOLS:
            _, (tile,) = asked(
                session, "tile", layer=1, head=2, level=level, row=row, column=column, pool=pool, format="f32"
            )
            expected = dense_tile(a_LHQK[1, 2], seen_QK, level, row, column, pool, 256)
            np.testing.assert_allclose(tile, expected, atol=1e-5)
    data, (tile,) = asked(session, "tile", layer=0, head="mean", level=3, pool="mass", format="f32")
    np.testing.assert_allclose(np.nansum(tile, axis=1), 1, atol=1e-5)
    assert (data["queries"], data["keys"], data["scale"]) == ([0, 1100], [0, 1100], None)


@pytest.mark.parametrize("pool", POOLS)
def test_rows_of_mass_sum_to_one(pool: str, small_side: int) -> None:
    """Over all the tiles of a row of tiles, at every level; `max` has no such law but at level 0."""
    atlas = write(synthetic((61,), window=9), "tiles-mass")
    session = Session(atlas)
    for level in range(4):
        side = small_side << level
        for row in range(-(-61 // side)):
            parts = [
                asked(session, "tile", layer=0, head=1, level=level, row=row, column=j, pool=pool, format="f32")[1][0]
                for j in range(-(-61 // side))
            ]
            total = np.nansum(np.concatenate(parts, axis=1), axis=1)
            if pool == "mass" or level == 0:
                np.testing.assert_allclose(total, 1, atol=1e-6)


def test_levels() -> None:
    assert [top_level(size, 1) for size in (1, 256, 257, 512, 513, 131_072)] == [0, 0, 1, 1, 2, 9]
    box = choose_box(131_072, 131_072, 9, 0, 0)
    assert (box.shape, box.block) == ((256, 256), 512)
    assert tiles._rows_at_once(box) == 32  # a part of a block of 512 rows, which 16 MB have no room for


@settings(max_examples=200, deadline=None)
@given(st.floats(float(np.float32(1.0001e-5)), 1, width=32))
def test_a_byte_tells_a_weight_within_a_fortieth(weight: float) -> None:
    code = int(quantised(np.array([weight], np.float32))[0])
    assert 1 <= code <= 255
    assert abs(10 ** (5 * (code - 1) / 254 - 5) / weight - 1) < 0.023


def test_masked_and_zero_are_told_apart() -> None:
    some = np.array([np.nan, 0, 1e-9, 1e-5, 1, 1.0000002], np.float32)
    assert quantised(some).tolist() == [0, 1, 1, 1, 255, 255]
    session = Session(write(synthetic((20,)), "tiles-masked"))
    for form, dtype in (("u8", np.uint8), ("f16", np.float16), ("f32", np.float32)):
        data, (tile,) = asked(session, "tile", layer=0, head=0, format=form)
        assert tile.dtype == dtype
        assert data["dtype"] == tile.dtype.name
        masked = tile == 0 if form == "u8" else np.isnan(tile)
        np.testing.assert_array_equal(masked, np.triu(np.ones((20, 20), np.bool_), 1))
