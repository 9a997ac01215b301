"""Answers kept in the atlas they were asked of, under `analysis/`: found again when the same question comes.

`analysis/<question>-<hash>` names the place of its answer, `analysis/<question>-<hash>.<time>-<mark>`, a Zarr group.
The hash is of the question, of the atlas's identity and of the records of the packs that were committed: an answer is
found as long as it would come out the same. The name tells the digest of every file of the answer, and its own: what is
damaged, moved or half there is computed again, and said to be.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import attlas
from attlas.errors import CorruptAtlasError, first_line
from attlas.jobs.kept_files import CheckedStore, NotingStore, is_signed, signed
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["REVISION", "STALE", "answer_once", "find_result", "keep_result", "saved_results"]

FOLDER = "analysis"
QUESTION = re.compile(r"[^.]+-[0-9a-f]{16}")
PLACE = re.compile(r"(?P<question>[^.]+-[0-9a-f]{16})\.(?P<begun>\d+)-[0-9a-f]{12}")
DESCRIPTION = ("question", "parameters", "made")

REVISION = 3
"""Counted up whenever an answer to the same question would come out differently."""

STALE = 3600.0
"""Seconds after which a place that no question names is nobody's: its writer was stopped, or another was quicker."""


def answer_once(
    atlas: Atlas, question: str, parameters: Mapping[str, Any], answer: Callable[[], xr.Dataset], *, save: bool
) -> xr.Dataset:
    """The kept answer, else what `answer` gives, which is kept then where `save` says so."""
    kept = find_result(atlas, question, parameters)
    if kept is not None:
        return kept
    made = answer()
    return keep_result(atlas, question, parameters, made) if save else made


def find_result(atlas: Atlas, question: str, parameters: Mapping[str, Any]) -> xr.Dataset | None:
    """The kept answer to this very question of the atlas as it is now; None where there is none.

    Where it is damaged there is none, with a warning that says so.
    """
    store, path = atlas.root.store, _path(atlas, question, parameters)
    published = _published(store, path)
    if published is None:
        return None
    try:
        if not is_signed(published) or published["path"] != path:
            raise CorruptAtlasError(f"{path} is not what was written there")
        answer = xr.open_zarr(
            CheckedStore(store, published["files"]), group=published["place"], consolidated=False, zarr_format=3,
            chunks=None,
        ).load()  # fmt: skip
    except CorruptAtlasError as error:
        warnings.warn(
            f"the answer that {atlas.name} keeps is damaged, and is computed again: {first_line(error)}", stacklevel=2
        )
        return None
    return _as_made(answer).assign_attrs(reused="yes", kept=published["place"])


