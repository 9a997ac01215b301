"""What lies where an atlas is to be made: nothing, an atlas, a half made or a damaged one, or what is not ours.

From the first write of a new atlas to its last the root says that it is begun; so it does while an atlas is removed.
What a killed process leaves is then always known for what it is, and what is not an atlas's own is never removed.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from attlas.engine.model.layout import KINDS
from attlas.errors import CorruptAtlasError, InputError, StoreExistsError
from attlas.storage.digests import ROOT, read_root
from attlas.storage.schema import VERSION

__all__ = [
    "LEFT_OVER",
    "begun_root",
    "delete_store",
    "empty_store",
    "json_buffer",
    "look",
    "put_json",
    "read_json",
    "refuse_to_make",
    "settle",
]

BEGUN = "begun"
"""The root's attribute that says that an atlas is being made or removed; a whole one has it not."""
OWN = frozenset({"documents", "tokens", "packs", "analysis", "overview", *KINDS})
"""What an atlas has beside its root."""
NODES = ("packs/commit/zarr.json", "documents/document_id/zarr.json")
"""By these an atlas is known whose root is lost."""
LEFT_OVER = re.compile(r"(^|/)[^/]*\.[0-9a-f]{32}\.partial$")
"""A file that a killed process was writing, as zarr names it."""

Occupant = Literal["empty", "begun", "atlas", "older", "damaged", "foreign"]


def look(store: Store) -> Occupant:
    """What lies in the store. begun: an atlas half made, or half removed. older: an atlas of another schema.

    Raises InputError where the store is a file.
    """
    if isinstance(store, LocalStore):
        if Path(store.root).is_file():
            raise InputError(f"{store.root} is a file: an atlas is a folder, choose another name")
        if not Path(store.root).exists():
            return "empty"
    content = _read(store, ROOT)
    if content is None:
        return "damaged" if _has_nodes(store) else "empty" if _holds_nothing(store) else "foreign"
    root = _parsed(content)
    attributes = root.get("attributes") if isinstance(root, dict) else None
    if not isinstance(attributes, dict) or "attlas_version" not in attributes:
        return "damaged" if b'"attlas_version"' in content or _has_nodes(store) else "foreign"
    if attributes["attlas_version"] != VERSION:
        return "older"
    if BEGUN in attributes:
        return "begun"
    try:
        found = read_root(store)
    except CorruptAtlasError:
        return "damaged"
    return "damaged" if found is None else "atlas" if "digest" in found.attrs else "begun"


def refuse_to_make(store: Store, name: str, *, overwrite: bool, begun: bool = False) -> Occupant:
    """What lies in the store, where a new atlas may take its place; raises StoreExistsError with what would help.

    overwrite: replace any atlas. begun: replace one that was never finished.
    """
    there = look(store)
    if there == "foreign":
        raise StoreExistsError(f"{name} holds something that is not an atlas: choose another name")
    if overwrite or there == "empty" or (begun and there == "begun"):
        return there
    remedy = {
        "begun": "was begun and never finished: add --resume to begin it again, or --overwrite",
        "older": "holds an atlas of another schema: add --overwrite to replace it",
        "damaged": "holds an atlas whose metadata are damaged: put zarr.json back, or add --overwrite to replace it",
    }
    raise StoreExistsError(f"{name} {remedy.get(there, 'exists: add --resume to go on, --overwrite to replace it')}")


def begun_root(identity: str) -> dict[str, Any]:
    """The root of an atlas that is being made, or removed."""
    attributes = {"attlas_version": VERSION, "identity": identity, BEGUN: True}
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def empty_store(store: Store) -> None:
    """Remove all of an atlas but its root; what others have put beside it stays."""

    async def every() -> None:
        for name in [name.rstrip("/") async for name in store.list_dir("")]:
            if name in OWN:
                await store.delete_dir(name)
            elif LEFT_OVER.search(name):
                await store.delete(name)

    sync(every())


def delete_store(store: Store) -> None:
    """Remove an atlas, whole or half made, its root last, and the folder where nothing else is in it."""
    settle()
    put_json(store, ROOT, begun_root(""))
    empty_store(store)
    sync(store.delete(ROOT))
    if isinstance(store, LocalStore):
        with suppress(OSError):  # others' files are in it
            Path(store.root).rmdir()


def settle() -> None:
    """Wait for what zarr's event loop is still writing after an interrupt: it would come after a clean-up."""

    async def others() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left)

    sync(others())


def json_buffer(value: Any) -> Buffer:
    """A value as the bytes of a small file."""
    return default_buffer_prototype().buffer.from_bytes(json.dumps(value).encode())


def put_json(store: Store, key: str, value: Any) -> None:
    """Put a small file in one step."""
    sync(store.set(key, json_buffer(value)))


def read_json(store: Store, key: str) -> Any:
    """What a small file says; None where it is not there, or is no JSON."""
    content = _read(store, key)
    return None if content is None else _parsed(content)


def _read(store: Store, key: str) -> bytes | None:
    content = sync(store.get(key, default_buffer_prototype()))
    return None if content is None else content.to_bytes()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _has_nodes(store: Store) -> bool:
    return all(_read(store, key) is not None for key in NODES)


def _holds_nothing(store: Store) -> bool:
    """Whether nothing lies in a store but what a killed process left when it put the root."""

    async def every() -> bool:
        async for name in store.list_dir(""):
            if not LEFT_OVER.search(name):
                return False
        return True

    return sync(every())
