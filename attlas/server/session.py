"""A session: the one place where questions about atlases are answered, whoever carries them.

docs/server.md is the protocol: which questions there are, what they take and what they give.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from numpy.typing import NDArray

from attlas.errors import AttlasError
from attlas.parse import parse_mapping, refuse
from attlas.server.cache import MOST_BYTES, Cache
from attlas.server.handles import Handle, Handles
from attlas.server.questions import contents as contents
from attlas.server.questions import heads as heads
from attlas.server.questions import weights as weights
from attlas.server.questions.question import OPS, Answer, Asked, Op
from attlas.server.status import status_of
from attlas.server.tiles import SIDE
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where
from attlas.storage.tile import only_document

__all__ = ["OPS", "Answer", "Op", "Session"]

SKETCHED = 4
"""Levels of a map that the page has sketched before it is computed."""


def _always() -> bool:
    return True


class Session:
    """Answers questions about some atlases. Safe to use from several threads.

    >>> session = Session(atlas)
    >>> session.answer("cell", {"layer": 1, "head": 0, "query": 106, "key": 49}).data["weight"]
    0.997
    >>> reply, buffers = session.reply({"id": 7, "op": "row", "layer": 1, "head": 0, "query": 106, "top": 1})
    >>> reply["ok"], reply["data"]["top"][0]["key"], buffers[0].shape
    (True, 49, (146,))

    atlases: one atlas or where it lies, or several by the names they are asked for by. cache_bytes: of tiles that are
    kept. Raises what opening an atlas raises.
    """

    def __init__(self, atlases: Mapping[str, Atlas | Where] | Atlas | Where, *, cache_bytes: int = MOST_BYTES) -> None:
        if isinstance(atlases, Mapping) and not isinstance(atlases, Atlas):
            parse_mapping(atlases, "atlases")
            if not atlases:
                raise refuse(dict(atlases), "atlases", "give one atlas or several by name")
            self.atlases = {name: parse_atlas(atlas) for name, atlas in atlases.items()}
        else:
            atlas = parse_atlas(atlases)
            self.atlases = {short_name(atlas): atlas}
        self.cache = Cache(cache_bytes)
        self._handles = Handles()
        self._lock = threading.Lock()
        self._asked: dict[Hashable, threading.Event] = {}

    def answer(
        self, op: str, arguments: Mapping[str, Any] | None = None, *, wanted: Callable[[], bool] = _always
    ) -> Answer:
        """The answer to a question of OPS; arguments that are None are as if left out.

        wanted: asked while a costly question waits for its turn; False drops it. Raises InputError,
        DocumentMissingError, TierError, CorruptAtlasError, QuestionCancelledError, ServerBusyError.
        """
        given = {name: value for name, value in (arguments or {}).items() if value is not None}
        if not isinstance(op, str):
            raise refuse(op, "op", f"choose one of {', '.join(OPS.names)}")
        return OPS[op](Asked(self, wanted), given)

    def reply(self, message: Any, *, asker: Hashable = None) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """The reply to a message, and its buffers; raises no error of attlas.

        asker: whose ids the message's are, so that `cancel` finds one's own.
        """
        identity = message.get("id") if isinstance(message, Mapping) else None
        try:
            if not isinstance(message, Mapping) or not all(isinstance(name, str) for name in message):
                raise refuse(message, "a message", 'give {"id": ..., "op": ..., and its arguments}')
            arguments = {name: value for name, value in message.items() if name not in ("id", "op")}
            found = self._reply(message.get("op"), arguments, (asker, _hashable(identity)), asker)
        except AttlasError as error:
            told = {"type": type(error).__name__, "message": str(error), "status": status_of(error)}
            return {"id": identity, "ok": False, "error": told}, []
        return {"id": identity, "ok": True, "data": found.data}, list(found.buffers)

    def _reply(self, op: Any, arguments: dict[str, Any], key: Hashable, asker: Hashable) -> Answer:
        if op == "cancel":
            return Answer({"cancelled": self.cancel(arguments.get("target"), asker=asker)})
        cancelled = threading.Event()
        with self._lock:
            self._asked[key] = cancelled
        try:
            return self.answer(op, arguments, wanted=lambda: not cancelled.is_set())
        finally:
            with self._lock:
                if self._asked.get(key) is cancelled:
                    del self._asked[key]

    def cancel(self, target: Any, *, asker: Hashable = None) -> bool:
        """Drop an asker's question by its id, unless it is being answered already; whether it was found."""
        with self._lock:
            cancelled = self._asked.get((asker, _hashable(target)))
        if cancelled is None:
            return False
        cancelled.set()
        return True

    def atlas(self, name: Any = None) -> Atlas:
        """An atlas by its name, which may be left out where there is one; raises InputError."""
        return self.atlases[self._name(name)]

    def handle(self, atlas: Any, document: Any, kind: Any) -> Handle:
        """What is held of a document; each may be left out as in docs/server.md. Raises InputError,
        DocumentMissingError."""
        name = self._name(atlas)
        one = self.atlases[name]
        document = only_document(one) if document is None else document
        one.committed_index(document)  # says so where there is none
        return self._handles.get(name, one, document, one.parse_kind(kind))

    def foresee(self) -> None:
        """Answer what a page asks first, of the first atlas and document where that is long: the answers are there when
        it opens. What cannot be answered is left for the page, which is told why."""
        name, atlas = next(iter(self.atlases.items()))
        document = next(iter(atlas), None)
        if document is None:
            return
        where = {"atlas": name, "document": document}
        with suppress(AttlasError):
            handle = self.handle(**where, kind=None)
            if handle.top_level >= SKETCHED and handle.overview is None:
                first = self.answer("heads", where | {"brief": True}).data["first"]
                self.answer("thumbnails", where | {"layer": first["layer"], "head": first["head"], "cells": SIDE})

    def key(self, handle: Handle) -> Hashable:
        """What tells a document of this session from any other."""
        return handle.atlas.identity, handle.document, handle.kind

    def _name(self, name: Any) -> str:
        if name is None and len(self.atlases) == 1:
            return next(iter(self.atlases))
        if not isinstance(name, str) or name not in self.atlases:
            raise refuse(name, "atlas", f"choose one of {', '.join(self.atlases)}")
        return name


def short_name(atlas: Atlas) -> str:
    """What an atlas is called where it is served: the last part of its place, without its ending."""
    name = PurePosixPath(atlas.name.rstrip("/")).name
    return name.removesuffix(".zip").removesuffix(".zarr") or "atlas"


def _hashable(given: Any) -> Hashable:
    return given if isinstance(given, str | int | float) else repr(given)
