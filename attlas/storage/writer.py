"""Writing an atlas: create it whole, fill it pack by pack, commit each pack with one small record written last."""

from __future__ import annotations

import datetime
import json
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

import attlas
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.model.layout import KindLayout
from attlas.engine.passage.documents import ROW_AXES, Document, Pack
from attlas.engine.passage.headroom import Headroom
from attlas.errors import InputError
from attlas.storage import commits, schema
from attlas.storage.array_spec import ArraySpec
from attlas.storage.commits import PackRecord, Records
from attlas.storage.digests import ROOT, column_digests, with_digest
from attlas.storage.lease import Lease, refuse_if_busy
from attlas.storage.occupant import (
    begun_root,
    delete_store,
    empty_store,
    put_json,
    read_json,
    refuse_to_make,
    settle,
)
from attlas.storage.pack_writer import PackWriter
from attlas.storage.stores import Where, make_folder, open_root, open_writable, store_name
from attlas.storage.strays import remove_strays
from attlas.storage.tiers import TIERS

__all__ = ["AtlasSpec", "AtlasWriter", "stored_spans"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AtlasSpec:
    """All that an atlas is made of, before its rows are there.

    model, tokenizer, options: what two captures must have in common to share an atlas. block: tokens in a Zarr shard of
    what is small, and the alignment of packs.
    """

    kinds: tuple[KindLayout, ...]
    documents: tuple[Document, ...]
    packs: tuple[Pack, ...]
    block: int
    keep: str
    model: Mapping[str, Any]
    tokenizer: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None
    map_dtype: str = "float16"


def stored_spans(where: Where, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, tuple[int, int]]:
    """kind -> the layer and factor spans with which an atlas was begun, which all who go on with it must keep to."""
    root = open_root(where, storage_options=storage_options)
    kinds: Any = root.attrs["kinds"]
    return {kind: (int(told["layer_span"]), int(told["factor_span"])) for kind, told in kinds.items()}


class AtlasWriter:
    """The one process that creates arrays, writes coordinates and commits packs: it holds the atlas's lease."""

    def __init__(
        self, root: zarr.Group, spec: AtlasSpec, lease: Lease, *, created: bool, uncommitted: set[int] | None = None
    ) -> None:
        """uncommitted: packs still to come, None for all."""
        self.store, self.root, self.spec, self.lease, self.created = root.store, root, spec, lease, created
        self.tier, self.records = TIERS[spec.keep], Records(root)
        self._uncommitted = {pack.index for pack in spec.packs} if uncommitted is None else uncommitted

    @classmethod
    def create(
        cls,
        where: Where,
        spec: AtlasSpec,
        *,
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        begun: bool = False,
    ) -> AtlasWriter:
        """Make a new atlas with all its arrays and coordinates, and every pack pending.

        Raises StoreExistsError where something lies there, unless it is an atlas that was never finished, and `begun`,
        or any atlas, and `overwrite`; StoreBusyError where another writer holds it; InputError or
        UnsupportedModelError where the atlas cannot be made, before an old one is deleted. Whatever goes wrong,
        no half-made store stays behind; what a killed process leaves says of itself that it was begun, and the atlas
        is there by one write, the last.
        """
        if spec.map_dtype not in {"float16", "float32"}:
            raise InputError(f"map_dtype is {spec.map_dtype!r}: choose float16 or float32")
        _check_documents(spec.documents, spec.packs)
        arrays, identity = list(_arrays(spec)), uuid.uuid4().hex
        attributes = _attributes(spec) | {"identity": identity, "digests": _digests(arrays)}
        store, name = open_writable(where, storage_options=storage_options), store_name(where)
        refuse_to_make(store, name, overwrite=overwrite, begun=begun)
        make_folder(store)
        refuse_if_busy(store, name)
        lease = Lease(store, identity, name=name)
        try:
            put_json(store, ROOT, begun_root(identity))
            empty_store(store)
            lease.take()
            metadata = _make(store, arrays)
            lease.check()
            put_json(store, ROOT, with_digest(metadata | {"attributes": attributes}))
            return cls(open_root(store, mode="r+"), spec, lease, created=True)
        except BaseException:
            lease.give_up()
            settle()
            if _identity(store) == identity and not lease.another_holds:
                delete_store(store)
            raise

    @classmethod
    def reopen(cls, where: Where, spec: AtlasSpec, *, storage_options: Mapping[str, Any] | None = None) -> AtlasWriter:
        """Go on with an atlas that the same capture began; raises InputError naming the first thing that differs.

        Packs that were recorded as failed are pending again, and so are those whose record is damaged. What killed
        processes left is removed. Raises StoreBusyError where another writer holds it.
        """
        root = open_root(where, storage_options=storage_options, mode="r+")
        refuse_if_busy(root.store, store_name(where))
        wanted = _attributes(spec)
        for name in ("keep", "model", "tokenizer", "options", "kinds", "block", "map_dtype", "score_rules"):
            if root.attrs.get(name) != wanted[name]:
                told = _difference(root.attrs.get(name), wanted[name])
                raise InputError(
                    f"{store_name(where)} was made with another {name} ({told}): resume with the same, or choose "
                    "another store"
                )
        given = {
            array.path: array.data
            for array in (*schema.document_arrays(spec.documents, spec.packs), *_given_tokens(spec))
        }
        for path in sorted({*given, *_given_paths(root)}):
            if path not in root or path not in given or not _same(np.asarray(root[path][...]), given[path]):  # type: ignore[index]
                raise InputError(
                    f"{store_name(where)} was made from other documents ({path} differs): "
                    "resume with the same input, or choose another store"
                )
        lease = Lease(root.store, str(root.attrs["identity"]), name=store_name(where))
        lease.take()
        remove_strays(root)
        uncommitted = {pack.index for pack in spec.packs} - Records(root).sound()
        writer = cls(root, spec, lease, created=False, uncommitted=uncommitted)
        if not uncommitted:  # the last writer may have been stopped between its commit and this
            writer._finish()
        return writer

    def pending_packs(self) -> tuple[Pack, ...]:
        """The packs that are not committed, in order."""
        return tuple(pack for pack in self.spec.packs if pack.index in self._uncommitted)

    def pack(self, pack: Pack) -> PackWriter:
        """A sink for one pack, best used in a `with`: what is not committed at its end is dropped and stays unseen.

        Raises StoreBusyError where this is no longer the atlas's writer.
        """
        self.lease.renew()
        documents = self.spec.documents
        return PackWriter(
            self.root, pack, kinds=self.spec.kinds, document_id=lambda i: documents[i].id,
            before_write=self.lease.check_at_times,
        )  # fmt: skip

    def commit(self, pack: Pack, *, seconds: float, attempt: int, size: int, room: Headroom | None = None) -> None:
        """Record a pack whose every row has been flushed, which alone makes it visible.

        size: bytes written. room: the tile and chunk with which the pack ran. The last pack's commit publishes all
        records, see `attlas.storage.commits`. Raises StoreBusyError where this is no longer the atlas's writer.
        """
        self.lease.renew()
        record = PackRecord(
            attempt=attempt,
            seconds=float(seconds),
            bytes=int(size),
            tile_bytes=0 if room is None else room.tile_bytes,
            chunk_tokens=0 if room is None else room.chunk_tokens or 0,
        )
        self.records.commit(pack.index, record)
        self._uncommitted.discard(pack.index)
        if not self._uncommitted:
            self._finish()

    def fail(self, pack: Pack, *, attempt: int, error: str) -> None:
        """Record that a pack was tried, and why it could not be captured; readers do not see it."""
        self.lease.renew()
        self.records.fail(pack.index, PackRecord(attempt=attempt, error=error))

    def close(self) -> None:
        """Let others write the atlas; it stays as it is."""
        self.lease.release()

    def discard_if_empty(self) -> None:
        """Delete the store if this writer made it, is its writer still, and no pack was committed."""
        settle()
        if self.created and len(self._uncommitted) == len(self.spec.packs) and self.lease.held:
            delete_store(self.store)

    def _finish(self) -> None:
        self.records.publish()
        self.lease.release()


def _digests(arrays: Sequence[ArraySpec]) -> dict[str, list[str]]:
    """Path -> the digests of the chunks of every array whose values are known now, and stay."""
    return {
        array.path: column_digests(array.values(), array.chunks[0])
        for array in arrays
        if array.data is not None and array.path not in commits.LATER
    }


def _check_documents(documents: Sequence[Document], packs: Sequence[Pack]) -> None:
    """Raise InputError where there is nothing to store, or two documents have one id."""
    if not documents or not packs:
        raise InputError("there are no documents: give at least one")
    twice = [name for name, count in Counter(document.id for document in documents).items() if count > 1]
    if twice:
        raise InputError(f"{len(twice)} document ids are given twice, such as {twice[0]!r}: name each one differently")


def _identity(store: Store) -> Any:
    """Of the atlas that lies in the store, whole or begun."""
    root = read_json(store, ROOT)
    return root.get("attributes", {}).get("identity") if isinstance(root, dict) else None


def _make(store: Store, arrays: Sequence[ArraySpec]) -> dict[str, Any]:
    """Write all of an atlas but its root, whose metadata, consolidated, are returned: an object store is then opened
    with one read."""
    held = _WithoutRoot(store, {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")  # not in the v3 specification yet
        root = zarr.open_group(held, mode="r+", zarr_format=3)
        for array in arrays:
            array.create(root)
        zarr.consolidate_metadata(held)
    metadata: dict[str, Any] = json.loads(held.kept[ROOT].to_bytes())
    return metadata


class _WithoutRoot(WrapperStore[Store]):
    """Keeps back what is put as the root's metadata: the store is an atlas once they are there."""

    def __init__(self, store: Store, kept: dict[str, Buffer]) -> None:
        super().__init__(store)
        self.kept = kept

    def _with_store(self, store: Store) -> _WithoutRoot:
        return _WithoutRoot(store, self.kept)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return self.kept.get(key) or await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        if key == ROOT:
            self.kept[key] = value
        else:
            await super().set(key, value)


def _arrays(spec: AtlasSpec) -> Iterator[ArraySpec]:
    tier = TIERS[spec.keep]
    yield from schema.document_arrays(spec.documents, spec.packs)
    for axis in spec.packs[0].token_start:
        yield from schema.token_arrays(spec.documents, spec.packs, axis, spec.block)
    yield from schema.pack_arrays(spec.packs)
    yield from commits.pack_arrays(spec.packs)
    for kind in spec.kinds:
        yield from schema.kind_arrays(kind, spec.packs, spec.block, tier)
        if tier.maps:
            for document in spec.documents:
                yield from schema.map_arrays(kind, document, spec.map_dtype)


GIVEN_OF_TOKENS = ("token_id", "token_type")
"""What a model is given of each token."""


def _given_tokens(spec: AtlasSpec) -> Iterator[ArraySpec]:
    for axis in schema.axes_of([kind.kind for kind in spec.kinds]):
        arrays = schema.token_arrays(spec.documents, spec.packs, axis, spec.block)
        yield from (array for array in arrays if array.path.endswith(GIVEN_OF_TOKENS))


def _given_paths(root: zarr.Group) -> set[str]:
    """The arrays of a store that say what its documents were."""
    documents, tokens = root["documents"], root["tokens"]
    assert isinstance(documents, zarr.Group)
    assert isinstance(tokens, zarr.Group)
    found = {f"documents/{name}" for name, _ in documents.arrays()}
    return found | {
        f"tokens/{axis}/{name}" for axis, _ in tokens.groups() if axis not in ROW_AXES.values()
        for name in GIVEN_OF_TOKENS if f"{axis}/{name}" in tokens
    }  # fmt: skip


def _same(stored: Any, wanted: Any) -> bool:
    """Whether two columns hold the same; no number is the same as no number."""
    return np.array_equal(stored, wanted, equal_nan=np.asarray(wanted).dtype.kind == "f")


def _attributes(spec: AtlasSpec) -> dict[str, Any]:
    """The root attributes, as JSON gives them back."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    attributes = {
        "Conventions": "CF-1.11",
        "attlas_version": schema.VERSION,
        "model": dict(spec.model),
        "tokenizer": None if spec.tokenizer is None else dict(spec.tokenizer),
        "kinds": {
            kind.kind: {
                "query_axis": kind.query_axis,
                "key_axis": kind.key_axis,
                "heads_per_kv_head": kind.group,
                "layer_span": kind.span,
                "factor_span": kind.factor_span,
                "statistics": list(statistic_names(same_axis=kind.same_axis, sinks=kind.has_sinks))
                if TIERS[spec.keep].statistics
                else [],
            }
            for kind in spec.kinds
        },
        "score_rules": schema.rules_to_attributes(spec.kinds),
        "keep": spec.keep,
        "map_dtype": spec.map_dtype if TIERS[spec.keep].maps else None,
        "block": spec.block,
        "options": dict(spec.options or {}),
        "created": now,
        "history": f"{now} attlas {attlas.__version__} capture",
    }
    found: dict[str, Any] = json.loads(json.dumps(attributes))
    return found


def _difference(stored: Any, wanted: Any) -> str:
    """The first thing in which two values differ, in a few words."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        name = next((key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)), None)
        if name is not None:
            return f"{name}: {_difference(stored.get(name), wanted.get(name))}"
    return f"{_short(stored)}, now {_short(wanted)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
