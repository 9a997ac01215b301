"""One conformance class that every kind of store is run through: memory, a local folder, an S3 server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import xarray as xr

from attlas.errors import InputError, StoreExistsError, StoreMissingError, TierError
from attlas.storage import AtlasWriter, open_atlas, store_bytes, verify
from tests.conftest import S3Server
from tests.storage.synthetic import synthetic


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    where: str
    options: dict[str, Any] | None = None


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(where=str(tmp_path / "atlas.zarr"))
    if request.param == "memory":
        return Place(where=f"memory://{uuid4()}")
    server: S3Server = request.getfixturevalue("s3_server")
    return Place(where=f"s3://{server.bucket}/{uuid4()}.zarr", options=server.storage_options)


class TestAnyStore:
    def test_factors_round_trip(self, place: Place) -> None:
        made = synthetic()
        writer = AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        for pack in made.packs:
            made.write_pack(writer, pack)
        atlas = open_atlas(place.where, storage_options=place.options)
        assert list(atlas) == ["doc-0", "doc-1", "doc-2", "doc-3"]
        for i in range(4):
            np.testing.assert_allclose(atlas[f"doc-{i}"].attention.values, made.dense(i), atol=2e-6)
        report = verify(place.where, storage_options=place.options)
        assert report.passed, report.problems
        assert store_bytes(place.where, storage_options=place.options) > 10_000

    def test_a_pack_shows_only_once_it_is_committed(self, place: Place) -> None:
        made = synthetic()
        assert len(made.packs) == 3
        writer = AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        made.write_pack(writer, made.packs[1])
        atlas = open_atlas(place.where, storage_options=place.options)
        assert list(atlas) == ["doc-2"]
        with pytest.raises(KeyError, match="not committed"):
            atlas["doc-0"]
        again = AtlasWriter.reopen(place.where, made.spec("factors"), storage_options=place.options)
        assert [pack.index for pack in again.pending_packs()] == [0, 2]
        for pack in again.pending_packs():
            made.write_pack(again, pack)
        assert len(open_atlas(place.where, storage_options=place.options)) == 4
        assert verify(place.where, storage_options=place.options).passed

    def test_a_store_that_exists_is_refused_then_replaced(self, place: Place) -> None:
        made = synthetic()
        AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        with pytest.raises(StoreExistsError, match="--overwrite"):
            AtlasWriter.create(place.where, made.spec("factors"), storage_options=place.options)
        writer = AtlasWriter.create(place.where, made.spec("statistics"), storage_options=place.options, overwrite=True)
        assert open_atlas(place.where, storage_options=place.options).keep == "statistics"
        writer.discard_if_empty()
        with pytest.raises(StoreMissingError):
            open_atlas(place.where, storage_options=place.options)

    def test_statistics_tier(self, place: Place) -> None:
        made = synthetic(rule="sinks", window=9)
        writer = AtlasWriter.create(place.where, made.spec("statistics"), storage_options=place.options)
        for pack in made.packs:
            made.write_pack(writer, pack, keep="statistics")
        atlas = open_atlas(place.where, storage_options=place.options)
        for i in range(4):
            a = made.dense(i)
            page = atlas[f"doc-{i}"]
            entropy = -(a * np.log(np.where(a > 0, a, 1))).sum(-1)
            np.testing.assert_allclose(page.entropy.values, entropy, atol=1e-5)
            np.testing.assert_allclose(page.sink_residual.values, 1 - a.sum(-1), atol=1e-5)
            with pytest.raises(TierError, match='keep="factors"'):
                page.attention  # noqa: B018
        gram = np.asarray(atlas.root["self/statistics/head_gram"][...])  # type: ignore[index]
        expected = [
            sum(np.einsum("lhqk,lgqk->lhg", made.dense(i), made.dense(i)) for i in pack.documents)
            for pack in made.packs
        ]
        np.testing.assert_allclose(gram, expected, rtol=1e-5)
        assert verify(place.where, storage_options=place.options).passed


def test_a_folder_that_is_no_atlas_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    made = synthetic()
    with pytest.raises(StoreExistsError, match="not an atlas"):
        AtlasWriter.create(tmp_path, made.spec("factors"), overwrite=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_file_and_an_unknown_protocol_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        AtlasWriter.create(tmp_path / "file", synthetic().spec("factors"))
    with pytest.raises(InputError, match="nosuch"):
        open_atlas("nosuch://bucket/atlas")


def test_nothing_stays_where_creation_fails(tmp_path: Path) -> None:
    spec = replace(synthetic().spec("factors"), model={"name": object()})  # no JSON for it
    with pytest.raises(TypeError):
        AtlasWriter.create(tmp_path / "atlas.zarr", spec)
    assert not (tmp_path / "atlas.zarr").exists()


def test_ids_never_become_paths(tmp_path: Path) -> None:
    from attlas.storage.schema import map_group

    for name in ("../../etc/passwd", "..", ".", "a/b", "c:\\d", "%2e%2e", "ü ñ"):
        group = map_group("self", name)
        assert group.count("/") == 2
        assert group.split("/")[-1] not in {"", ".", ".."}
    assert len({map_group("self", name) for name in ("a/b", "a%2Fb", "a b", "a%20b")}) == 4


def test_xarray_alone_opens_a_page(tmp_path: Path) -> None:
    made = synthetic()
    writer = AtlasWriter.create(tmp_path / "atlas.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    page = xr.open_dataset(tmp_path / "atlas.zarr", engine="attlas", document="doc-2")
    np.testing.assert_allclose(page.attention.values, made.dense(2), atol=2e-6)
    chunked = xr.open_dataset(tmp_path / "atlas.zarr", engine="attlas", document="doc-2", chunks={"query": 32})
    assert chunked.attention.chunks is not None
    np.testing.assert_allclose(chunked.attention.mean("key").compute().values, made.dense(2).mean(-1), atol=1e-6)
    with pytest.raises(InputError, match="holds 4 documents"):
        xr.open_dataset(tmp_path / "atlas.zarr", engine="attlas")