def keep_result(atlas: Atlas, question: str, parameters: Mapping[str, Any], result: xr.Dataset) -> xr.Dataset:
    """Write an answer into the atlas, with what made it among its attributes; returns it with these.

    It is written to a place of its own, and then named by one small object in one step, so that no reader sees a part
    of it and no two writers meet. Where the store cannot be written the answer is returned all the same, with a
    warning, and `kept` says why.
    """
    path = _path(atlas, question, parameters)
    place = f"{path}.{time.time():.0f}-{uuid.uuid4().hex[:12]}"
    result = result.assign_attrs(
        parameters=json.dumps(dict(parameters), sort_keys=True),
        attlas_version=attlas.__version__,
        revision=REVISION,
        made=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    store = atlas.root.store
    try:
        store = store.with_read_only(False) if store.read_only else store
        _remove_stale(store, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr announces that strings may yet change their specification
            noting = NotingStore(store, {})
            _writable(result).to_zarr(
                noting, group=place, mode="w", zarr_format=3, consolidated=False, write_empty_chunks=True
            )
        files = {key: digest for key, digest in noting.noted.items() if key.startswith(f"{place}/")}
        told = {"path": path, "place": place, "files": files} | {name: result.attrs[name] for name in DESCRIPTION}
        _publish(store, path, signed(told))
    except (OSError, PermissionError, ValueError) as error:
        reason = first_line(error)
        warnings.warn(f"the answer is not kept in {atlas.name}: {reason}", stacklevel=2)
        return result.assign_attrs(kept=f"no: {reason}")
    return result.assign_attrs(kept=place)


def saved_results(atlas: Atlas | Where) -> dict[str, dict[str, Any]]:
    """path -> question, parameters and time of every answer that the atlas keeps, in the order they were made in.

    >>> found = attlas.analysis.statistics(atlas, names=["entropy"])
    >>> kept = attlas.analysis.saved_results(atlas)
    >>> sorted(next(iter(kept.values())))
    ['made', 'parameters', 'question']

    Raises InputError for what is no atlas.
    `xr.open_zarr(store, group=path, consolidated=False)` opens one.
    """
    store = parse_atlas(atlas).root.store
    kept = {}
    for name in _listed(store):
        published = _published(store, f"{FOLDER}/{name}") if QUESTION.fullmatch(name) else None
        if published is not None and is_signed(published):
            kept[str(published["place"])] = {key: published[key] for key in DESCRIPTION}
    return dict(sorted(kept.items(), key=lambda one: str(one[1]["made"])))


def _publish(store: Store, path: str, attributes: Mapping[str, Any]) -> None:
    """Name a place: one group without members, put into the store in one request."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    content = default_buffer_prototype().buffer.from_bytes(json.dumps(group).encode())
    sync(store.set(f"{path}/zarr.json", content))


def _published(store: Store, path: str) -> dict[str, Any] | None:
    """What a question's name says: the place of its answer, and what made it; None where none is published.

    Where it cannot be read, nothing of it, which is not signed.
    """
    try:
        content = sync(store.get(f"{path}/zarr.json", default_buffer_prototype()))
    except NotADirectoryError:  # a file where the folder of answers would be
        return None
    if content is None:
        return None
    try:
        told = json.loads(content.to_bytes())
    except (ValueError, RecursionError):
        return {}
    attributes = told.get("attributes") if isinstance(told, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _listed(store: Store) -> list[str]:
    """Names in the folder of answers: of questions, of places, and others."""

    async def names() -> list[str]:
        return [name async for name in store.list_dir(FOLDER)]

    return sync(names())


def _remove_stale(store: Store, path: str) -> None:
    """Remove places that no question will name any more: those of writers that were stopped, or came second."""
    names = _listed(store)
    questions = {name for name in names if QUESTION.fullmatch(name)}
    published = _published(store, path)
    for match in filter(None, map(PLACE.fullmatch, names)):
        place, question = f"{FOLDER}/{match[0]}", match["question"]
        second = f"{FOLDER}/{question}" == path and (published is None or published.get("place") != place)
        if (second or question not in questions) and time.time() - float(match["begun"]) > STALE:
            sync(store.delete_dir(place))


def _path(atlas: Atlas, question: str, parameters: Mapping[str, Any]) -> str:
    """The name of a question asked of an atlas by this code, of the packs as they were committed."""
    asked = json.dumps(
        {
            "parameters": dict(parameters),
            "version": attlas.__version__,
            "revision": REVISION,
            "atlas": atlas.identity,
            "packs": atlas.committed_records,
        },
        sort_keys=True,
    )
    return f"{FOLDER}/{question}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def _writable(result: xr.Dataset) -> xr.Dataset:
    """Text as objects, which Zarr keeps at any length; booleans as they are."""
    return _texts_as(result, "UT", lambda texts: texts.astype(object))


def _as_made(kept: xr.Dataset) -> xr.Dataset:
    """Text of the width it needs, as it was computed: what is read has a type that `astype(str)` refuses."""
    return _texts_as(kept, "T", lambda texts: np.asarray(texts.tolist(), dtype=np.str_).reshape(texts.shape))


def _texts_as(data: xr.Dataset, kinds: str, convert: Callable[[np.ndarray], np.ndarray]) -> xr.Dataset:
    texts = {
        name: (variable.dims, convert(np.asarray(variable.values)), variable.attrs)
        for name, variable in data.variables.items()
        if variable.dtype.kind in kinds
    }
    return data.assign_coords({n: v for n, v in texts.items() if n in data.coords}).assign(
        {n: v for n, v in texts.items() if n not in data.coords}
    )
