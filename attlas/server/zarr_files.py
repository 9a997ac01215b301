"""The files of a served atlas, to be read as they lie: any Zarr reader opens them over HTTP, with Range.

Whatever store the atlas lies in is asked by key. A key is a path of plain names, so that none leads out of the atlas.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from attlas.server.problems import PROBLEMS, problem
from attlas.server.replies import BYTES, atlas_tag, matches, unchanged
from attlas.server.served import AtlasName, CurrentSession
from attlas.storage import Atlas

__all__ = ["Part", "parse_range", "router"]

router = APIRouter(prefix="/v1", tags=["files"], responses={s: PROBLEMS[s] for s in (400, 401, 404, 422, 500, 503)})

FILE = {BYTES: {"schema": {"type": "string", "format": "binary"}}, "application/json": {"schema": {}}}
FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": FILE},
    206: {"description": "The part of it that Range names.", "content": FILE},
    304: {"description": "Not Modified"},
    416: {"description": "Range Not Satisfiable", "content": PROBLEMS[400]["content"]},
}
LONGEST_KEY = 1024
PIECE = 2**22
"""Bytes of a file that are held at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of a file."""

    start: int
    stop: int


def parse_range(header: str, size: int) -> Part | None:
    """The part that a Range header names of a file of so many bytes; None for the whole file, as where there are
    several parts. Raises ValueError where it has none of them.

    >>> parse_range("bytes=2-5", 10), parse_range("bytes=-3", 10), parse_range("bytes=8-", 10)
    (Part(start=2, stop=6), Part(start=7, stop=10), Part(start=8, stop=10))
    """
    match = re.fullmatch(r"\s*bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*", header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < start:
            return None  # no range at all, which RFC 9110 says to ignore
    if start >= stop:
        raise ValueError(header)
    return Part(start, stop)


def _key(atlas: Atlas, path: str) -> str:
    """A path of the atlas as a key of its store; HTTPException 404 where it would lead out of it."""
    parts = path.split("/")
    if (
        len(path) > LONGEST_KEY
        or not path.isprintable()
        or "\\" in path
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise HTTPException(404, f"there is no file {path!r} in this atlas")
    inside = str(atlas.root.path)
    return f"{inside}/{path}" if inside else path


def _local(store: Store, key: str) -> Path | None:
    """The file of a key in a folder; HTTPException 404 where a link leads out of it, or it is none."""
    if not isinstance(store, LocalStore):
        return None
    root = Path(store.root).resolve()
    path = (root / key).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise HTTPException(404, f"there is no file {key!r} in this atlas")
    return path


def _size(store: Store, key: str) -> int:
    try:
        return int(sync(store.getsize(key)))
    except (FileNotFoundError, IsADirectoryError, KeyError) as error:
        raise HTTPException(404, f"there is no file {key!r} in this atlas") from error


@router.api_route("/atlases/{atlas}/zarr/{path:path}", methods=["GET"], responses=FILES, response_class=Response)
@router.api_route("/atlases/{atlas}/zarr/{path:path}", methods=["HEAD"], include_in_schema=False)
def read_file(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    path: str,
    range: Annotated[str | None, Header(description="One part, such as bytes=0-99 or bytes=-8.")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """A file of the atlas, or a part of it."""
    one = session.atlases[atlas]
    store, key = one.root.store, _key(one, path)
    local = _local(store, key)
    size = local.stat().st_size if local is not None else _size(store, key)
    tag = atlas_tag(one, key, str(size), str(local.stat().st_mtime_ns) if local is not None else "")
    if matches(request, tag):
        return unchanged(tag)
    try:
        part = parse_range(range, size) if range and if_range in (None, tag) else None
    except ValueError:
        return problem(416, f"{path} has {size:,} bytes", headers={"Content-Range": f"bytes */{size}"})
    whole = part is None
    part = Part(0, size) if part is None else part
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, no-cache"}
    headers["Content-Length"] = str(part.stop - part.start)
    if not whole:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers["Content-Type"] = "application/json" if path.endswith(".json") else BYTES
    if request.method == "HEAD":
        return Response(b"", 200 if whole else 206, headers=headers)
    if part.stop - part.start <= PIECE:
        return Response(_read(store, key, None if whole else part), 200 if whole else 206, headers=headers)
    return StreamingResponse(_pieces(store, key, part), 200 if whole else 206, headers=headers)


def _pieces(store: Store, key: str, part: Part) -> Iterator[bytes]:
    for start in itertools.count(part.start, PIECE):
        if start >= part.stop:
            return
        yield _read(store, key, Part(start, min(start + PIECE, part.stop)))


def _read(store: Store, key: str, part: Part | None) -> bytes:
    asked = None if part is None else RangeByteRequest(part.start, part.stop)
    found = sync(store.get(key, default_buffer_prototype(), asked))
    if found is None:
        raise HTTPException(404, f"there is no file {key!r} in this atlas")
    return found.to_bytes()
