"""verify finds each kind of damage, and names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from attlas.storage import AtlasWriter, verify
from attlas.storage.digests import ROOT, with_digest
from attlas.storage.occupant import put_json, read_json
from attlas.storage.zarr_shards import encode, place_of, store_zarr_shard
from tests.storage.synthetic import synthetic


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    made = synthetic()
    writer = AtlasWriter.create(tmp_path / "atlas.zarr", made.spec("factors"))
    for pack in made.packs[:2]:
        made.write_pack(writer, pack)
    return tmp_path / "atlas.zarr"


def failed(path: Path) -> dict[str, tuple[str, ...]]:
    return {check.name: check.problems for check in verify(path).checks if not check.passed}


def edit(path: Path, array: str) -> Any:
    return zarr.open_group(path, mode="r+")[array]


def shift(path: Path, name: str, head: int, by: float) -> None:
    """Change a row array of (layer, head, token) as a writer that computes wrongly would: its seals are whole."""
    root = zarr.open_group(path, mode="r+")
    array = root[name]
    assert isinstance(array, zarr.Array)
    assert array.shards is not None
    values, tokens = np.asarray(array[...]), array.shards[2]
    values[0, head] += by
    for file in (path / name / "c").rglob("*"):
        if file.is_file():
            key = str(file.relative_to(path))
            layer, _, place = map(int, key.rpartition("/c/")[2].split("/"))
            part = values[layer * array.shards[0] :][: array.shards[0], :, place * tokens : (place + 1) * tokens]
            used = int(np.isfinite(part[0, 0]).sum())
            layout = {"inner": array.chunks[2], "used": used, "axis": 2, "layers": array.shards[0]}
            identity = str(root.attrs["identity"])
            store_zarr_shard(array, key, encode(part, **layout, place=place_of(identity, key)))


def test_a_sound_atlas_with_a_pending_pack(atlas: Path) -> None:
    report = verify(atlas)
    assert report.passed
    assert "1 pending" in next(check.examined for check in report.checks if check.name == "commit records")


def test_a_flipped_bit_is_a_checksum_error(atlas: Path) -> None:
    shard = next(path for path in (atlas / "self" / "k" / "c").rglob("*") if path.is_file())
    raw = bytearray(shard.read_bytes())
    raw[40] ^= 1
    shard.write_bytes(raw)
    assert "self/k" in failed(atlas)["checksums"][0]


def test_a_missing_shard(atlas: Path) -> None:
    (atlas / "self" / "q" / "c" / "1" / "0" / "0" / "0").unlink()
    problems = failed(atlas)
    assert "self/q/c/1/0/0/0 is not on disk" in problems["commit records"][0]


def test_values_that_are_not_finite(atlas: Path) -> None:
    array = edit(atlas, "self/q")
    array[1, 2, 3, 4] = np.inf
    assert "document 'doc-0', self layer 1: q has values that are not finite" in failed(atlas)["values"]


def test_rows_that_do_not_sum_to_one(atlas: Path) -> None:
    shift(atlas, "self/log_sum_exp", head=1, by=0.01)
    problems = failed(atlas)
    assert set(problems) == {"row sums"}
    assert "head 1" in problems["row sums"][0]


def test_large_scores_are_given_their_rounding_and_no_more(tmp_path: Path) -> None:
    """Scores of a thousand: the log-sum-exp is rounded by more than 1e-5, which is no damage; 0.01 is."""
    made = synthetic(q_size=200.0)
    writer = AtlasWriter.create(tmp_path / "atlas.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    sums = next(check for check in verify(tmp_path / "atlas.zarr").checks if check.name == "row sums")
    assert sums.passed
    assert "rounding" in sums.notes[0]
    shift(tmp_path / "atlas.zarr", "self/log_sum_exp", head=1, by=0.01)
    assert "head 1" in failed(tmp_path / "atlas.zarr")["row sums"][0]


def test_an_interval_outside_its_document(atlas: Path) -> None:
    edit(atlas, "self/key_stop")[0, 3] = 5_000
    assert "points outside" in failed(atlas)["values"][0]


def test_a_missing_array(atlas: Path) -> None:
    group = zarr.open_group(atlas, mode="r+", use_consolidated=False)
    del group["self/log_sum_exp"]
    zarr.consolidate_metadata(group.store)
    put_json(group.store, ROOT, with_digest(read_json(group.store, ROOT)))
    assert failed(atlas) == {"arrays": ("self/log_sum_exp is missing",)}
