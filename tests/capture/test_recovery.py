"""A capture is killed, or interrupted, at any moment; the same again with resume gives the undisturbed atlas.

Every file is the same, byte for byte, but for the atlas's identity (its seals too) and times; and nothing is left over.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import attlas
from attlas.storage.occupant import look
from attlas.storage.zarr_shards import CRC, SEAL
from tests.capture.stopped import run

STOPS = int(os.environ.get("ATTLAS_STOPS", "40"))
"""Kills, and interrupts, of the slow test; a quarter of them with two shards on Ray."""
KEEPS = ("factors", "statistics", "maps")
OWN = {"identity", "created", "history", "digest"}
TIMED = ("packs/commit/c/", "packs/seconds/c/", "packs/digests/c/")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[Path, int]]:
    """(keep, shards) -> atlas and moments of a capture that nothing stopped, made when first asked for."""

    class Made(dict[tuple[str, int], tuple[Path, int]]):
        def __missing__(self, key: tuple[str, int]) -> tuple[Path, int]:
            keep, shards = key
            store = tmp_path_factory.mktemp("calm") / "atlas.zarr"
            code, moments = run(store, keep=keep, shards=shards)
            assert code == 0, (store.parent / "log").read_text()
            self[key] = store, moments
            return self[key]

    return Made()


def stop_and_go_on(undisturbed: Any, tmp_path: Path, stop: str, keep: str, shards: int, part: float) -> None:
    expected, moments = undisturbed[keep, shards]
    store, moment = tmp_path / "atlas.zarr", int(part * moments)
    code, _seen = run(store, keep=keep, shards=shards, stop=stop, moment=moment)
    told = f"{stop} at moment {moment} of {moments}, {keep}, {shards} shards: exit {code}"
    assert code == -9 if stop == "kill" else code in {0, 130}, (told, (tmp_path / "log").read_text())
    there = look(LocalStore(store))
    print(f"{told}, {there}")
    assert there in {"empty", "begun", "atlas"}, told
    if stop == "interrupt" and there != "empty":
        assert len(attlas.open_atlas(store)) > 0, told  # without a committed pack nothing stays
    code, _ = run(store, keep=keep, shards=shards)
    assert code == 0, (told, (tmp_path / "log").read_text())
    assert_same_files(store, expected)


def files_of(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def assert_same_files(store: Path, expected: Path) -> None:
    found, wanted = files_of(store), files_of(expected)
    assert found.keys() == wanted.keys()
    root = zarr.open_group(expected, mode="r")
    for key, content in wanted.items():
        if key == "zarr.json":
            assert _without_own(found[key]) == _without_own(content)
        elif not key.startswith(TIMED):
            assert _without_seal(root, key, found[key]) == _without_seal(root, key, content), key
    one, other = (attlas.open_atlas(path).packs.drop_vars("seconds") for path in (store, expected))
    assert one.identical(other)
    assert attlas.verify(store).problems == ()
    assert [note for check in attlas.verify(store).checks for note in check.notes] == []


def _without_own(content: bytes) -> Any:
    told = json.loads(content)
    return told | {"attributes": {name: value for name, value in told["attributes"].items() if name not in OWN}}


def _without_seal(root: zarr.Group, key: str, content: bytes) -> bytes:
    array = root.get(key.partition("/c/")[0])
    if not isinstance(array, zarr.Array) or array.shards is None:
        return content
    entries = int(np.prod([a // b for a, b in zip(array.shards, array.chunks, strict=True)]))
    end = len(content) - entries * 16 - CRC
    return content[: end - SEAL] + content[end:]


@pytest.mark.parametrize("part", [0.05, 0.4, 0.93])
@pytest.mark.parametrize("stop", ["kill", "interrupt"])
def test_a_stopped_capture_goes_on(undisturbed: Any, tmp_path: Path, stop: str, part: float) -> None:
    stop_and_go_on(undisturbed, tmp_path, stop, "factors", 1, part)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(STOPS))
@pytest.mark.parametrize("stop", ["kill", "interrupt"])
def test_a_capture_stopped_anywhere_goes_on(undisturbed: Any, tmp_path: Path, stop: str, number: int) -> None:
    """Every fourth with two shards, every fifth interrupt given twice; each stage of each comes up."""
    shards = 2 if number % 4 == 3 else 1
    twice = " twice" if stop == "interrupt" and number % 5 == 4 else ""
    keep = KEEPS[number % 3] if shards == 1 else KEEPS[number // 4 % 2]
    stop_and_go_on(undisturbed, tmp_path, stop + twice, keep, shards, (number + 0.5) / STOPS)
