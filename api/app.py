"""The application: every route, the middleware in front of them, and what they work with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api import artifacts, datasets, experiments, logged_models, metrics, pages, run_logging, runs
from api.errors import EXCEPTION_HANDLERS, UnexpectedErrors
from api.security import Security
from api.services import Gate, Reader, Services, Writer, eventual
from api.watch import Watch
from events.artifact_uris import ArtifactRoots
from events.log import Log
from events.settings import Settings
from events.wake import wake
from projections.database import Views

API = "/api/"
AJAX = "/ajax-api/"
CONSISTENCY_HEADER = b"runfold-consistency"


@dataclass(frozen=True)
class Wiring:
    """What the command line opens and hands to the application."""

    settings: Settings
    log: Log
    views: Views
    artifacts: ArtifactRoots
    wake_projector_fd: int | None = None
    """Gets a byte when the log has grown."""
    folded_fd: int | None = None
    """Gives a byte when the projector has folded."""


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
    routes = [*tracking, *artifacts.PROXY_ROUTES, *pages.ROUTES]
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


def create_app(wiring: Wiring) -> FastAPI:
    """The application over opened stores; it closes the writer and reader when it ends."""
    settings = wiring.settings

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(wiring) as services:
            app.state.services = services
            yield

    middleware = [Middleware(UnexpectedErrors), Middleware(Consistency)]
    if not settings.disable_security_middleware:
        security = Middleware(
            Security,
            allowed_hosts=settings.allowed_hosts,
            cors_allowed_origins=settings.cors_allowed_origins,
            x_frame_options=settings.x_frame_options,
            static_prefix=settings.static_prefix,
        )
        middleware.insert(0, security)
    return FastAPI(
        title="Runfold",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        routes=all_routes(settings),
        middleware=middleware,
        exception_handlers=EXCEPTION_HANDLERS,
    )


@contextlib.asynccontextmanager
async def running_services(wiring: Wiring) -> AsyncIterator[Services]:
    """The services of one event loop, from their start to their end."""
    watch = Watch(wiring.views, wiring.settings.wait_max_s)
    woken: Callable[[], None] = wake(wiring.wake_projector_fd)
    writer = Writer(wiring.log, wiring.views, watch, woken)
    reader = Reader(wiring.log, wiring.views, watch)
    services = Services(
        wiring.settings,
        wiring.log,
        wiring.views,
        watch,
        writer,
        reader,
        Gate(reader, watch),
        wiring.artifacts,
    )
    if wiring.folded_fd is not None:
        watch.listen(wiring.folded_fd)
    polling = asyncio.create_task(watch.run())
    try:
        await experiments.ensure_default_experiment(services)
        yield services
    finally:
        polling.cancel()
        writer.close()
        reader.close()
