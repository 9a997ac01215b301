"""The files of an atlas over a real server: opened by attlas and by xarray, whole and by Range."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import xarray as xr
import zarr

import attlas
from attlas.errors import StoreAccessError
from attlas.server.app import create_app
from attlas.server.session import Session
from attlas.server.zarr_files import PIECE, Part, parse_range
from tests.server.clients import TOKEN, listening

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "a.zarr"
    attlas.capture("demo", ["the cat sat. the cat sat.", "and ran"], folder, ids=["one", "two"])
    (folder / "large.bin").write_bytes(np.random.default_rng(0).bytes(2 * PIECE + 5))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    attlas.capture("demo", ["in memory"], "memory://served", ids=["m"], overwrite=True)
    session = Session({"a": folder, "m": "memory://served"})
    with listening(create_app(session, token=TOKEN)) as url:
        yield url + "/v1/atlases"


def test_attlas_opens_it(url: str, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a server that ignored Range would be warned of
        far = attlas.open_atlas(f"{url}/a/zarr", storage_options={"headers": HEADERS})
        found = far["one"].attention.sel(layer=1, head=2).values
    np.testing.assert_array_equal(found, attlas.open_atlas(folder)["one"].attention.sel(layer=1, head=2).values)
    assert list(attlas.open_atlas(f"{url}/m/zarr", storage_options={"headers": HEADERS})) == ["m"]


def test_without_the_token_it_is_not_opened(url: str) -> None:
    with pytest.raises(StoreAccessError, match="401"):
        attlas.open_atlas(f"{url}/a/zarr")


def test_xarray_and_zarr_open_it(url: str, folder: Path) -> None:
    options = {"headers": HEADERS}
    far = xr.open_zarr(f"{url}/a/zarr", group="self", storage_options=options)
    near = xr.open_zarr(folder, group="self")
    assert len(far.variables) > 5
    assert set(far.variables) == set(near.variables)
    assert far.sizes == near.sizes
    name = max(near.variables, key=lambda one: near[one].size)
    np.testing.assert_array_equal(far[name].values, near[name].values)
    root = zarr.open_group(f"{url}/a/zarr", mode="r", storage_options=options)
    assert root.attrs["identity"] == attlas.open_atlas(folder).identity


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=5-9", 5, 10), ("bytes=-7", -7, None), ("bytes=9-", 9, None)],
)
@pytest.mark.parametrize("atlas", ["a", "m"])
def test_a_part(url: str, folder: Path, atlas: str, asked: str, start: int, stop: int | None) -> None:
    path = f"{url}/{atlas}/zarr/zarr.json"
    whole = httpx.get(path, headers=HEADERS).content
    assert atlas == "m" or whole == (folder / "zarr.json").read_bytes()
    response = httpx.get(path, headers=HEADERS | {"Range": asked})
    assert response.status_code == 206
    assert response.content == whole[start:stop]
    first = start % len(whole)
    assert response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(whole)}"


def test_a_part_that_is_not_there_and_what_is_no_part(url: str, folder: Path) -> None:
    path, size = f"{url}/a/zarr/zarr.json", (folder / "zarr.json").stat().st_size
    beyond = httpx.get(path, headers=HEADERS | {"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for strange in ("bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        assert httpx.get(path, headers=HEADERS | {"Range": strange}).status_code == 200
    tag = httpx.get(path, headers=HEADERS).headers["etag"]
    for known, status in ((tag, 206), ('"old"', 200)):
        part = HEADERS | {"Range": "bytes=0-3", "If-Range": known}
        assert httpx.get(path, headers=part).status_code == status


def test_head_tells_the_size_alone(url: str, folder: Path) -> None:
    response = httpx.head(f"{url}/a/zarr/zarr.json", headers=HEADERS)
    assert response.content == b""
    assert int(response.headers["content-length"]) == (folder / "zarr.json").stat().st_size
    assert response.headers["accept-ranges"] == "bytes"
    assert httpx.head(f"{url}/a/zarr/never", headers=HEADERS).status_code == 404
    assert httpx.put(f"{url}/a/zarr/zarr.json", headers=HEADERS).status_code == 405


def test_a_large_file_comes_piece_by_piece(url: str, folder: Path) -> None:
    whole = (folder / "large.bin").read_bytes()
    assert httpx.get(f"{url}/a/zarr/large.bin", headers=HEADERS).content == whole
    part = HEADERS | {"Range": f"bytes=3-{PIECE + 9}"}
    assert httpx.get(f"{url}/a/zarr/large.bin", headers=part).content == whole[3 : PIECE + 10]


def test_a_file_that_changes_has_another_tag(url: str, folder: Path) -> None:
    (folder / "kept.json").write_text("{}")
    first = httpx.get(f"{url}/a/zarr/kept.json", headers=HEADERS).headers["etag"]
    assert httpx.get(f"{url}/a/zarr/kept.json", headers=HEADERS | {"If-None-Match": first}).status_code == 304
    (folder / "kept.json").write_text('{"more": 1}')
    again = httpx.get(f"{url}/a/zarr/kept.json", headers=HEADERS | {"If-None-Match": first})
    assert (again.status_code, again.json()) == (200, {"more": 1})


def test_parts_are_read() -> None:
    assert parse_range("bytes=0-", 4) == Part(0, 4)
    assert parse_range("bytes=-9", 4) == Part(0, 4)
    assert parse_range("bytes=2-99", 4) == Part(2, 4)
    with pytest.raises(ValueError, match="bytes"):
        parse_range("bytes=-0", 4)
