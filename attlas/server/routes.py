"""What there is to ask as resources below /v1/atlases, each one question of the session.

Endpoints are plain functions, which run in a pool of threads; their types are at module level, where FastAPI finds
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from attlas.errors import AttlasError
from attlas.server.problems import PROBLEMS, json_bytes
from attlas.server.replies import BYTES, as_bytes, as_json, atlas_tag, matches, numbers, unchanged
from attlas.server.served import AtlasName, CurrentSession
from attlas.server.status import status_of

__all__ = ["router"]

router = APIRouter(prefix="/v1", responses=PROBLEMS, tags=["atlases"])

LINES = "application/x-ndjson"
HEADERS = {
    name: {"description": told, "schema": {"type": "string"}}
    for name, told in {
        "X-Attlas-Shape": "Sizes of each array, between semicolons.",
        "X-Attlas-Dtype": "Its type: uint8, float16 or float32, little-endian.",
        "X-Attlas-Scale": "JSON: what uint8 codes stand for.",
        "X-Attlas-Data": "JSON: what is told of the arrays.",
    }.items()
}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Not Modified"}}
OBJECT = {"application/json": {"schema": {"type": "object"}}}
BINARY = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
JSON: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": OBJECT}, **NOT_MODIFIED}
ARRAYS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The array's bytes.", "content": BINARY, "headers": HEADERS},
    **NOT_MODIFIED,
}
EITHER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or its arrays.", "content": {**OBJECT, **BINARY}, "headers": HEADERS},
    **NOT_MODIFIED,
}
RECORDS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A line of JSON each.", "content": {LINES: {"schema": {"type": "string"}}}},
}

DOCUMENT = "/atlases/{atlas}/documents/{document:path}"

Document = Annotated[str, Path(description="The document's id, percent-encoded.")]
Kind = Annotated[str, Path(description="self, or encoder, decoder, cross.")]
AnyKind = Annotated[str | None, Query(description="self, or encoder, decoder, cross; the first by default.")]
Layer = Annotated[int, Path(ge=0, description="The model's index.")]
Head = Annotated[str, Path(pattern="^([0-9]{1,9}|mean)$", description='The model\'s index, or "mean".')]
Place = Annotated[int, Path(ge=0)]
Top = Annotated[int, Query(ge=0, description="How many of the largest weights to name.")]
Form = Annotated[Literal["json", "f32"], Query(description="JSON, or the array's bytes.")]
Axis = Literal["query", "key"]
Start = Annotated[int, Query(ge=0)]
Stop = Annotated[int | None, Query(ge=0)]


def _answer(
    request: Request, session: Any, op: str, arguments: dict[str, Any], form: str = "json", names: tuple[str, ...] = ()
) -> Response:
    """A question answered; 304 where the asker has the answer. names: of the arrays in JSON."""
    tag = atlas_tag(session.atlases[arguments["atlas"]], request.url.path, request.url.query)
    if matches(request, tag):
        return unchanged(tag)
    found = session.answer(op, arguments)
    if form != "json":
        return as_bytes(found.data, list(found.buffers), tag=tag)
    arrays = dict(zip(names, map(numbers, found.buffers), strict=True))
    return as_json(found.data | arrays, tag=tag)


@router.get("/atlases", responses=JSON)
def list_atlases(session: CurrentSession) -> Response:
    """The atlases that are served."""
    return as_json(session.answer("info").data)


@router.get("/atlases/{atlas}/documents", responses=JSON)
def list_documents(
    request: Request, session: CurrentSession, atlas: AtlasName, start: Start = 0, stop: Stop = None, text: str = ""
) -> Response:
    """Documents whose ids hold a text."""
    asked = {"atlas": atlas, "start": start, "stop": stop, "text": text}
    return _answer(request, session, "documents", asked)


@router.get("/atlases/{atlas}/statistics", responses=RECORDS)
def stream_statistics(
    session: CurrentSession,
    atlas: AtlasName,
    kind: AnyKind = None,
    layer: Annotated[int | None, Query(ge=0, description="All by default.")] = None,
    head: Annotated[str, Query(pattern="^([0-9]{1,9}|mean)$")] = "mean",
    names: Annotated[list[str] | None, Query(description="Of statistics; entropy by default.")] = None,
    rows: Annotated[bool, Query(description="Every row's number, and not their mean alone.")] = False,
) -> Response:
    """Statistics of all documents: a line for each document and layer, or for the document that has none and why."""
    one = session.atlas(atlas)
    kind = one.parse_kind(kind)
    layers = one.layers(kind) if layer is None else (layer,)
    asked = {"atlas": atlas, "kind": kind, "head": head, "names": names}

    def lines() -> Iterator[bytes]:
        for document in one:
            try:
                for number in layers:
                    found = session.answer("statistics", asked | {"document": document, "layer": number})
                    values = dict(zip(found.data["names"], map(numbers, found.buffers), strict=True))
                    told = values if rows else {name: _mean(some) for name, some in values.items()}
                    yield json_bytes({"document": document, "layer": number, "head": head} | told) + b"\n"
            except AttlasError as error:
                refused = {"type": type(error).__name__, "message": str(error), "status": status_of(error)}
                yield json_bytes({"document": document, "error": refused}) + b"\n"

    return StreamingResponse(lines(), media_type=LINES)


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


@router.get(DOCUMENT + "/tokens", responses=JSON)
def read_tokens(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: AnyKind = None,
    axis: Axis = "key",
    start: Start = 0,
    stop: Stop = None,
) -> Response:
    """A run of tokens as text, 100,000 at most."""
    asked = {"atlas": atlas, "document": document, "kind": kind, "axis": axis, "start": start, "stop": stop}
    return _answer(request, session, "tokens", asked)


@router.get(DOCUMENT + "/find", responses=JSON)
def find_text(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    text: str,
    kind: AnyKind = None,
    axis: Axis = "key",
    limit: Annotated[int, Query(ge=1)] = 1000,
) -> Response:
    """Where tokens, or runs of them, hold a text."""
    asked = {"atlas": atlas, "document": document, "kind": kind, "text": text, "axis": axis, "limit": limit}
    return _answer(request, session, "find", asked)


@router.get(DOCUMENT + "/heads", responses=JSON)
def name_heads(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: AnyKind = None,
    brief: Annotated[bool, Query(description="At once, of a few layers of a long document.")] = False,
) -> Response:
    """The heads that have a role, best first, and the one to show first."""
    found = session.answer("heads", {"atlas": atlas, "document": document, "kind": kind, "brief": brief})
    # roles are taken from what the atlas keeps where it keeps them, which a later job may add to
    tag = atlas_tag(session.atlases[atlas], json_bytes(found.data).decode())
    return unchanged(tag) if matches(request, tag) else as_json(found.data, tag=tag)


@router.get(DOCUMENT + "/tiles/{kind}/{layer}/{head}/{level}/{row}/{column}", responses=ARRAYS)
def read_tile(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: Kind,
    layer: Layer,
    head: Head,
    level: Place,
    row: Place,
    column: Place,
    pool: Literal["max", "mass"] = "max",
    format: Literal["u8", "f16", "f32"] = "u8",
) -> Response:
    """256 x 256 blocks of a map, each of 2^level x 2^level weights."""
    asked = {
        "atlas": atlas, "document": document, "kind": kind, "layer": layer, "head": head, "level": level, "row": row,
        "column": column, "pool": pool, "format": format,
    }  # fmt: skip
    return _answer(request, session, "tile", asked, form=format)


@router.get(DOCUMENT + "/thumbnails/{kind}", responses=ARRAYS)
def read_thumbnails(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: Kind,
    layer: Annotated[int | None, Query(ge=0, description="All by default.")] = None,
    head: Annotated[int | None, Query(ge=0, description="All by default.")] = None,
    cells: Annotated[int, Query(ge=8, le=256)] = 64,
) -> Response:
    """Small maps of all heads, or of one of a layer, uint8 (layer, head, row, column)."""
    asked = {"atlas": atlas, "document": document, "kind": kind, "layer": layer, "head": head, "cells": cells}
    return _answer(request, session, "thumbnails", asked, form="u8")


@router.get(DOCUMENT + "/rows/{kind}/{layer}/{head}/{query}", responses=EITHER)
def read_row(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: Kind,
    layer: Layer,
    head: Head,
    query: Place,
    top: Top = 20,
    format: Form = "json",
) -> Response:
    """What a query attends to: its weights on all keys."""
    asked = {
        "atlas": atlas, "document": document, "kind": kind, "layer": layer, "head": head, "query": query, "top": top,
    }  # fmt: skip
    return _answer(request, session, "row", asked, form=format, names=("weights",))


@router.get(DOCUMENT + "/columns/{kind}/{layer}/{head}/{key}", responses=EITHER)
def read_column(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: Kind,
    layer: Layer,
    head: Head,
    key: Place,
    top: Top = 20,
    format: Form = "json",
) -> Response:
    """What attends to a key: the weights of all queries on it."""
    asked = {"atlas": atlas, "document": document, "kind": kind, "layer": layer, "head": head, "key": key, "top": top}
    return _answer(request, session, "column", asked, form=format, names=("weights",))


@router.get(DOCUMENT + "/cells/{kind}/{layer}/{head}/{query}/{key}", responses=JSON)
def read_cell(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: Kind,
    layer: Layer,
    head: Head,
    query: Place,
    key: Place,
) -> Response:
    """One weight."""
    asked = {
        "atlas": atlas, "document": document, "kind": kind, "layer": layer, "head": head, "query": query, "key": key,
    }  # fmt: skip
    return _answer(request, session, "cell", asked)


@router.get(DOCUMENT + "/statistics/{kind}/{layer}/{head}", responses=EITHER)
def read_statistics(
    request: Request,
    session: CurrentSession,
    atlas: AtlasName,
    document: Document,
    kind: Kind,
    layer: Layer,
    head: Head,
    names: Annotated[list[str] | None, Query(description="Of statistics; entropy by default.")] = None,
    format: Form = "json",
) -> Response:
    """Statistics of a head's rows, by query; `received` is by key."""
    asked = {"atlas": atlas, "document": document, "kind": kind, "layer": layer, "head": head, "names": names}
    names = list(dict.fromkeys(names or ["entropy"]))
    return _answer(request, session, "statistics", asked | {"names": names}, form=format, names=tuple(names))


@router.get(DOCUMENT, responses=JSON)
def read_document(request: Request, session: CurrentSession, atlas: AtlasName, document: Document) -> Response:
    """One document: its size, and what can be asked of it."""
    return _answer(request, session, "document", {"atlas": atlas, "document": document})
