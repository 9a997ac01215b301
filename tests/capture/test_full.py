"""A disk without room in the middle of a capture."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest
from zarr.abc.store import Store
from zarr.storage import MemoryStore, WrapperStore

import attlas
from attlas.capture import plan as plan_module
from attlas.engine.passage.documents import plan_packs
from attlas.errors import StoreFullError

TEXTS = ["the cat sat. " * 20, "a dog ran far. " * 20, "no bird sang. " * 20]


class SmallStore(WrapperStore[Store]):
    """Has room for so many bytes in all."""

    def __init__(self, store: Store, room: list[int]) -> None:
        super().__init__(store)
        self.room = room

    def _with_store(self, store: Store) -> SmallStore:
        return SmallStore(store, self.room)

    async def set(self, key: str, value: Any) -> None:
        if len(value) > self.room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room[0] -= len(value)
        await super().set(key, value)


@pytest.mark.parametrize(("room", "kept"), [(1_000, False), (2_000_000, True)])
def test_a_full_disk_says_what_is_missing_and_the_same_capture_goes_on(
    room: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plan_module,
        "plan_packs",
        lambda lengths, *, pack_tokens, block: plan_packs(lengths, pack_tokens=60, block=block),
    )
    memory, left = MemoryStore(), [room]
    whole = attlas.capture("demo", TEXTS, "memory://roomy", overwrite=True)
    with pytest.raises(StoreFullError, match=r"still to be written takes at most [\d.]+ [kM]B") as raised:
        attlas.capture("demo", TEXTS, SmallStore(memory, left))
    assert "go on with --resume" in str(raised.value)
    assert raised.value.errno == errno.ENOSPC
    committed = int(str(raised.value).split(" of 3 packs are committed")[0].split()[-1])
    assert (committed > 0) == kept
    left[0] = 10**9
    atlas = attlas.capture("demo", TEXTS, SmallStore(memory, left), resume=True)
    for document in whole:
        np.testing.assert_array_equal(atlas[document].attention.values, whole[document].attention.values)
