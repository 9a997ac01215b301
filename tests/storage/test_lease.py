"""One writer an atlas: the second is refused, one that has died is followed, one that was overtaken stops."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attlas.errors import AttlasError, CorruptAtlasError, StoreBusyError
from attlas.storage import AtlasWriter, open_atlas, verify
from attlas.storage.lease import LEASE
from tests.storage.faults import differing, readings
from tests.storage.synthetic import Synthetic, synthetic


@pytest.fixture
def made() -> Synthetic:
    return synthetic(lengths=(40, 30, 50), pack_tokens=50, layers=(0,), heads=2, kv_heads=1)


def leave_lease(store: Path, **changed: Any) -> None:
    """As a writer of another process would have left it."""
    told = json.loads((store / LEASE).read_text()) | {"writer": "another"} | changed
    (store / LEASE).write_text(json.dumps(told))


def begun(made: Synthetic, store: Path) -> AtlasWriter:
    writer = AtlasWriter.create(store, made.spec("factors"))
    made.write_pack(writer, made.packs[0])
    return writer


def test_a_living_writer_of_another_process_is_waited_for(made: Synthetic, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    begun(made, store)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        leave_lease(store, pid=process.pid, started=f"{boot} {ticks}")
        with pytest.raises(StoreBusyError, match=f"process {process.pid} of this machine: wait for it, or stop it"):
            AtlasWriter.reopen(store, made.spec("factors"))
        with pytest.raises(StoreBusyError, match="of this machine"):
            AtlasWriter.create(store, made.spec("factors"), overwrite=True)
        assert list(open_atlas(store)) == ["doc-0"]
        leave_lease(store, pid=process.pid, started=f"{boot} {int(ticks) + 1}")  # another process of that number
        AtlasWriter.reopen(store, made.spec("factors")).close()
        assert process.stdin is not None
        process.stdin.close()
    writer = AtlasWriter.reopen(store, made.spec("factors"))
    leave_lease(store, pid=process.pid, started=f"{boot} {ticks}")  # it has ended
    writer = AtlasWriter.reopen(store, made.spec("factors"))
    for pack in writer.pending_packs():
        made.write_pack(writer, pack)
    assert not (store / LEASE).exists()
    assert verify(store).passed


def test_a_writer_of_another_machine_has_a_remedy(made: Synthetic, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    begun(made, store)
    leave_lease(store, host="node-7 pid:[1]", time=time.time() - 90)
    with pytest.raises(StoreBusyError, match=rf"on node-7, heard of 9\d s ago: .* remove {LEASE}"):
        AtlasWriter.reopen(store, made.spec("factors"))
    leave_lease(store, host=f"{socket.gethostname()} pid:[1]", time=time.time())  # another container's
    with pytest.raises(StoreBusyError, match="remove"):
        AtlasWriter.reopen(store, made.spec("factors"))
    (store / LEASE).unlink()
    AtlasWriter.reopen(store, made.spec("factors")).close()


@pytest.mark.parametrize("how", ["goes on", "replaces"])
def test_a_writer_that_was_overtaken_stops(made: Synthetic, tmp_path: Path, how: str) -> None:
    """It was silent for so long that another took its place, and then wakes up in the midst of a pack."""
    store, other = (
        tmp_path / "a.zarr",
        synthetic(lengths=(40, 30, 50), pack_tokens=50, seed=5, layers=(0,), heads=2, kv_heads=1),
    )
    slow = begun(made, store)
    with slow.pack(made.packs[1]) as sink:
        for block in made._blocks(1, 0, 0, made.packs[1].document_start["text"][0], "factors", 37):
            sink.write(block)
        leave_lease(store, host="asleep", time=time.time() - 7200)
        second = made if how == "goes on" else other
        writer = (
            AtlasWriter.reopen(store, second.spec("factors"))
            if how == "goes on"
            else AtlasWriter.create(store, second.spec("factors"), overwrite=True)
        )
        for pack in writer.pending_packs():
            second.write_pack(writer, pack)
        with pytest.raises(StoreBusyError, match="this one stops, and commits nothing more"):
            slow.commit(made.packs[1], seconds=0.0, attempt=9, size=sink.flush())
    with pytest.raises(StoreBusyError):
        slow.fail(made.packs[1], attempt=9, error="late")
    with pytest.raises(StoreBusyError):
        slow.pack(made.packs[2])
    slow.discard_if_empty()
    slow.close()
    atlas = open_atlas(store)
    assert atlas.packs["attempt"].values.tolist() == [1, 1, 1]
    if how == "goes on":  # the same rows were written twice
        assert verify(store).passed
        np.testing.assert_allclose(atlas["doc-1"].attention.values, second.dense(1), atol=2e-6)


def test_what_an_overtaken_writer_would_write_late_it_does_not(
    made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "a.zarr"
    slow = begun(made, store)
    sink = slow.pack(made.packs[1])
    leave_lease(store, host="asleep", time=0.0)
    writer = AtlasWriter.reopen(store, made.spec("factors"))
    monkeypatch.setattr("attlas.storage.lease.LOOKED", -1.0)  # as after a long sleep
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}

    def write_all() -> None:  # the first write that comes after finds out
        for block in made._blocks(1, 0, 0, made.packs[1].document_start["text"][0], "factors", 37):
            sink.write(block)
        sink.flush()

    with pytest.raises(StoreBusyError), sink:
        write_all()
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    writer.close()


@pytest.mark.parametrize("how", ["overwritten", "deleted"])
@pytest.mark.parametrize("keep", ["factors", "statistics"])
def test_a_page_held_open_across_an_overwrite_is_an_error_and_no_mixture(tmp_path: Path, keep: str, how: str) -> None:
    """Nothing, a part or all was read before; whatever is read after is an error, or what was there before."""
    made, other = (synthetic(lengths=(90, 70), seed=seed) for seed in (0, 1))
    store = tmp_path / "a.zarr"
    writer = AtlasWriter.create(store, made.spec(keep))
    for pack in made.packs:
        made.write_pack(writer, pack, keep=keep)
    before, held = readings(open_atlas(store)), open_atlas(store)
    page, entropy = held["doc-0"], before["doc-0/entropy"]
    np.testing.assert_array_equal(page.entropy[0, 1].values, entropy[0, 1])
    if how == "deleted":
        os.rename(store, tmp_path / "elsewhere")
    else:
        writer = AtlasWriter.create(store, other.spec(keep), overwrite=True)
        for pack in other.packs:
            other.write_pack(writer, pack, keep=keep)
    found: dict[str, Any] = {}
    for name in ("entropy", "log_sum_exp", "max_weight", *(("attention",) if keep == "factors" else ())):
        with pytest.raises(CorruptAtlasError):
            found[name] = page[name].values
    with pytest.raises(AttlasError):
        held["doc-1"].entropy.values  # noqa: B018
    with pytest.raises(AttlasError):
        readings(held)
    if how == "overwritten":
        assert differing(readings(open_atlas(store)), before) != ""


def test_a_record_of_another_pack_or_atlas_is_found(tmp_path: Path) -> None:
    made, other = synthetic(), synthetic(seed=1)
    for name, one in (("a", made), ("b", other)):
        writer = AtlasWriter.create(tmp_path / name, one.spec("factors"))
        for pack in one.packs:
            one.write_pack(writer, pack)
    own = (tmp_path / "a/packs/commit/c/1").read_bytes()
    for source in ("a/packs/commit/c/0", "b/packs/commit/c/1"):
        (tmp_path / "a/packs/commit/c/1").write_bytes((tmp_path / source).read_bytes())
        (problem,) = verify(tmp_path / "a").problems
        assert "packs/commit of pack 1 is not the record that was written there" in problem
    (tmp_path / "a/packs/commit/c/1").write_bytes(own)
    assert verify(tmp_path / "a").passed


def test_a_pack_whose_record_is_damaged_is_captured_again(tmp_path: Path) -> None:
    made, store = synthetic(), tmp_path / "a.zarr"
    writer = AtlasWriter.create(store, made.spec("factors"))
    for pack in made.packs[:2]:
        made.write_pack(writer, pack)
    writer.close()
    (store / "packs/commit/c/0").write_bytes((store / "packs/commit/c/1").read_bytes())
    writer = AtlasWriter.reopen(store, made.spec("factors"))
    assert [pack.index for pack in writer.pending_packs()] == [0, 2]


def test_strays_are_told_and_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    made, store = synthetic(), tmp_path / "a.zarr"
    writer = AtlasWriter.create(store, made.spec("factors"))
    made.write_pack(writer, made.packs[0])
    writer.close()
    partial, note = store / "self/q/c/0/0/0" / f"1.{'a' * 32}.partial", store / "notes.txt"
    for path in (partial, note):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    report = verify(store)
    assert report.passed
    notes = " ".join(note for check in report.checks for note in check.notes)
    assert "1 files were being written when their process was killed, such as self/q/c/0/0/0/1." in notes
    assert "1 files are not of this atlas, such as notes.txt" in notes
    AtlasWriter.reopen(store, made.spec("factors")).close()
    assert not partial.exists()
    assert note.read_text() == "mine"
    AtlasWriter.create(store, made.spec("factors"), overwrite=True).discard_if_empty()
    assert [path.name for path in store.rglob("*")] == ["notes.txt"]
