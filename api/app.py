"""The application: every route, the middleware in front of them, and what they work with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api import (
    artifacts,
    datasets,
    experiments,
    logged_models,
    metrics,
    monitoring,
    pages,
    run_logging,
    runs,
    sql,
)
from api.errors import (
    EXCEPTION_HANDLERS,
    UnexpectedErrors,
    answer_disconnect,
    answer_routing_error,
    answer_runfold_error,
)
from api.express import Express
from api.query_slots import query_slots
from api.request_counts import Counted, RequestCounts
from api.security import Security
from api.services import Gate, Reader, Services, Writer, eventual
from api.watch import POLL_ALONE_S, POLL_IDLE_S, Watch
from events.artifact_uris import ArtifactRoots
from events.errors import RunfoldError
from events.log import Log
from events.settings import Settings
from events.wake import WAITED_FOR, wake
from events.worker_counts import WorkerCounts
from projections.database import Views
from projections.lake import Lake

API = "/api/"
AJAX = "/ajax-api/"
REFUSAL = "runfold.refusal"
"""In a scope: what a request on the short way (api/express.py) could not be done for."""
CONSISTENCY_HEADER = b"runfold-consistency"


@dataclass(frozen=True)
class Wiring:
    """What the command line opens and hands to the application."""

    settings: Settings
    log: Log
    views: Views
    artifacts: ArtifactRoots
    lake: Lake
    wake_projector_fd: int | None = None
    """Gets a byte when the log has grown."""
    folded_fd: int | None = None
    """Gives a byte when the projector has folded."""
    worker_counts: WorkerCounts | None = None
    """What the workers of the same server count."""


class Consistency:
    """Reads the caller's wish for a quick answer rather than a fresh one from its header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            eventual.set((CONSISTENCY_HEADER, b"eventual") in scope["headers"])
        await self._app(scope, receive, send)


def tracking_routes() -> list[Route]:
    """The routes of MLflow's tracking API, under /api/."""
    # Routes are tried in this order, 0.4 µs each, so those of a training loop come first.
    return [
        *run_logging.ROUTES,
        *runs.ROUTES,
        *experiments.ROUTES,
        *metrics.ROUTES,
        *datasets.ROUTES,
        *logged_models.ROUTES,
        *sql.ROUTES,
        *artifacts.ROUTES,
    ]


def all_routes(settings: Settings) -> list[BaseRoute]:
    """Every route: each API route also under /ajax-api/, all behind the static prefix."""
    tracking = tracking_routes()
    if settings.artifacts_only:
        tracking = [
            Route(route.path, artifacts.tracking_disabled, methods=list(route.methods or ()))
            for route in tracking
        ]
    routes = [*tracking, *artifacts.PROXY_ROUTES, *pages.ROUTES, *monitoring.ROUTES]
    found: dict[tuple[str, frozenset[str]], Route] = {}
    for route in routes:
        for path in _paths(route.path):
            methods = frozenset(route.methods or ())
            found.setdefault(
                (path, methods),
                Route(settings.static_prefix + path, route.endpoint, methods=list(methods)),
            )
    if settings.static_prefix:
        # What a person types has no slash at its end.
        page = Route(settings.static_prefix, pages.home, methods=["GET"])
        return [*found.values(), page]
    return list(found.values())


def _paths(path: str) -> list[str]:
    if path.startswith(API):
        return [path, AJAX + path.removeprefix(API)]
    return [path]


class Dispatch:
    """Answers what has a fixed path by a look into a table; Starlette does the rest.

    The way through Starlette's layers costs more than a metric's own work.
    """

    def __init__(self, app: Starlette, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._table: dict[tuple[str, str], Route] = {
            (method, route.path): route
            for route in routes
            if isinstance(route, Route) and "{" not in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http":
            route = self._table.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        scope["route"] = route
        request = Request(scope, receive)
        try:
            if REFUSAL in scope:
                raise scope[REFUSAL]
            response: Response = await route.endpoint(request)
        except RunfoldError as error:
            response = await answer_runfold_error(request, error)
        except HTTPException as error:
            response = await answer_routing_error(request, error)
        except ClientDisconnect as error:
            response = await answer_disconnect(request, error)
        await response(scope, receive, send)


def create_app(wiring: Wiring) -> ASGIApp:
    """The application over opened stores; it closes the writer and reader when it ends.

    Its lifespan's state has the short way under `express`, for the server that offers one.
    """
    settings = wiring.settings
    counts = RequestCounts(settings.static_prefix)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        async with (
            running_services(wiring) as services,
            query_slots(settings, wiring.lake) as slots,
        ):
            app.state.services = services
            app.state.request_counts = counts
            app.state.query_slots = slots
            if settings.artifacts_only:
                yield {}
            else:
                yield {"express": Express(services, security, settings.static_prefix, counts)}

    routes = all_routes(settings)
    rest = Starlette(routes=routes, lifespan=lifespan, exception_handlers=EXCEPTION_HANDLERS)
    rest.router.redirect_slashes = False
    app = UnexpectedErrors(Consistency(Dispatch(rest, routes)))
    security = None if settings.disable_security_middleware else _secured(app, settings)
    return Counted(security or app, counts)


def _secured(app: ASGIApp, settings: Settings) -> Security:
    return Security(
        app,
        allowed_hosts=settings.allowed_hosts,
        cors_allowed_origins=settings.cors_allowed_origins,
        x_frame_options=settings.x_frame_options,
        static_prefix=settings.static_prefix,
    )


@contextlib.asynccontextmanager
async def running_services(wiring: Wiring) -> AsyncIterator[Services]:
    """The services of one event loop, from their start to their end."""
    wake_projector = wake(wiring.wake_projector_fd)
    watch = Watch(wiring.views, wiring.settings.wait_max_s, partial(wake_projector, WAITED_FOR))
    writer = Writer(wiring.log, wiring.views, watch, wake_projector)
    reader = histories = Reader(wiring.log, wiring.views, watch)
    if wiring.lake.is_remote:
        # What waits for S3 must not have the threads of everybody else.
        histories = Reader(wiring.log, wiring.views, watch)
    services = Services(
        wiring.settings,
        wiring.log,
        wiring.views,
        watch,
        writer,
        reader,
        histories,
        Gate(reader, watch),
        wiring.artifacts,
        wiring.lake,
        wiring.worker_counts,
    )
    if wiring.folded_fd is not None:
        watch.listen(wiring.folded_fd)
    # Where nobody tells this process what is folded it looks more often.
    every_s = POLL_IDLE_S if wiring.folded_fd is not None else POLL_ALONE_S
    polling = asyncio.create_task(watch.run(every_s))
    try:
        await experiments.ensure_default_experiment(services)
        yield services
    finally:
        polling.cancel()
        writer.close()
        reader.close()
        histories.close()
