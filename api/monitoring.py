"""What load balancers and Prometheus ask: /ready and /metrics.

Both are open under any host name, as /health is, and tell no name, id or value of any run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer
from api.errors import RETRY_AFTER_S
from api.request_counts import RequestCounts
from api.services import Services, services_of
from events.counters import CONTENT_TYPE, Exposition
from events.errors import TemporarilyUnavailable
from events.event import Partition
from events.worker_counts import ROLES
from projections.folding import Checkpoints

logger = structlog.get_logger(__name__)

READY: Final = frozenset({"ok", "stopped"})
"""The health with which a process can serve. Where folding has stopped it has for every process: to
take them all out of service would end the writes that go on."""


async def ready(request: Request) -> Response:
    """200 while this process can serve; 503 with the reason where the log or the views can't be
    reached or the views are being made. The JSON has the lag of each lane and partition."""
    services = services_of(request)
    if services.settings.artifacts_only:
        return json_answer({"status": "ok", "lanes": {}})
    found = await run_in_threadpool(services.health)
    if found["status"] in READY:
        return json_answer(found)
    response = json_answer(found, status=503)
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


async def metrics(request: Request) -> Response:
    """Everything that is counted, in Prometheus's text format."""
    state = request.app.state
    exposition = Exposition()
    counts: RequestCounts = state.request_counts
    counts.write(exposition)
    services = services_of(request)
    if not services.settings.artifacts_only:
        _write_writing(exposition, services)
        await run_in_threadpool(_write_lanes, exposition, services)
        _write_queries(exposition, state.query_slots.health(), state.query_slots.taken)
    if services.worker_counts is not None:
        services.worker_counts.write(exposition, ROLES)
    exposition.counter(
        "process_cpu_seconds_total",
        "User and system time of this API process.",
        ({}, time.process_time()),
    )
    return Response(exposition.text(), headers={"content-type": CONTENT_TYPE})


def _write_writing(into: Exposition, services: Services) -> None:
    commits = services.writer.commits
    into.counter(
        "runfold_appended_events_total",
        "Events made durable by this process.",
        ({}, commits.events.total),
    )
    into.histogram(
        "runfold_commit_events", "Events that shared a commit of the log.", [({}, commits.events)]
    )
    into.histogram(
        "runfold_commit_seconds", "Time of a commit of the log.", [({}, commits.seconds)]
    )
    into.counter(
        "runfold_commit_errors_total",
        "Commits that failed, each with all its requests.",
        ({}, commits.errors),
    )
    watch = services.watch
    into.histogram(
        "runfold_fresh_wait_seconds",
        "Time that requests waited until the views were as fresh as they need.",
        [({}, watch.waited)],
    )
    into.counter(
        "runfold_fresh_waits_over_total",
        "Waits past --wait-max, which were answered with 503.",
        ({}, watch.waits_over),
    )


def _write_lanes(into: Exposition, services: Services) -> None:
    """The state of log and views, as far as they can be reached."""
    heads: Mapping[Partition, int] | None = None
    checkpoints: Checkpoints | None = None
    behind_s: float | None = None
    try:
        heads = services.log.heads()
    except TemporarilyUnavailable as error:
        logger.warning("metrics without the log", reason=error.message)
    try:
        checkpoints = services.views_file.checkpoints()
        behind_s = services.lake_behind_s()
    except TemporarilyUnavailable as error:
        logger.warning("metrics without the views", reason=error.message)
    into.gauge("runfold_log_up", "1 while the log answers.", ({}, heads is not None))
    into.gauge("runfold_views_up", "1 while the views answer.", ({}, checkpoints is not None))
    into.gauge(
        "runfold_lake_up",
        "0 while the S3 server of the lake does not answer.",
        ({}, services.lake.away is None),
    )
    _write_positions(into, heads or {}, checkpoints)
    if behind_s is not None:
        into.gauge("runfold_lake_behind_seconds", "Age of the lake's exports.", ({}, behind_s))


def _write_positions(
    into: Exposition,
    heads: Mapping[Partition, int],
    checkpoints: Checkpoints | None,
) -> None:
    def labels(one: Partition) -> dict[str, str]:
        return {"lane": one.lane, "partition": str(one.number)}

    into.gauge(
        "runfold_head_position",
        "Position of the last event of the log.",
        *((labels(one), heads[one]) for one in heads),
    )
    if checkpoints is None:
        return
    into.gauge(
        "runfold_folded_position",
        "Position up to which events are folded.",
        *((labels(one), checkpoints[one].position) for one in heads),
    )
    into.gauge(
        "runfold_lag_events",
        "How far folding is behind the log, in positions.",
        *((labels(one), max(0, heads[one] - checkpoints[one].position)) for one in heads),
    )
    into.gauge(
        "runfold_folding_stopped",
        "1 where folding has stopped at an event that it does not know or can't fold.",
        *((labels(one), checkpoints[one].stopped is not None) for one in heads),
    )


def _write_queries(into: Exposition, slots: Mapping[str, Any], taken: int) -> None:
    into.counter("runfold_sql_queries_total", "SQL queries that had a turn.", ({}, taken))
    into.counter(
        "runfold_sql_refused_total", "SQL queries refused with 429.", ({}, slots["refused"])
    )
    into.gauge("runfold_sql_running", "SQL queries that run.", ({}, slots["running"]))
    into.gauge("runfold_sql_waiting", "SQL queries that wait for a turn.", ({}, slots["waiting"]))


ROUTES: list[Route] = [
    Route("/ready", ready, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
