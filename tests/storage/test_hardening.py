"""What a writer must refuse, survive, and never lose in silence."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import Store
from zarr.core.sync import _get_loop, sync
from zarr.storage import MemoryStore, WrapperStore

from attlas.errors import InputError, MissingAttentionError, StoreExistsError, StoreMissingError, UnsupportedModelError
from attlas.storage import AtlasWriter, open_atlas, verify
from attlas.storage.occupant import json_buffer, settle
from attlas.storage.schema import map_group
from tests.storage.slow_store import SlowStore
from tests.storage.synthetic import Synthetic, synthetic


def with_ids(made: Synthetic, *ids: str) -> Synthetic:
    return replace(made, documents=tuple(replace(d, id=i) for d, i in zip(made.documents, ids, strict=True)))


def blocks(made: Synthetic, step: int) -> Any:
    return made._blocks(0, 0, 0, 0, "factors", step)


@pytest.mark.parametrize("name", ["", ".", "..", "zarr.json", "__x", "c", "a/b", "a" * 300, "ü" * 90])
def test_any_id_makes_a_group_of_its_own(name: str, tmp_path: Path) -> None:
    made = with_ids(synthetic((10,), layers=(0,)), name)
    AtlasWriter.create(tmp_path / "atlas.zarr", made.spec("maps"))
    (path,) = (tmp_path / "atlas.zarr" / "self" / "maps").glob("*/")
    assert f"self/maps/{path.name}" == map_group("self", name)
    array = zarr.open_group(tmp_path / "atlas.zarr", mode="r", use_consolidated=False)[map_group("self", name)]
    assert array["attention"].attrs["document_id"] == name  # type: ignore[index, union-attr]


def test_ids_given_twice_and_no_documents_are_refused() -> None:
    store = MemoryStore()
    with pytest.raises(InputError, match="'same'"):
        AtlasWriter.create(store, with_ids(synthetic((10, 12)), "same", "same").spec("factors"))
    with pytest.raises(InputError, match="no documents"):
        AtlasWriter.create(store, replace(synthetic((10,)).spec("factors"), documents=(), packs=()))


def test_an_unknown_dtype_is_refused_by_name() -> None:
    made = synthetic((10,))
    made = replace(made, kind=replace(made.kind, dtype="float64"))
    with pytest.raises(UnsupportedModelError, match="float64"):
        AtlasWriter.create(MemoryStore(), made.spec("factors"))


def test_a_pack_with_a_hole_is_not_committed() -> None:
    made, store = synthetic((64,)), MemoryStore()
    writer = AtlasWriter.create(store, made.spec("factors"))
    with writer.pack(made.packs[0]) as sink:
        sink.write(blocks(made, 37)[0])
        with pytest.raises(MissingAttentionError, match="37 of the 64 rows"):
            sink.flush()
    with writer.pack(made.packs[0]) as sink:
        for block in blocks(made, 37):  # layer 0 alone
            sink.write(block)
        with pytest.raises(MissingAttentionError, match="self layer 1"):
            sink.flush()
    assert len(open_atlas(store)) == 0
    made.write_pack(writer, made.packs[0])
    np.testing.assert_allclose(open_atlas(store)["doc-0"].attention.values, made.dense(0), atol=2e-6)


def test_rows_out_of_order_or_of_another_pack_are_refused() -> None:
    made = synthetic((128,), pack_tokens=200)
    writer = AtlasWriter.create(MemoryStore(), made.spec("factors"))
    with writer.pack(made.packs[0]) as sink:
        sink.write(blocks(made, 32)[0])
        with pytest.raises(MissingAttentionError, match="token 32 was next"):
            sink.write(blocks(made, 32)[2])
    two = synthetic((64, 64), pack_tokens=64)
    writer = AtlasWriter.create(MemoryStore(), two.spec("factors"))
    with writer.pack(two.packs[1]) as sink, pytest.raises(MissingAttentionError, match="pack 1"):
        sink.write(blocks(two, 32)[0])


def test_rows_of_zeros_are_written_like_any_other() -> None:
    made, store = synthetic((64, 20)), MemoryStore()
    for q in made.q:
        q[...] = 0
    writer = AtlasWriter.create(store, made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    assert verify(store).problems == ()
    np.testing.assert_allclose(open_atlas(store)["doc-1"].attention.values, made.dense(1), atol=2e-6)


def test_arguments_that_cannot_be_stored_leave_the_old_atlas_alone() -> None:
    made, store = synthetic((10,)), MemoryStore()
    made.write_pack(AtlasWriter.create(store, made.spec("factors")), made.packs[0])
    with pytest.raises(TypeError):
        AtlasWriter.create(store, replace(made.spec("factors"), model={"name": object()}), overwrite=True)
    assert list(open_atlas(store)) == ["doc-0"]


def test_resume_takes_tuples_for_what_json_made_lists() -> None:
    made, store = synthetic((10,)), MemoryStore()
    spec = replace(made.spec("factors"), options={"layers": (0, 1)})
    AtlasWriter.create(store, spec)
    assert len(AtlasWriter.reopen(store, spec).pending_packs()) == 1


class KilledStore(WrapperStore[Store]):
    """Takes n writes; after that nothing works any more, as when the process is killed."""

    def __init__(self, store: Store, left: list[int]) -> None:
        super().__init__(store)
        self.left = left

    def _with_store(self, store: Store) -> KilledStore:
        return KilledStore(store, self.left)

    async def set(self, key: str, value: Any) -> None:
        if self.left[0] <= 0:
            raise OSError("gone")
        self.left[0] -= 1
        await super().set(key, value)

    async def delete_dir(self, prefix: str) -> None:
        if self.left[0] <= 0:
            raise OSError("gone")
        await super().delete_dir(prefix)


@pytest.mark.parametrize("writes", [1, 2, 9, 40])
def test_a_store_half_made_by_a_killed_process_can_be_replaced(writes: int) -> None:
    made, memory = synthetic((10,)), MemoryStore()
    with pytest.raises(OSError, match="gone"):
        AtlasWriter.create(KilledStore(memory, [writes]), made.spec("factors"))
    with pytest.raises(StoreMissingError, match="never finished"):
        open_atlas(memory)
    with pytest.raises(StoreExistsError, match="--overwrite"):
        AtlasWriter.create(memory, made.spec("factors"))
    writer = AtlasWriter.create(memory, made.spec("factors"), overwrite=True)
    made.write_pack(writer, made.packs[0])
    np.testing.assert_allclose(open_atlas(memory)["doc-0"].attention.values, made.dense(0), atol=2e-6)


def test_an_array_or_garbage_is_no_atlas(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array", shape=(2,), dtype="f4")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "zarr.json").write_text("{broken")
    for name in ("array", "garbage"):
        with pytest.raises(StoreMissingError):
            open_atlas(tmp_path / name)


def test_verify_notes_rows_that_were_never_committed() -> None:
    made, store = synthetic((64, 64), pack_tokens=64), MemoryStore()
    writer = AtlasWriter.create(store, made.spec("factors"))
    made.write_pack(writer, made.packs[0])
    made.write_pack(writer, made.packs[1])
    sync(store.delete("packs/commit/c/1"))
    writer.root["packs/state"][1] = 0  # type: ignore[index]
    report = verify(store)
    assert report.passed
    (note,) = (note for check in report.checks for note in check.notes)
    assert "pack 1 is not committed" in note


def test_a_clean_up_waits_for_what_an_interrupted_write_goes_on_with() -> None:
    """An interrupt ends the wait for a write, and not the write, which zarr's event loop goes on with."""
    store = SlowStore(seconds=0.3)
    writing = asyncio.run_coroutine_threadsafe(store.set("self/q/c/0", json_buffer("late")), _get_loop())
    settle()
    assert writing.done()
