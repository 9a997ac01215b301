"""Captures as resources: POST a batch, look at it, follow its events, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from attlas.server.captures import Job
from attlas.server.problems import PROBLEMS, problem
from attlas.server.replies import as_json
from attlas.server.served import served_of

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/captures", tags=["captures"], responses={s: PROBLEMS[s] for s in (400, 401, 403, 404, 413, 422, 429)}
)
LOOK_AGAIN = 0.1
"""Seconds between two looks at a job's events."""
MOST_TEXTS = 1000
OBJECT = {"application/json": {"schema": {"type": "object"}}}


class Batch(BaseModel):
    """What is to be captured, as one atlas."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="One of those that the server was started with.")
    texts: list[Any] = Field(
        min_length=1, max_length=MOST_TEXTS, description='Texts, or {"id", "text"}, or {"id", "source", "target"}.'
    )
    keep: Literal["factors", "statistics"] = "factors"


def _captures(request: Request) -> Any:
    found = served_of(request).captures
    if found is None:
        raise HTTPException(403, "this server captures nothing: start it with --allow-capture --model MODEL")
    return found


def _job(request: Request, capture: str) -> Job:
    job = _captures(request).job(capture)
    if job is None:
        raise HTTPException(404, f"there is no capture {capture!r}: POST /v1/captures makes one")
    found: Job = job
    return found


CurrentCaptures = Annotated[Any, Depends(_captures)]
CurrentJob = Annotated[Job, Depends(_job)]


@router.post("", status_code=202, responses={202: {"description": "Accepted", "content": OBJECT}})
def begin_capture(captures: CurrentCaptures, batch: Batch) -> Response:
    """Capture texts, in a queue. Each has an outcome of its own; the atlas is served once it is there."""
    job = captures.submit(batch.model, batch.texts, keep=batch.keep)
    response = as_json(job.told)
    response.status_code = 202
    response.headers["Location"] = f"/v1/captures/{job.id}"
    return response


@router.get("/{capture}", responses={200: {"description": "The capture.", "content": OBJECT}})
def read_capture(job: CurrentJob) -> Response:
    """How far a capture is, and what became of each text."""
    return as_json(job.told)


@router.delete(
    "/{capture}", responses={200: {"description": "It is cancelled.", "content": OBJECT}, 409: PROBLEMS[409]}
)
def cancel_capture(captures: CurrentCaptures, job: CurrentJob) -> Response:
    """Cancel a capture that has not begun."""
    if not captures.cancel(job):
        return problem(409, f"{job.id} is {job.state}: only what waits can be cancelled", error="CaptureBegun")
    return as_json(job.told)


@router.get("/{capture}/events", response_class=EventSourceResponse)
async def follow_capture(
    job: CurrentJob, last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """Events of a capture as they happen: state, progress, item, and end, which is the last. Last-Event-ID goes on
    behind one."""
    number = int(last_event_id) + 1 if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    while True:
        while number < len(job.events):
            event = job.events[number]
            yield ServerSentEvent(data=event.data, event=event.name, id=str(number))
            number += 1
            if event.name == "end":
                return
        if job.ended and number >= len(job.events):
            return
        await asyncio.sleep(LOOK_AGAIN)
