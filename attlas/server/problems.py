"""Every error over HTTP as a problem of RFC 9457: one JSON object, whoever raised it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from attlas.errors import AttlasError
from attlas.readable import one_line
from attlas.server.status import status_of

__all__ = ["PROBLEM", "PROBLEMS", "install", "json_bytes", "problem"]

MEDIA_TYPE = "application/problem+json"
SOON = {429, 503}
"""Statuses after which it is worth to ask again in a second."""
CANCELLED = 499

PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One line: cause and remedy."},
        "error": {"type": "string", "description": "The class of the error, see docs/errors.md."},
    },
}
"""The schema of a problem."""


def _described(status: int) -> dict[str, Any]:
    return {
        "description": _title(status),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _title(status: int) -> str:
    return "Question Cancelled" if status == CANCELLED else HTTPStatus(status).phrase


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: _described(status) for status in (400, 401, 403, 404, 409, 413, 422, 429, CANCELLED, 500, 503, 507)
}
"""What any question may be refused with, for OpenAPI."""


def json_bytes(value: Any) -> bytes:
    """JSON in ASCII, so that whatever a token holds can be sent."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def problem(
    status: int, detail: str, *, error: str = "", headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """The response for an error; `more`: further members."""
    title = _title(status)
    told = {"type": "about:blank", "title": title, "status": status, "detail": one_line(detail)}
    again = {"Retry-After": "1"} if status in SOON else {}
    return Response(
        json_bytes(told | {"error": error or title.replace(" ", "")} | more),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store"} | again | dict(headers or {}),
    )


def install(app: FastAPI) -> None:
    """Make every error of an app a problem."""
    app.add_exception_handler(AttlasError, _of_attlas)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _unforeseen)


def _of_attlas(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AttlasError)
    return problem(status_of(error), str(error), error=type(error).__name__)


def _of_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"place": ".".join(str(part) for part in one["loc"]), "message": one_line(str(one["msg"]))}
        for one in error.errors()
    ]
    unreadable = any(one["type"] == "json_invalid" for one in error.errors())
    first = found[0]
    return problem(
        400 if unreadable else 422, f"{first['place']}: {first['message']}", error="InputError", errors=found
    )


def _of_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)


def _unforeseen(_request: Request, error: Exception) -> Response:
    return problem(
        500, "the server failed at this: its log has the cause; please report it", error=type(error).__name__
    )
