"""Lazy attention: any indexing equals indexing the dense map; only what is asked for is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from attlas.errors import AttlasError
from attlas.storage import AtlasWriter, open_atlas, store_bytes
from attlas.storage import lazy as lazy_module
from attlas.storage.lazy import LazyAttention
from tests.storage.synthetic import Synthetic, synthetic

LENGTH = 50


def written(made: Synthetic, store: Any = None, *, packs: Any = None, step: int = 37) -> Any:
    store = MemoryStore() if store is None else store
    writer = AtlasWriter.create(store, made.spec("factors"))
    for pack in packs or made.packs:
        made.write_pack(writer, pack, step=step)
    return open_atlas(store)


@pytest.mark.parametrize("rule", ["plain", "softcap", "sinks", "bias"])
@pytest.mark.parametrize("window", [None, 11])
def test_every_rule(rule: str, window: int | None) -> None:
    made = synthetic(rule=rule, window=window)
    atlas = written(made)
    for i in range(4):
        np.testing.assert_allclose(atlas[f"doc-{i}"].attention.values, made.dense(i), atol=3e-6)


CASES = {"causal": synthetic((LENGTH,), seed=3), "window": synthetic((LENGTH,), seed=4, window=6)}
PAGES = {name: written(made)["doc-0"] for name, made in CASES.items()}
DENSE = {name: made.dense(0) for name, made in CASES.items()}


def indexers(size: int) -> st.SearchStrategy[Any]:
    bound = st.none() | st.integers(-size - 3, size + 3)
    return st.one_of(
        st.integers(-size, size - 1),
        st.builds(slice, bound, bound, st.none() | st.sampled_from([1, 2, 3, -1, -4])).filter(
            lambda s: (
                (s.step or 1) > 0 or len(range(*s.indices(size))) > 0
            )  # xarray itself trips over an empty reversed slice
        ),
        st.lists(st.integers(-size, size - 1), max_size=5).map(lambda chosen: np.array(chosen, dtype=int)),
    )


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(sorted(CASES)), data=st.data())
def test_any_indexing_equals_indexing_the_dense_map(case: str, data: st.DataObject) -> None:
    dense = xr.DataArray(DENSE[case], dims=("layer", "head", "query", "key"))
    key = {dim: data.draw(indexers(size), label=str(dim)) for dim, size in dense.sizes.items()}
    found = PAGES[case].attention.isel(key)
    expected = dense.isel(key)
    assert found.dims == expected.dims
    np.testing.assert_allclose(found.values, expected.values, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(["entropy", "max_weight", "induction_weight", "log_sum_exp"]))
def test_statistics_can_be_indexed_too(data: st.DataObject, name: str) -> None:
    whole = PAGES["window"][name].copy().load()
    key = {dim: data.draw(indexers(size), label=str(dim)) for dim, size in whole.sizes.items()}
    np.testing.assert_array_equal(written_page()[name].isel(key).values, whole.isel(key).values)


def written_page() -> xr.Dataset:
    return written(CASES["window"])["doc-0"]


def test_labels_and_dask() -> None:
    page, dense = PAGES["causal"], DENSE["causal"]
    np.testing.assert_allclose(
        page.attention.sel(layer=1, head=[3, 0], query=40).values, dense[1, [3, 0], 40], atol=2e-6
    )
    mean = page.attention.chunk({"query": 16, "head": 2}).mean(("query", "key")).compute(scheduler="threads")
    np.testing.assert_allclose(mean.values, dense.mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("heads", [[3, 0], [0, 0, 2], [2], [1, 3, 0, 2]])
def test_heads_in_any_order(heads: list[int]) -> None:
    """xarray sorts what it asks for; others, such as verify, need not."""
    rows = written(CASES["causal"]).rows("self", 0)
    every = np.arange(LENGTH)
    found = LazyAttention(rows).compute([np.array([1]), np.array(heads), every, every])[0]
    np.testing.assert_allclose(found, DENSE["causal"][1, heads], atol=2e-6)


@pytest.mark.parametrize("step", [1, 13, 64, 200])
def test_the_size_of_written_blocks_does_not_matter(step: int) -> None:
    made = synthetic((90, 31), block=32, pack_tokens=200)
    atlas = written(made, step=step)
    for i in range(2):
        np.testing.assert_allclose(atlas[f"doc-{i}"].attention.values, made.dense(i), atol=2e-6)


def test_the_order_of_commits_does_not_matter() -> None:
    made = synthetic()
    one, other = MemoryStore(), MemoryStore()
    written(made, one)
    written(made, other, packs=made.packs[::-1])
    for path in ("self/q", "self/k", "self/log_sum_exp", "self/key_start", "self/key_stop", "packs/state"):
        first, second = (zarr.open_array(store, path=path, mode="r")[...] for store in (one, other))
        np.testing.assert_array_equal(first, second)


def test_working_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_module, "WORKING_BYTES", 4_000)  # many small blocks of heads and rows
    made = synthetic((LENGTH,), seed=3)
    np.testing.assert_allclose(written(made)["doc-0"].attention.values, DENSE["causal"], atol=2e-6)


class CountingStore(WrapperStore[Store]):
    """Counts the bytes that are read through it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.read = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        self.read += 0 if value is None else len(value)
        return value


