"""Atlases where people hold them: behind servers, in zip files, read-only; and places that are none."""

from __future__ import annotations

import os
import pickle
import re
import socket
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from attlas.cli import main
from attlas.errors import (
    AttlasError,
    CorruptAtlasError,
    InputError,
    StoreAccessError,
    StoreExistsError,
    StoreMissingError,
)
from attlas.storage import AtlasWriter, open_atlas, verify
from attlas.storage.stores import open_store
from tests.storage.servers import Failing, Ranged, Rangeless, serving
from tests.storage.synthetic import Synthetic, synthetic


@pytest.fixture(scope="module")
def made() -> Synthetic:
    return synthetic()


@pytest.fixture(scope="module")
def folder(made: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a.zarr, whole, content.zip and folder.zip of it, and file, which is a text."""
    place = tmp_path_factory.mktemp("served")
    writer = AtlasWriter.create(place / "a.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    for name, above, how in (("content.zip", place / "a.zarr", 0), ("folder.zip", place, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(place / name, "w", compression=how) as zipped:
            for path in sorted((place / "a.zarr").rglob("*")):
                zipped.write(path, path.relative_to(above))
    (place / "file").write_text("mine")
    return place


def check(where: str, made: Synthetic) -> None:
    """Every weight of every document, again after the atlas was sent to another process; and what `verify` says."""
    atlas = open_atlas(where)
    for i, document in enumerate(atlas):
        np.testing.assert_allclose(atlas[document].attention.values, made.dense(i), atol=2e-6)
    again = pickle.loads(pickle.dumps(atlas))
    np.testing.assert_allclose(again["doc-1"].attention.values, made.dense(1), atol=2e-6)
    assert verify(where).passed


def test_a_server_with_range_is_read(made: Synthetic, folder: Path) -> None:
    with serving(folder, Ranged) as url, warnings.catch_warnings():
        warnings.simplefilter("error")
        check(f"{url}/a.zarr", made)


def test_a_server_that_ignores_range_is_read_and_that_is_said(made: Synthetic, folder: Path) -> None:
    with serving(folder, Rangeless) as url, pytest.warns(UserWarning, match="this server ignores Range"):
        check(f"{url}/a.zarr", made)


def test_trouble_in_reading_is_not_called_damage(folder: Path) -> None:
    with serving(folder, Failing) as url:
        page = open_atlas(f"{url}/a.zarr")["doc-0"]
        with pytest.raises(StoreAccessError, match="the server answered 503") as raised:
            page.attention.load()
    assert not isinstance(raised.value, CorruptAtlasError)
    assert not re.search("capture it again|damaged", str(raised.value))


def test_damage_behind_a_server_is_called_damage(folder: Path, made: Synthetic, tmp_path: Path) -> None:
    writer = AtlasWriter.create(tmp_path / "b.zarr", made.spec("factors"))
    for pack in made.packs:
        made.write_pack(writer, pack)
    for path in (tmp_path / "b.zarr" / "self" / "q" / "c").rglob("*"):
        if path.is_file():
            raw = bytearray(path.read_bytes())
            raw[3] ^= 1
            path.write_bytes(raw)
    for handler in (Ranged, Rangeless):
        with serving(tmp_path, handler) as url, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(CorruptAtlasError, match="damaged"):
                open_atlas(f"{url}/b.zarr")["doc-0"].attention.load()


@pytest.mark.parametrize("name", ["content.zip", "folder.zip"])
def test_a_zipped_atlas_is_read_by_its_path(name: str, made: Synthetic, folder: Path) -> None:
    check(str(folder / name), made)
    page = xr.open_dataset(folder / name, engine="attlas", document="doc-2")
    np.testing.assert_allclose(page.attention.values, made.dense(2), atol=2e-6)
    with pytest.raises(InputError, match="read-only"):
        AtlasWriter.create(folder / name, made.spec("factors"), overwrite=True)


def test_a_zip_that_is_cut_is_told(folder: Path, tmp_path: Path) -> None:
    raw = (folder / "content.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(CorruptAtlasError, match="no whole zip file"):
        open_atlas(tmp_path / "cut.zip")


def test_places_that_are_none(made: Synthetic, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]  # bound, and nobody listens
        for where, error, message in (
            ("", InputError, "the store is ''"),
            ("a\0b", InputError, "the store is"),
            ({}, InputError, "the store is {}"),
            ("~nobody-of-this-name/x", InputError, "is no name of a folder"),
            ("x" * 5000, InputError, "no file has so long a name"),
            (folder / "file", InputError, "is a file"),
            (folder, StoreMissingError, "holds no atlas"),
            ("gs://bucket/x", InputError, "pip install gcsfs"),
            ("nosuch://bucket/x", InputError, "nosuch"),
            (f"http://127.0.0.1:{port}/x", StoreAccessError, "cannot be reached .* check the address"),
        ):
            with pytest.raises(error, match=message) as raised:
                open_atlas(where)  # type: ignore[arg-type]
            assert isinstance(raised.value, AttlasError)
            assert "\n" not in str(raised.value)
    with serving(folder, Ranged) as url:
        with pytest.raises(InputError, match="read-only"):
            AtlasWriter.create(f"{url}/new.zarr", made.spec("factors"))
        with pytest.raises(StoreMissingError, match="holds no atlas"):
            open_atlas(f"{url}/nothing.zarr")
    for where, message in (
        (folder / "file" / "x", "file is a file"),
        (folder / "new.zip", "only read"),
    ):
        with pytest.raises(InputError, match=message):
            AtlasWriter.create(where, made.spec("factors"))
    monkeypatch.setenv("HOME", str(folder))
    assert next(iter(open_atlas("~/a.zarr"))) == "doc-0"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_not_advised_to_be_resumed(overwrite: bool, made: Synthetic, folder: Path) -> None:
    with pytest.raises(StoreExistsError, match=r"not an atlas: choose another name$"):
        AtlasWriter.create(folder, made.spec("factors"), overwrite=overwrite)
    with pytest.raises(StoreMissingError, match="capture one under a new name"):
        AtlasWriter.reopen(folder, made.spec("factors"))


def test_s3_without_credentials_or_a_bucket_or_a_server(
    made: Synthetic, monkeypatch: pytest.MonkeyPatch, s3_server: object, tmp_path: Path
) -> None:
    from tests.conftest import S3Server

    assert isinstance(s3_server, S3Server)
    with pytest.raises(StoreAccessError, match="make the bucket or folder first"):
        AtlasWriter.create("s3://no-bucket/x", made.spec("factors"), storage_options=s3_server.storage_options)
    with pytest.raises(InputError, match="storage options"):
        open_atlas("s3://b/x", storage_options={"no_such_option": 1})
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreAccessError, match="no credentials were found") as raised:
        open_atlas("s3://some-bucket/x")
    assert "\n" not in str(raised.value)
    asked = CliRunner().invoke(main, ["demo", "--store", "s3://some-bucket/y"])
    assert (asked.exit_code, asked.output.count("\n")) == (1, 1)
    assert "no credentials were found" in asked.output
    assert not Path("s3:").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_read_and_not_written(made: Synthetic, folder: Path) -> None:
    before = os.umask(0o022)
    modes = {path: path.stat().st_mode for path in (folder, *folder.parents) if path.stat().st_uid == 0}
    modes = {path: mode for path, mode in modes.items() if mode & 0o005 != 0o005}
    for path in modes:
        path.chmod(0o755)
    os.seteuid(65534)
    try:
        assert next(iter(open_atlas(folder / "a.zarr"))) == "doc-0"
        with pytest.raises(InputError, match="read-only"):
            AtlasWriter.create(folder / "new.zarr", made.spec("factors"))
        os.seteuid(0)
        (folder / "a.zarr" / "zarr.json").chmod(0o600)
        os.seteuid(65534)
        with pytest.raises(StoreAccessError, match="may not be read"):
            open_atlas(folder / "a.zarr")
    finally:
        os.seteuid(0)
        os.umask(before)
        (folder / "a.zarr" / "zarr.json").chmod(0o644)
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_tree_has_a_node_for_every_document(made: Synthetic, folder: Path) -> None:
    tree = xr.open_datatree(folder / "a.zarr", engine="attlas")
    assert list(tree.children) == [f"doc-{i}" for i in range(4)]
    np.testing.assert_allclose(tree["doc-3"].attention.values, made.dense(3), atol=2e-6)


def test_reading_a_store_never_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="there is no atlas"):
        open_atlas(tmp_path / "none.zarr")
    open_store(tmp_path / "none.zarr")
    assert not list(tmp_path.iterdir())
