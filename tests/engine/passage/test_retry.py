"""The one policy for a pack that breaks: as a table, and as a capture in this process follows it."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attlas
from attlas.engine.passage.headroom import Headroom
from attlas.engine.passage.retry import LOSSES, TRIES, Trial, after_error, after_loss, describe_error
from attlas.errors import InputError, NoMemoryError, NotFiniteError, StoreFullError
from attlas.storage import PackWriter
from tests.families import BY_NAME, build_model, documents

MIB = 2**20
FIRST = Trial(room=Headroom(chunk_tokens=256, tile_bytes=8 * MIB))


def test_out_of_memory_is_tried_with_less_until_there_is_none() -> None:
    trial, rooms = FIRST, []
    while True:
        outcome = after_error(trial, torch.OutOfMemoryError("no memory"), name="pack 3 ('a', 900 tokens)")
        if not isinstance(outcome, Trial):
            break
        assert outcome.attempt == trial.attempt + 1
        assert (outcome.errors, outcome.losses) == (0, 0)
        trial = outcome
        rooms.append((trial.room.tile_bytes // MIB, trial.room.chunk_tokens))
    assert rooms == [(4, 256), (4, 128), (4, 64)]
    assert isinstance(outcome, NoMemoryError)
    assert str(outcome).startswith(
        "the device has no memory for pack 3 ('a', 900 tokens), with a tile of 4 MiB and 64 tokens a pass too -- "
    )


@pytest.mark.parametrize("error", [NotFiniteError("q is nan"), InputError("position bias ends")])
def test_what_would_be_the_same_again_is_given_up_at_once(error: Exception) -> None:
    assert after_error(FIRST, error, name="pack") is error


@pytest.mark.parametrize("error", [OSError("reset by peer"), RuntimeError("a kernel broke"), OSError(errno.EIO, "io")])
def test_what_may_pass_is_tried_so_often(error: Exception) -> None:
    trial = FIRST
    for attempt in range(2, TRIES + 1):
        outcome = after_error(trial, error, name="pack")
        assert outcome == replace(FIRST, attempt=attempt, errors=attempt - 1)
        assert isinstance(outcome, Trial)
        trial = outcome
    assert after_error(trial, error, name="pack") is error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_run(code: int) -> None:
    error = OSError(code, "no room")
    with pytest.raises(OSError, match="no room") as raised:
        after_error(FIRST, error, name="pack")
    assert raised.value is error


def test_a_pack_that_kills_its_workers_is_given_up() -> None:
    trial = FIRST
    for losses in range(1, LOSSES):
        outcome = after_loss(trial, ConnectionError("actor died\nmore"))
        assert outcome == replace(FIRST, attempt=losses + 1, losses=losses)
        assert isinstance(outcome, Trial)
        trial = outcome
    last = after_loss(trial, ConnectionError("actor died\nmore"))
    assert isinstance(last, Exception)
    assert describe_error(last) == f"ClusterError: its workers died {LOSSES} times, at last with: actor died"


@pytest.mark.parametrize(("breaks", "attempts"), [(1, 2), (2, 3)])
def test_a_store_that_hiccups_costs_a_try_and_no_number(
    breaks: int, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"])
    attlas.capture(model, inputs, tmp_path / "calm.zarr")
    monkeypatch.setattr(PackWriter, "flush", breaking(PackWriter.flush, breaks, OSError("reset by peer")))
    atlas = attlas.capture(model, inputs, tmp_path / "rough.zarr")
    assert atlas.packs["attempt"].values.tolist() == [attempts]
    assert attlas.verify(tmp_path / "rough.zarr").passed


def test_a_store_that_stays_broken_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"])
    tries: list[int] = []
    monkeypatch.setattr(PackWriter, "flush", breaking(PackWriter.flush, 99, OSError("reset by peer"), tries))
    with pytest.raises(OSError, match="reset by peer"):
        attlas.capture(model, inputs, tmp_path / "a.zarr")
    assert len(tries) == TRIES
    tries.clear()
    monkeypatch.undo()
    monkeypatch.setattr(PackWriter, "flush", breaking(PackWriter.flush, 99, OSError(errno.ENOSPC, "full"), tries))
    with pytest.raises(StoreFullError, match=r"no space is left; .* 0 of 1 packs are committed"):
        attlas.capture(model, inputs, tmp_path / "b.zarr")
    assert len(tries) == 1


def breaking(flush: Any, times: int, error: Exception, tries: list[int] | None = None) -> Any:
    """`flush`, which raises the first `times` that it is asked."""
    seen = [] if tries is None else tries

    def flushes(self: PackWriter) -> int:
        seen.append(1)
        if len(seen) <= times:
            raise error
        found: int = flush(self)
        return found

    return flushes
