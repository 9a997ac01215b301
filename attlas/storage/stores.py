"""Where an atlas lies: a local folder, memory, or any fsspec URL, opened as a zarr store."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from attlas.errors import (
    AttlasError,
    CorruptAtlasError,
    InputError,
    StoreAccessError,
    StoreMissingError,
    first_line,
)
from attlas.parse import parse_mapping, parse_path, refuse
from attlas.storage.declared_sizes import check_declared_sizes
from attlas.storage.digests import read_root
from attlas.storage.occupant import look
from attlas.storage.remote import RemoteStore
from attlas.storage.schema import VERSION
from attlas.storage.zipped import ZippedStore

__all__ = [
    "Where",
    "make_folder",
    "open_root",
    "open_store",
    "open_writable",
    "store_bytes",
    "store_name",
]

Where = str | Path | Store
WHAT_A_STORE_IS = "give a folder, a URL, memory://name, or a zarr store"

_MEMORY: dict[str, MemoryStore] = {}


def open_store(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> Store:
    """A zarr store for a folder (`~`, `file://` too), a zipped atlas (to be read), `memory://name` of this process, an
    fsspec URL or a zarr store itself.

    storage_options: what fsspec needs to reach the URL (key, secret, endpoint). Raises InputError where it is no place,
    its protocol is unknown or its package is missing.
    """
    if isinstance(where, Store):
        return where
    if not isinstance(where, str | Path) or not str(where).strip():
        raise refuse(where, "the store", WHAT_A_STORE_IS)
    parse_mapping(storage_options, "storage_options")
    text = str(where)
    if text.startswith("memory://"):
        return _MEMORY.setdefault(text.removeprefix("memory://"), MemoryStore())
    text = text.removeprefix("file://")  # LocalStore puts files whole, which fsspec's does not
    if "://" in text:
        if not text.partition("://")[2].strip("/"):  # the file systems of fsspec say so in many ways, some on stderr
            raise refuse(text, "the store", f"it says no place, {WHAT_A_STORE_IS}")
        return RemoteStore.at(text, storage_options or {})
    path = parse_path(text, "the store", WHAT_A_STORE_IS)
    if storage_options:
        raise InputError(f"storage options are for URLs, and {text} is a local folder: leave them out")
    return _open_local(path)


def open_writable(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> Store:
    """As `open_store`, to write into; raises InputError where the place is read-only."""
    store = open_store(where, storage_options=storage_options)
    if store.read_only:
        raise InputError(f"{store_name(where)} is read-only: choose another place for the atlas")
    if isinstance(store, LocalStore):
        standing = next((one for one in (store.root, *store.root.absolute().parents) if one.exists()), Path("/"))
        if not standing.is_dir():
            raise InputError(f"{standing} is a file: an atlas is a folder, choose another name")
        if not os.access(standing, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise InputError(f"{standing} is read-only: choose another place for the atlas")
        if store.root.suffix.lower() == ".zip" and not store.root.exists():
            raise InputError(f"{store.root} names a zip file, which is only read: capture into a folder and zip that")
    return store


def _open_local(given: Path) -> Store:
    try:
        path = given.expanduser()
        if path.is_file():
            if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
                return ZippedStore.at(path)
            raise InputError(f"{given} is a file: an atlas is a folder, choose another name")
        if path.exists() and not path.is_dir():
            raise refuse(str(given), "the store", f"it is a device, {WHAT_A_STORE_IS}")
    except AttlasError:
        raise
    except PermissionError as error:
        raise StoreAccessError(f"{given} may not be read: see who owns it, and what is allowed") from error
    except (OSError, RuntimeError) as error:  # a name too long; a home that nobody has
        raise InputError(f"{str(given)!r} is no name of a folder ({first_line(error)}): choose another") from error
    return LocalStore(path)


def make_folder(store: Store) -> None:
    """Make the folder of a store on a local disk; raises InputError where that cannot be."""
    if isinstance(store, LocalStore):
        try:
            Path(store.root).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"it cannot be made ({error.strerror}): choose a folder that can be written to"
            raise refuse(str(store.root), "the store", why) from error


def store_name(where: Where) -> str:
    return str(where)


def open_root(where: Where, *, storage_options: Mapping[str, Any] | None = None, mode: str = "r") -> zarr.Group:
    """The root group of an atlas, in one request.

    mode: "r" or "r+". Raises StoreMissingError where there is none, CorruptAtlasError where its root is damaged,
    StoreAccessError where it may not be read.
    """
    store = (open_store if mode == "r" else open_writable)(where, storage_options=storage_options)
    name = store_name(where)
    try:
        if isinstance(store, LocalStore) and not Path(store.root).exists():
            raise StoreMissingError(f"there is no atlas at {name}: make one with attlas capture")
        root = _root(store)
        if root is None or root.attrs.get("attlas_version") != VERSION or "digest" not in root.attrs:
            raise _why_not(store, name)
    except PermissionError as error:
        raise StoreAccessError(
            f"{name} may not be read ({first_line(error)}): see who owns it, and what is allowed"
        ) from error
    check_declared_sizes(root)
    return root if mode == "r" else zarr.open_group(store, mode=mode, zarr_format=3)  # type: ignore[arg-type]


def _root(store: Store) -> zarr.Group | None:
    try:
        return read_root(store)
    except CorruptAtlasError:
        return None


def _why_not(store: Store, name: str) -> StoreMissingError | CorruptAtlasError:
    """Why there is no atlas to be read, and what would help."""
    there = look(store)
    if there == "begun":
        return StoreMissingError(
            f"{name} was begun and never finished, and holds nothing: the same capture with --resume begins it again"
        )
    if there == "older":
        return StoreMissingError(
            f"{name} holds an atlas of another schema, and this attlas reads {VERSION}: capture it again with "
            "--overwrite"
        )
    if there == "damaged":
        return CorruptAtlasError(
            f"{name}: the metadata in zarr.json are lost or damaged: put the file back from a copy, or make the atlas "
            "again with --overwrite"
        )
    if name.endswith(".zip") and "://" in name:
        return StoreMissingError(f"{name} cannot be read as an atlas: fetch the file, and open it here")
    return StoreMissingError(
        f"{name} holds no atlas of schema {VERSION}: check the name, or capture one under a new name"
    )


def store_bytes(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> int:
    """Bytes that the store takes."""
    store = open_store(where, storage_options=storage_options)
    if isinstance(store, LocalStore):
        return sum(path.stat().st_size for path in Path(store.root).rglob("*") if path.is_file())
    return int(sync(store.getsize_prefix("")))
