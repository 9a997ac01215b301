"""Answers of a session as HTTP responses: JSON, or the arrays' bytes with what they are in headers; and their ETag."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

import attlas
from attlas.server.problems import json_bytes

__all__ = ["array_bytes", "as_bytes", "as_json", "atlas_tag", "matches", "unchanged"]

BYTES = "application/octet-stream"
REVALIDATED = "private, no-cache"
"""Kept by the asker alone, and asked for again with its ETag, which costs nothing."""


def array_bytes(array: NDArray[Any]) -> bytes:
    """Little-endian, in the order of C."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def as_json(data: Mapping[str, Any], *, tag: str = "") -> Response:
    return Response(json_bytes(data), media_type="application/json", headers=_kept(tag))


def as_bytes(data: Mapping[str, Any], buffers: list[NDArray[Any]], *, tag: str = "") -> Response:
    """The arrays one after the other. X-Attlas-Shape and -Dtype: of each, between semicolons; X-Attlas-Data: what is
    told of them, as JSON."""
    headers = {
        "X-Attlas-Shape": ";".join(",".join(map(str, one.shape)) for one in buffers),
        "X-Attlas-Dtype": ";".join(one.dtype.name for one in buffers),
        "X-Attlas-Data": json_bytes({name: value for name, value in data.items() if name != "top"}).decode(),
    }
    if data.get("scale"):
        headers["X-Attlas-Scale"] = json_bytes(data["scale"]).decode()
    return Response(b"".join(map(array_bytes, buffers)), media_type=BYTES, headers=headers | _kept(tag))


def numbers(array: NDArray[Any]) -> list[float | None]:
    """For JSON: NaN, which is masked, as null."""
    return [None if one != one else one for one in np.asarray(array, np.float64).tolist()]


def atlas_tag(atlas: Any, *question: str) -> str:
    """A strong ETag: the same as long as atlas, attlas and question are."""
    parts = (attlas.__version__, atlas.identity, atlas.committed_records, *question)
    return '"' + hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32] + '"'


def matches(request: Request, tag: str) -> bool:
    """Whether the asker has what the ETag stands for."""
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))


def unchanged(tag: str) -> Response:
    return Response(status_code=304, headers=_kept(tag))


def _kept(tag: str) -> dict[str, str]:
    return {"Cache-Control": REVALIDATED, **({"ETag": tag} if tag else {})}
