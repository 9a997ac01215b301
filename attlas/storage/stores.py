"""Where an atlas lies: a local folder, memory, or any fsspec URL, opened as a zarr store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from attlas.errors import CorruptAtlasError, InputError, StoreMissingError
from attlas.parse import parse_mapping, parse_path, refuse
from attlas.storage.digests import read_root
from attlas.storage.schema import VERSION

__all__ = [
    "Where",
    "delete_store",
    "holds_atlas",
    "is_empty",
    "open_root",
    "open_store",
    "store_bytes",
    "store_name",
]

Where = str | Path | Store
WHAT_A_STORE_IS = "give a folder, a URL, memory://name, or a zarr store"

_MEMORY: dict[str, MemoryStore] = {}


def open_store(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> Store:
    """A zarr store for a folder (`file://` too), `memory://name` of this process, an fsspec URL or a zarr store itself.

    storage_options: what fsspec needs to reach the URL (key, secret, endpoint). Raises InputError where the protocol is
    unknown or its package is missing.
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
        try:
            # cached listings would show what another process, or this one, has changed since
            return FsspecStore.from_url(text, storage_options={"use_listings_cache": False, **(storage_options or {})})
        except (ImportError, ValueError, TypeError) as error:  # TypeError: a URL without what its protocol needs
            raise InputError(f"cannot open {text}: {error} -- for s3:// install attlas[s3]") from error
    path = parse_path(text, "the store", WHAT_A_STORE_IS)
    if path.exists() and not path.is_dir() and not path.is_file():
        raise refuse(text, "the store", f"it is a device, {WHAT_A_STORE_IS}")
    if storage_options:
        raise InputError(f"storage options are for URLs, and {text} is a local folder: leave them out")
    return LocalStore(text)


def store_name(where: Where) -> str:
    return str(where)


def is_empty(store: Store) -> bool:
    """Whether nothing lies in the store."""
    if isinstance(store, LocalStore) and Path(store.root).is_file():
        raise InputError(f"{store.root} is a file: an atlas is a folder, choose another name")
    return bool(sync(store.is_empty("")))


def holds_atlas(store: Store) -> bool:
    """Whether an atlas lies in the store, whole or half made."""
    try:
        return _atlas_group(store) is not None
    except CorruptAtlasError:
        return True


def delete_store(store: Store) -> None:
    """Remove everything in the store, the folder itself included."""
    sync(store.delete_dir(""))
    if isinstance(store, LocalStore):
        shutil.rmtree(store.root, ignore_errors=True)


def open_root(where: Where, *, storage_options: Mapping[str, Any] | None = None, mode: str = "r") -> zarr.Group:
    """The root group of an atlas; raises StoreMissingError where there is none."""
    store = open_store(where, storage_options=storage_options)
    if isinstance(store, LocalStore) and not Path(store.root).exists():
        raise StoreMissingError(f"there is no atlas at {store_name(where)}: make one with attlas capture")
    try:
        root = _atlas_group(store)
    except CorruptAtlasError as error:
        raise CorruptAtlasError(f"{store_name(where)}: {error}") from error
    if root is None:
        raise StoreMissingError(f"{store_name(where)} holds no atlas of schema {VERSION}")
    if mode != "r":
        root = zarr.open_group(store, mode=mode, zarr_format=3)  # type: ignore[arg-type]
    if "digest" not in root.attrs:  # written last of all when an atlas is made
        raise StoreMissingError(
            f"{store_name(where)} was begun and never finished, and holds nothing: make it again with --overwrite"
        )
    return root


def _atlas_group(store: Store) -> zarr.Group | None:
    """The root group to be read; None where no atlas of this schema lies there. Raises CorruptAtlasError, where one
    does whose metadata are damaged."""
    try:
        root = read_root(store)
    except CorruptAtlasError:
        if all(sync(store.exists(f"{path}/zarr.json")) for path in ("documents/document_id", "packs/commit")):
            raise
        return None
    return root if root is not None and root.attrs.get("attlas_version") == VERSION else None


def store_bytes(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> int:
    """Bytes that the store takes."""
    store = open_store(where, storage_options=storage_options)
    if isinstance(store, LocalStore):
        return sum(path.stat().st_size for path in Path(store.root).rglob("*") if path.is_file())
    return int(sync(store.getsize_prefix("")))
