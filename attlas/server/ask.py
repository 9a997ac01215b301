"""POST /v1/ask: one message of the protocol, answered by JSON and buffers in one body.

The body of the answer: the length of the JSON as a little-endian uint32, the JSON (padded with blanks, so that what
follows begins at a multiple of 8), then the buffers one after the other; `buffers` in the JSON has the bytes of each.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from attlas.server.problems import PROBLEMS, json_bytes, problem
from attlas.server.replies import BYTES, array_bytes
from attlas.server.served import Served, served_of

__all__ = ["frame", "router", "unframe"]

router = APIRouter(prefix="/v1", tags=["messages"])

MOST_MESSAGE = 2**20
ALIGNED = 8
WATCH_SECONDS = 0.05
ASKED = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["op"],
                    "properties": {"id": {}, "op": {"type": "string"}, "atlas": {"type": "string"}},
                }
            }
        },
    }
}
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The reply, of an error too: uint32 length of the JSON, the JSON, the buffers.",
        "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}},
    },
    **{status: PROBLEMS[status] for status in (400, 401, 413, 500, 503)},
}


def frame(reply: dict[str, Any], buffers: list[NDArray[Any]]) -> bytes:
    """A reply and its buffers as one body.

    >>> body = frame({"id": 7, "ok": True, "data": {}}, [np.float32([1, 2])])
    >>> reply, parts = unframe(body)
    >>> reply["buffers"], np.frombuffer(parts[0], "<f4").tolist()
    ([8], [1.0, 2.0])
    """
    parts = [array_bytes(one) for one in buffers]
    text = json_bytes(reply | {"buffers": [len(part) for part in parts]})
    text += b" " * (-(4 + len(text)) % ALIGNED)
    return b"".join((struct.pack("<I", len(text)), text, *parts))


def unframe(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """What `frame` made one body of."""
    begin = 4 + struct.unpack_from("<I", body)[0]
    reply: dict[str, Any] = json.loads(body[4:begin])
    parts = []
    for length in reply["buffers"]:
        parts.append(body[begin : begin + length])
        begin += length
    return reply, parts


@router.post("/ask", responses=ANSWERED, openapi_extra=ASKED)
async def ask(request: Request) -> Response:
    """One message of the protocol in docs/server.md. Who goes away before it is answered has cancelled it."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_MESSAGE:
            return problem(413, f"a message has at most {MOST_MESSAGE:,} bytes: ask for less at a time")
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return problem(400, 'the message is no JSON: send {"op": "info"}', error="InputError")
    return await _answered(request, served_of(request), message)


async def _answered(request: Request, served: Served, message: Any) -> Response:
    asker = object()
    identity = message.get("id") if isinstance(message, dict) else None
    op = message.get("op") if isinstance(message, dict) else None
    request.scope["attlas.op"] = op if isinstance(op, str) else ""

    def answer() -> bytes:
        return frame(*served.wait().reply(message, asker=asker))

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(WATCH_SECONDS)
        if served.ready:
            served.wait().cancel(identity, asker=asker)

    watching = asyncio.create_task(watch())
    try:
        made = await run_sync(answer)
    finally:
        watching.cancel()
    return Response(made, media_type=BYTES, headers={"Cache-Control": "no-store"})
