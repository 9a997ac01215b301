"""What an app serves, which its endpoints reach through the request: the session, the captures, the figures."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

if TYPE_CHECKING:  # loads torch: the page is served before it is there
    from attlas.server.captures import Captures
    from attlas.server.metrics import Metrics
    from attlas.server.session import Session

__all__ = ["AtlasName", "CurrentSession", "Served", "served_of"]

MOST_WAIT = 120.0
"""Seconds that a question waits for the session to be made."""


@dataclass(frozen=True, slots=True)
class Served:
    """session: to be, for a server listens before all is loaded. captures: None where none are taken."""

    session: Future[Session]
    metrics: Metrics
    captures: Captures | None = None

    @property
    def ready(self) -> bool:
        return self.session.done() and self.session.exception() is None

    def wait(self) -> Session:
        """The session; raises what its making raised, and HTTPException 503 where that takes too long."""
        try:
            return self.session.result(timeout=MOST_WAIT)
        except TimeoutError as error:
            raise HTTPException(503, "the atlases are still being opened: ask again in a second") from error


def served_of(request: Request) -> Served:
    found: Served = request.app.state.served
    return found


def _session(request: Request) -> Any:
    return served_of(request).wait()


def _atlas(request: Request, atlas: str) -> str:
    session = served_of(request).wait()
    if atlas not in session.atlases:
        raise HTTPException(404, f"there is no atlas {atlas!r}: there are {', '.join(session.atlases)}")
    return atlas


CurrentSession = Annotated[Any, Depends(_session)]
"""A parameter of an endpoint that is the session."""
AtlasName = Annotated[str, Depends(_atlas)]
"""The atlas in the path, which is one that there is."""
