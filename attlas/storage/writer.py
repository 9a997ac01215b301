"""Writing an atlas: create it whole, fill it pack by pack, commit each pack with one small record written last."""

from __future__ import annotations

import datetime
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

import attlas
from attlas.engine.documents import Document, Pack
from attlas.engine.layout import KindLayout
from attlas.errors import InputError, StoreExistsError
from attlas.storage import schema
from attlas.storage.pack_writer import PackWriter
from attlas.storage.stores import Where, delete_store, holds_atlas, is_empty, open_root, open_store, store_name

__all__ = ["AtlasWriter"]


class AtlasWriter:
    """The one process that creates arrays, writes coordinates and commits packs."""

    def __init__(
        self,
        store: Store,
        root: zarr.Group,
        *,
        kinds: Sequence[KindLayout],
        documents: Sequence[Document],
        packs: Sequence[Pack],
        block: int,
        created: bool,
    ) -> None:
        self.store, self.root, self.created = store, root, created
        self.kinds, self.documents, self.packs, self.block = tuple(kinds), tuple(documents), tuple(packs), block

    @classmethod
    def create(
        cls,
        where: Where,
        *,
        kinds: Sequence[KindLayout],
        documents: Sequence[Document],
        packs: Sequence[Pack],
        block: int,
        keep: str,
        model: Mapping[str, Any],
        tokenizer: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        map_dtype: str = "float16",
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> AtlasWriter:
        """Make a new atlas with all its arrays and coordinates, and every pack pending.

        Raises StoreExistsError where something lies there, unless `overwrite` and it is an atlas; InputError or
        UnsupportedModelError where the atlas cannot be made, before an old one is deleted. Whatever goes wrong, no
        half-made store stays behind; one left by a killed process is an atlas that `overwrite` may replace.
        """
        if map_dtype not in {"float16", "float32"}:
            raise InputError(f"map_dtype is {map_dtype!r}: choose float16 or float32")
        _check_documents(documents, packs)
        specs = list(_specs(kinds, documents, packs, block, keep, map_dtype))
        attributes = _attributes(kinds, block, keep, model, tokenizer, options, map_dtype)
        store = open_store(where, storage_options=storage_options)
        if not is_empty(store):
            if not overwrite:
                raise StoreExistsError(f"{store_name(where)} exists: add --resume to go on, --overwrite to replace it")
            if not holds_atlas(store):
                raise StoreExistsError(f"{store_name(where)} holds something that is not an atlas: choose another name")
            delete_store(store)
        try:
            root = zarr.open_group(store, mode="w", zarr_format=3, attributes={"attlas_version": schema.VERSION})
            for spec in specs:
                spec.create(root)
            root.attrs.update(attributes)
            _consolidate(store)
        except BaseException:
            delete_store(store)
            raise
        return cls(store, root, kinds=kinds, documents=documents, packs=packs, block=block, created=True)

    @classmethod
    def reopen(
        cls,
        where: Where,
        *,
        kinds: Sequence[KindLayout],
        documents: Sequence[Document],
        packs: Sequence[Pack],
        block: int,
        keep: str,
        model: Mapping[str, Any],
        tokenizer: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        map_dtype: str = "float16",
        storage_options: Mapping[str, Any] | None = None,
    ) -> AtlasWriter:
        """Go on with an atlas that the same capture began; raises InputError naming the first thing that differs."""
        root = open_root(where, storage_options=storage_options, mode="r+")
        wanted = _attributes(kinds, block, keep, model, tokenizer, options, map_dtype)
        for name in ("keep", "model", "tokenizer", "options", "kinds", "block", "map_dtype", "score_rules"):
            if root.attrs.get(name) != wanted[name]:
                raise InputError(
                    f"{store_name(where)} was made with another {name} ({_short(root.attrs.get(name))}, "
                    f"now {_short(wanted[name])}): resume with the same, or choose another store"
                )
        for spec in (*schema.document_arrays(documents, packs), *_token_ids(documents, packs, kinds, block)):
            found = np.asarray(root[spec.path][...]) if spec.path in root else None  # type: ignore[index]
            if found is None or not np.array_equal(found, spec.data):
                raise InputError(
                    f"{store_name(where)} was made from other documents ({spec.path} differs): "
                    "resume with the same input, or choose another store"
                )
        return cls(root.store, root, kinds=kinds, documents=documents, packs=packs, block=block, created=False)

    def pending_packs(self) -> tuple[Pack, ...]:
        """The packs that are not committed, in order."""
        state = np.asarray(self.root["packs/state"][...])  # type: ignore[index]
        return tuple(pack for pack in self.packs if state[pack.index] != schema.COMMITTED)

    def pack(self, pack: Pack) -> PackWriter:
        """A sink for one pack, best used in a `with`: what is not committed at its end is dropped and stays unseen."""
        return PackWriter(self.root, pack, kinds=self.kinds, documents=self.documents, block=self.block)

    def discard_if_empty(self) -> None:
        """Delete the store if this writer made it and no pack was committed."""
        if self.created and len(self.pending_packs()) == len(self.packs):
            delete_store(self.store)


def _check_documents(documents: Sequence[Document], packs: Sequence[Pack]) -> None:
    """Raise InputError where there is nothing to store, or two documents have one id."""
    if not documents or not packs:
        raise InputError("there are no documents: give at least one")
    twice = [name for name, count in Counter(document.id for document in documents).items() if count > 1]
    if twice:
        raise InputError(f"{len(twice)} document ids are given twice, such as {twice[0]!r}: name each one differently")


def _consolidate(store: Store) -> None:
    """Put all metadata, which no longer changes, into one place: an object store is then opened with one read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")  # not in the v3 specification yet
        zarr.consolidate_metadata(store)


def _specs(
    kinds: Sequence[KindLayout],
    documents: Sequence[Document],
    packs: Sequence[Pack],
    block: int,
    keep: str,
    map_dtype: str,
) -> Iterator[schema.ArraySpec]:
    yield from schema.document_arrays(documents, packs)
    for axis in packs[0].token_start:
        yield from schema.token_arrays(documents, packs, axis, block)
    yield from schema.pack_arrays(packs)
    for kind in kinds:
        yield from schema.kind_arrays(kind, packs, block, keep)
        if keep == "maps":
            for document in documents:
                yield from schema.map_arrays(kind, document, map_dtype)


def _token_ids(
    documents: Sequence[Document], packs: Sequence[Pack], kinds: Sequence[KindLayout], block: int
) -> Iterator[schema.ArraySpec]:
    for axis in schema.axes_of([kind.kind for kind in kinds]):
        yield next(
            spec for spec in schema.token_arrays(documents, packs, axis, block) if spec.path.endswith("/token_id")
        )


def _attributes(
    kinds: Sequence[KindLayout],
    block: int,
    keep: str,
    model: Mapping[str, Any],
    tokenizer: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    map_dtype: str,
) -> dict[str, Any]:
    """The root attributes, as JSON gives them back."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    attributes = {
        "Conventions": "CF-1.11",
        "attlas_version": schema.VERSION,
        "model": dict(model),
        "tokenizer": None if tokenizer is None else dict(tokenizer),
        "kinds": {
            kind.kind: {
                "query_axis": kind.query_axis,
                "key_axis": kind.key_axis,
                "heads_per_kv_head": kind.group,
            }
            for kind in kinds
        },
        "score_rules": schema.rules_to_attributes(kinds),
        "keep": keep,
        "map_dtype": map_dtype if keep == "maps" else None,
        "block": block,
        "options": dict(options or {}),
        "created": now,
        "history": f"{now} attlas {attlas.__version__} capture",
    }
    found: dict[str, Any] = json.loads(json.dumps(attributes))
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
