"""Who may ask: a token as Jupyter's, a Host that is known, and no other page's forms.

The token comes in the address that was printed (and leaves it at once, for a cookie that no script can read), as a
cookie, or as `Authorization: Bearer`. A foreign Host is refused, for it is how a page elsewhere reaches what listens on
loopback (DNS rebinding). Health is open, and tells nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import Response
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from attlas.parse import parse_word, refuse
from attlas.server.problems import problem

__all__ = ["LOOPBACK", "Guard", "host_name", "new_token", "parse_token"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine for itself."""
OPEN = ("/v1/health/live", "/v1/health/ready")
LEAST_TOKEN = 8
READING = {"GET", "HEAD", "OPTIONS"}

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>attlas</title>
<h1>A token is needed</h1>
<p>Open the address that attlas printed when it was started, or give its token here.</p>
<form>
<label>Token <input name="token" type="password" autocomplete="off" autofocus></label> <button>Open</button>
</form>
</html>
"""


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_hex(24)


def parse_token(given: object, field: str = "token") -> str:
    """A token of one's own, 8 characters of ASCII or more; raises InputError.

    >>> parse_token("s3cret-of-the-team")
    's3cret-of-the-team'
    """
    remedy = f"give {LEAST_TOKEN} letters, digits and signs or more, or none for one that is made"
    token = parse_word(given, field, remedy)
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise refuse("..." if len(token) < LEAST_TOKEN else token, field, remedy)
    return token


def host_name(host: str) -> str:
    """The name in a Host header, without its port; "" where it is none.

    >>> host_name("LocalHost:8888"), host_name("[::1]:8888"), host_name("a@b")
    ('localhost', '::1', '')
    """
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 -- raises where it is no port
    except ValueError:
        return ""
    return "" if "@" in host or parts.path or parts.query or parts.fragment else (parts.hostname or "").rstrip(".")


class Guard:
    """An ASGI app before another. token: None where nobody is asked for one. hosts: names by which it may be called,
    beside those of loopback; "*" for any."""

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Iterable[str] = ()) -> None:
        self.app, self.token = app, token
        self.hosts = {*LOOPBACK, *(host.lower().strip("[]") for host in hosts)}
        if token is not None:  # servers on one machine share their cookies, whatever their ports
            self.cookie = f"attlas-{hashlib.sha256(token.encode()).hexdigest()[:8]}"
            self.value = hmac.new(token.encode(), b"attlas cookie", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = self._refusal(scope)
            await (self.app if refusal is None else refusal)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered instead of the app; None where the app answers."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN:
            return None
        headers = Headers(scope=scope)
        host = host_name(headers.get("host", ""))
        if not self._known(host):
            return problem(
                400, f"the host {host!r} is not served here: start with --allow-host NAME", error="UnknownHost"
            )
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] not in READING
            and not self._known(host_name(urlsplit(origin).netloc))
        ):
            return problem(403, "a page of another site asks: open the page from this server", error="ForeignOrigin")
        if self.token is None:
            return None
        return self._without_token(scope, path, headers)

    def _known(self, host: str) -> bool:
        return bool(host) and ("*" in self.hosts or host in self.hosts)

    def _without_token(self, scope: Scope, path: str, headers: Headers) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        page = not path.startswith("/v1/") and scope["method"] in READING
        if given is not None and self._is_token(given):
            return self._entrance(path, [(name, value) for name, value in query if name != "token"]) if page else None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() in ("bearer", "token") and self._is_token(bearer.strip()):
            return None
        cookie = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        if hmac.compare_digest(cookie.encode(), self.value.encode()):
            return None
        challenge = {"WWW-Authenticate": 'Bearer realm="attlas"'}
        if page and "text/html" in headers.get("accept", ""):
            return HTMLResponse(PAGE, 401, headers=challenge | {"Cache-Control": "no-store"})
        why = "a token is needed" if given is None and not bearer else "this token is not the server's"
        remedy = "open the address that was printed, or send Authorization: Bearer TOKEN"
        return problem(401, f"{why}: {remedy}", error="TokenMissing", headers=challenge)

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())

    def _entrance(self, path: str, query: list[tuple[str, str]]) -> Response:
        """To the same address without its token, relative so that it holds behind a proxy too."""
        last = path.rsplit("/", 1)[1]
        clean = f"./{quote(last)}" + (f"?{urlencode(query)}" if query else "")
        entrance = RedirectResponse(clean, 303, headers={"Cache-Control": "no-store"})
        entrance.set_cookie(self.cookie, self.value, httponly=True, samesite="strict")
        return entrance
