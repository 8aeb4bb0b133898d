"""Counts requests by route, method and status, and how long each took."""

from __future__ import annotations

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.counters import SECONDS, Exposition, Histogram

OTHER: Final = "other"
"""The route of what matched none, and the method of what HTTP does not have: what a stranger sends
makes no new label."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
GONE: Final = 499
"""The status of a request whose client left before there was an answer."""


class RouteCounts:
    """The requests of one method to one route."""

    __slots__ = ("seconds", "statuses")

    def __init__(self) -> None:
        self.seconds = Histogram(SECONDS)
        self.statuses: dict[int, int] = {}

    def add(self, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.seconds.observe(seconds)


class RequestCounts:
    """All requests of one API process; counted on the event loop."""

    def __init__(self, static_prefix: str) -> None:
        self._prefix = static_prefix
        self._routes: dict[tuple[str, str], RouteCounts] = {}

    def of(self, route: str, method: str) -> RouteCounts:
        """The counts of a route, which is a path as it is declared, never one that was sent."""
        key = (route, method)
        found = self._routes.get(key)
        if found is None:
            found = self._routes[key] = RouteCounts()
        return found

    def write(self, into: Exposition) -> None:
        """Adds the families."""
        routes = [
            ({"route": route.removeprefix(self._prefix) or "/", "method": method}, counts)
            for (route, method), counts in list(self._routes.items())
        ]
        into.counter(
            "runfold_requests_total",
            "Requests answered.",
            *(
                ({**labels, "status": str(status)}, count)
                for labels, counts in routes
                for status, count in list(counts.statuses.items())
            ),
        )
        into.histogram(
            "runfold_request_seconds",
            "Time from a request's headers to the end of its answer.",
            [(labels, counts.seconds) for labels, counts in routes],
        )


class Counted:
    """Middleware in front of all other that counts what is answered."""

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = GONE

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted_send)
        finally:
            route = scope.get("route")
            method = scope["method"]
            counts = self._counts.of(
                OTHER if route is None else route.path, method if method in METHODS else OTHER
            )
            counts.add(status, time.perf_counter() - started)
