"""Figures of a server for Prometheus: requests, their seconds and bytes, and what the session keeps and computes.

No label holds a token, an address, a document or a text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from attlas.server.session import Session

__all__ = ["Counting", "Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS = {"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"}


class Metrics:
    """The figures of one app, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "op")
        self.requests = Counter("attlas_requests", "Requests answered.", (*labels, "status"), registry=self.registry)
        self.seconds = Histogram(
            "attlas_request_seconds", "Seconds to the last byte.", labels, buckets=SECONDS, registry=self.registry
        )
        self.bytes = Counter("attlas_response_bytes", "Bytes of bodies sent.", labels, registry=self.registry)
        self.working = Gauge("attlas_requests_in_work", "Requests being answered.", registry=self.registry)

    def watch(self, session: Session) -> None:
        """Tell of the session's cache too."""
        self.registry.register(_CacheFigures(session))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _CacheFigures:
    """Reads the cache when it is asked."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def collect(self) -> Iterator[Metric]:
        cache = self.session.cache
        yield CounterMetricFamily("attlas_cache_hits", "Answers found made.", value=cache.hits)
        yield CounterMetricFamily("attlas_cache_misses", "Answers that were made.", value=cache.misses)
        yield GaugeMetricFamily("attlas_cache_bytes", "Bytes of answers kept.", value=cache.bytes)
        yield GaugeMetricFamily("attlas_coarse_in_work", "Costly answers being made.", value=cache.heavy)
        yield GaugeMetricFamily("attlas_coarse_waiting", "Askers that wait for a costly answer.", value=cache.waiting)


class Counting:
    """An ASGI app around another that counts what it answers, by the route and never by the address."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, ops: Callable[[], set[str]]) -> None:
        self.app, self.metrics, self.ops = app, metrics, ops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, sent = time.perf_counter(), 500, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        self.metrics.working.inc()
        try:
            await self.app(scope, receive, counted)
        finally:
            self.metrics.working.dec()
            labels = (scope["method"] if scope["method"] in METHODS else "other", _route(scope), self._op(scope))
            self.metrics.requests.labels(*labels, str(status)).inc()
            self.metrics.seconds.labels(*labels).observe(time.perf_counter() - begin)
            self.metrics.bytes.labels(*labels).inc(sent)

    def _op(self, scope: Scope) -> str:
        op = scope.get("attlas.op", "")
        return op if op in self.ops() else ""


def _route(scope: Scope) -> str:
    route: Any = scope.get("route")
    return str(getattr(route, "path", "other"))