def test_sixteen_rows_of_one_head_read_less_than_two_percent(tmp_path: Any) -> None:
    made = synthetic((2048,), layers=tuple(range(8)), heads=8, kv_heads=4, block=2048, pack_tokens=4096)
    written(made, tmp_path / "atlas.zarr")
    store = CountingStore(LocalStore(tmp_path / "atlas.zarr", read_only=True))
    page = open_atlas(store)["doc-0"]
    opened = store.read
    rows = page.attention.sel(layer=3, head=5).isel(query=slice(1000, 1016)).values
    np.testing.assert_allclose(rows, made.dense(0)[3, 5, 1000:1016], atol=2e-6)
    whole = store_bytes(tmp_path / "atlas.zarr")
    share = (store.read - opened) / whole
    print(f"read {store.read - opened:,} of {whole:,} bytes: {share:.2%} (opening the page: {opened:,})")
    assert 0 < share < 0.02


class FailingStore(WrapperStore[Store]):
    """Raises at the n-th write, as a full disk would."""

    def __init__(self, store: Store, left: list[int]) -> None:
        super().__init__(store)
        self.left = left

    def _with_store(self, store: Store) -> FailingStore:
        return FailingStore(store, self.left)

    async def set(self, key: str, value: Any) -> None:
        if self.left[0] <= 0:
            raise OSError("no space left on device")
        self.left[0] -= 1
        await super().set(key, value)


@settings(max_examples=40, deadline=None)
@given(writes=st.integers(0, 60))
def test_a_crash_at_any_write_leaves_exactly_the_committed_packs(writes: int) -> None:
    made = synthetic()
    memory = MemoryStore()
    AtlasWriter.create(memory, made.spec("factors"))
    writer = AtlasWriter.reopen(FailingStore(memory, [writes]), made.spec("factors"))
    committed = 0
    try:
        for pack in made.packs:
            made.write_pack(writer, pack)
            committed += 1
    except OSError:
        pass
    atlas = open_atlas(memory)
    if len(atlas) == 4 and committed == len(made.packs) - 1:  # cut off while the records of all packs were published
        committed += 1
    assert len(atlas) == sum(len(pack.documents) for pack in made.packs[:committed])
    for document in atlas:
        i = int(document.removeprefix("doc-"))
        np.testing.assert_allclose(atlas[document].attention.values, made.dense(i), atol=2e-6)
    del writer  # as its process, which has died
    again = AtlasWriter.reopen(memory, made.spec("factors"))
    for pack in again.pending_packs():
        made.write_pack(again, pack)
    whole = open_atlas(memory)
    assert whole.column("packs/state").tolist() == [1] * len(made.packs)
    assert whole.packs["attempt"].values.tolist() == [1] * len(made.packs)
    for i in range(4):
        np.testing.assert_allclose(whole[f"doc-{i}"].attention.values, made.dense(i), atol=2e-6)


def test_unknown_documents_are_named() -> None:
    atlas = written(synthetic())
    with pytest.raises(KeyError, match="did you mean 'doc-1'"):
        atlas["doc_1"]
    assert issubclass(AttlasError, Exception)
