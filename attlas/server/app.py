"""The FastAPI app: a session over HTTP, the page, health and figures, behind a guard.

create_app makes it of a session that is there, or is to be: a server listens before torch is loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import attlas
from attlas.server import ask, capture_routes, problems, routes, zarr_files
from attlas.server.auth import Guard
from attlas.server.metrics import Counting, Metrics
from attlas.server.problems import PROBLEM, PROBLEMS, problem
from attlas.server.reference import STYLE_HASH, reference_page
from attlas.server.served import Served, served_of

if TYPE_CHECKING:
    from attlas.server.captures import Captures
    from attlas.server.session import Session

__all__ = ["STATIC", "create_app"]

STATIC = Path(__file__).parent / "viewer" / "static"
THREADS = 64
"""Questions answered at once: those that wait for a costly answer, of which there are 32 at most, hold one too."""
MOST_BODY = 16 * 2**20
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ABOUT = (
    "Exact attention of language models, asked cell by cell or tile by tile. Send the token as Authorization: Bearer. "
    "Answers have a strong ETag; errors are RFC 9457 problems."
)

router = APIRouter()
PLAIN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/v1/health/live", tags=["server"])
def live() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "live"}


@router.get("/v1/health/ready", tags=["server"], responses={503: PROBLEMS[503]})
def ready(request: Request) -> Any:
    """Whether questions are answered, and not waited for."""
    if not served_of(request).ready:
        return problem(503, "the atlases are still being opened: ask again in a second", error="NotReady")
    return {"status": "ready"}


@router.get("/metrics", tags=["server"], responses={**PLAIN, 401: PROBLEMS[401]}, response_class=Response)
def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(served_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/", include_in_schema=False)
def page() -> Response:
    if not (STATIC / "index.html").is_file():
        raise HTTPException(404, "this installation has no page: install attlas again")
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


@router.get("/docs", include_in_schema=False)
def reference(request: Request) -> Response:
    policy = POLICY.replace("style-src 'self'", f"style-src '{STYLE_HASH}'")
    return HTMLResponse(reference_page(request.app.openapi()), headers={"Content-Security-Policy": policy})


def create_app(
    session: Session | Future[Session],
    *,
    token: str | None,
    hosts: Iterable[str] = (),
    captures: Captures | None = None,
) -> FastAPI:
    """An app that answers what the session answers, see docs/server.md.

    >>> from fastapi.testclient import TestClient
    >>> from attlas.server.session import Session
    >>> app = create_app(Session(atlas), token="s3cret-of-the-team")
    >>> with TestClient(app, base_url="http://localhost") as client:
    ...     there = "/v1/atlases/demo/documents/demo/cells/self/1/0/106/49"
    ...     client.get(there).status_code, client.get(there, params={"token": "s3cret-of-the-team"}).json()["weight"]
    (401, 0.997)

    session: one, or a future of one that is being made. token: what askers must have; None where somebody else sees to
    that. hosts: names by which it may be called, beside those of loopback; "*" for any. captures: what takes captures.
    """
    served = Served(session=_future(session), metrics=Metrics(), captures=captures)
    app = FastAPI(
        title="attlas", version=attlas.__version__, description=ABOUT, docs_url=None, redoc_url=None, lifespan=_lifespan
    )
    app.state.served = served
    for one in (router, routes.router, ask.router, zarr_files.router):
        app.include_router(one)
    if captures is not None:
        app.include_router(capture_routes.router)
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app)
    _describe(app)
    app.add_middleware(Bounded)
    app.add_middleware(Guard, token=token, hosts=hosts)
    app.add_middleware(Counting, metrics=served.metrics, ops=lambda: _ops(served))
    app.add_middleware(Careful)
    return app


def _future(session: Session | Future[Session]) -> Future[Session]:
    if isinstance(session, Future):
        return session
    made: Future[Session] = Future()
    made.set_result(session)
    return made


def _ops(served: Served) -> set[str]:
    if not served.ready:
        return set()
    from attlas.server.questions.question import OPS  # is loaded, with the session

    return {*OPS.names, "cancel"}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    served: Served = app.state.served
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    served.session.add_done_callback(lambda _: served.metrics.watch(served.wait()) if served.ready else None)
    yield
    if served.captures is not None:
        served.captures.close()


def _describe(app: FastAPI) -> None:
    """Give the OpenAPI description what FastAPI does not know: the schema of a problem, and the token."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        told = made()
        parts = told.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = PROBLEM
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"token": []}]
        return told

    app.openapi = openapi  # type: ignore[method-assign]


class Careful:
    """An ASGI app around another whose answers may do little in a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, sent if scope["type"] == "http" else send)


class Bounded:
    """An ASGI app before another that refuses bodies beyond MOST_BODY."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        size, told = 0, Headers(scope=scope).get("content-length", "0")
        detail = f"a body has at most {MOST_BODY:,} bytes: send less at a time"
        if not told.isdecimal() or int(told) > MOST_BODY:
            await problem(413, detail)(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise HTTPException(413, detail)
            return message

        await self.app(scope, counted, send)
