"""Every kind of store through the conformance class, and what a place may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import fsspec
import numpy as np
import pytest
import xarray as xr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from attlas.errors import InputError, StoreExistsError
from attlas.storage import AtlasWriter, open_atlas, verify
from tests.conftest import S3Server
from tests.storage.conformance import Place, StoreConformance
from tests.storage.slow_store import SlowStore
from tests.storage.synthetic import synthetic


class TestLocal(StoreConformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(where=str(tmp_path / "atlas.zarr"))


class TestFileUrl(StoreConformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(where=f"file://{tmp_path}/atlas.zarr")


class TestMemory(StoreConformance):
    @pytest.fixture
    def place(self) -> Place:
        return Place(where=f"memory://{uuid4()}")


class TestMemoryOfFsspec(StoreConformance):
    @pytest.fixture
    def place(self) -> Place:
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        files = AsyncFileSystemWrapper(fsspec.filesystem("memory"), asynchronous=True)
        return Place(where=FsspecStore(files, path=f"/{uuid4()}"))


class TestS3(StoreConformance):
    @pytest.fixture
    def place(self, s3_server: S3Server) -> Place:
        return Place(where=f"s3://{s3_server.bucket}/{uuid4()}.zarr", options=s3_server.storage_options)


class TestSlow(StoreConformance):
    @pytest.fixture
    def place(self) -> Place:
        return Place(where=SlowStore(seconds=0.001))


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_store_that_cannot_be_written_is_read_all_the_same(kind: str, tmp_path: Path) -> None:
    made = synthetic()
    store: Store = LocalStore(tmp_path / "a.zarr") if kind == "local" else MemoryStore()
    writer = AtlasWriter.create(store, made.spec("factors"))
    made.write_pack(writer, made.packs[0])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    frozen = store.with_read_only(True)
    atlas = open_atlas(frozen)
    assert len(atlas) == len(made.packs[0].documents)
    np.testing.assert_allclose(atlas["doc-0"].attention.values, made.dense(0), atol=2e-6)
    assert verify(frozen).problems == ()
    with pytest.raises(ValueError, match="read-only"):
        AtlasWriter.reopen(frozen, made.spec("factors"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


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
