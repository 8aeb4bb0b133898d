"""The history of metrics: of one run, of many, and thinned out for charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec
import numpy as np
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from api.answers import EMPTY, json_answer
from api.requests import Int32, Int64, RequiredText, RunId, decode
from api.services import Services, services_of
from events.errors import InvalidParameterValue, TemporarilyUnavailable
from projections.history import Points, SegmentGone, bulk_history, metric_history, sampled
from projections.page_tokens import PageQuery, read_page_token, write_page_token

PREFIX = "/api/2.0/mlflow/metrics"
BULK_RUNS_MAX: Final = 100
BULK_POINTS_MAX: Final = 25_000
SAMPLED_POINTS_MAX: Final = 2_500
SNAPSHOTS_MAX: Final = 5
"""How often a history is read again because compaction took a file away."""
PIECE_POINTS: Final = 20_000
WHOLE_POINTS_MAX: Final = 100_000
"""A larger answer is sent while it is made."""

P = ParamSpec("P")
T = TypeVar("T")
PointJson = Callable[[str, str, float | str, int, int], msgspec.Struct]


class GetHistory(msgspec.Struct):
    """GET metrics/get-history."""

    run_id: RunId
    metric_key: RequiredText
    max_results: Any = None
    page_token: str | None = None


class GetHistoryBulk(msgspec.Struct):
    """GET metrics/get-history-bulk."""

    run_id: list[str] = []
    metric_key: str | None = None
    max_results: Int64 | None = None


class GetHistoryBulkInterval(msgspec.Struct):
    """GET metrics/get-history-bulk-interval."""

    metric_key: RequiredText
    run_ids: list[str] = []
    start_step: Int64 | None = None
    end_step: Int64 | None = None
    max_results: Int32 | None = None


class _Point(msgspec.Struct, gc=False):
    key: str
    value: float | str
    timestamp: int
    step: int


class _RunPoint(msgspec.Struct, gc=False):
    key: str
    value: float | str
    timestamp: int
    step: int
    run_id: str


class _BulkPoint(msgspec.Struct, gc=False):
    key: str
    run_id: str
    step: int
    timestamp: int
    value: float | str


async def get_history(request: Request) -> Response:
    """Every point of a run's metric, or a page of them. An unknown run has none, as in MLflow."""
    asked = await decode(request, GetHistory)
    limit = _page_size(asked.max_results)
    services = services_of(request)
    secret = services.log.identity.secret
    query = PageQuery("metrics/get-history", "", (asked.run_id, asked.metric_key))
    after = read_page_token(secret, query, asked.page_token)
    points, next_after = await _read(
        services,
        metric_history,
        services.lake,
        asked.run_id,
        asked.metric_key,
        limit,
        after,
    )
    end = b"}"
    if next_after is not None:
        token = write_page_token(secret, query, next_after)
        end = b',"next_page_token":' + msgspec.json.encode(token) + b"}"
    if not len(points):
        return json_answer(EMPTY)

    def point(key: str, _run: str, value: float | str, timestamp: int, step: int) -> _Point:
        return _Point(key, value, timestamp, step)

    pieces = _pieces(asked.metric_key, [(asked.run_id, points)], point, end)
    return await _answer(services, len(points), pieces)


async def get_history_bulk(request: Request) -> Response:
    """The points of a metric of many runs, in order of run and time, up to 25,000 together."""
    asked = await decode(request, GetHistoryBulk)
    if not asked.run_id:
        raise InvalidParameterValue(
            "GetMetricHistoryBulk request must specify at least one run_id."
        )
    if len(asked.run_id) > BULK_RUNS_MAX:
        raise InvalidParameterValue(
            f"GetMetricHistoryBulk request cannot specify more than {BULK_RUNS_MAX} run_ids. "
            f"Received {len(asked.run_id)} run_ids."
        )
    if asked.metric_key is None:
        raise InvalidParameterValue("GetMetricHistoryBulk request must specify a metric_key.")
    limit = BULK_POINTS_MAX if asked.max_results is None else asked.max_results
    if limit < 0:
        raise InvalidParameterValue(
            f"Invalid value {limit} for parameter 'max_results' supplied: send a number from 0 "
            f"to {BULK_POINTS_MAX}."
        )
    services = services_of(request)
    found = await _read(
        services,
        bulk_history,
        services.lake,
        asked.run_id,
        asked.metric_key,
        min(limit, BULK_POINTS_MAX),
    )

    def point(key: str, run_id: str, value: float | str, timestamp: int, step: int) -> _BulkPoint:
        return _BulkPoint(key, run_id, step, timestamp, value)

    pieces = _pieces(asked.metric_key, found, point, b"}")
    return await _answer(services, sum(len(points) for _, points in found), pieces)


async def get_history_bulk_interval(request: Request) -> Response:
    """For each run up to `max_results` points that show how the metric ran, for charts."""
    asked = await decode(request, GetHistoryBulkInterval)
    if not asked.run_ids:
        raise InvalidParameterValue("Missing value for required parameter 'run_ids'.")
    if len(asked.run_ids) > BULK_RUNS_MAX:
        raise InvalidParameterValue(
            f"GetMetricHistoryBulkInterval request must specify at most {BULK_RUNS_MAX} run_ids. "
            f"Received {len(asked.run_ids)} run_ids."
        )
    limit = SAMPLED_POINTS_MAX if asked.max_results is None else asked.max_results
    if not 1 <= limit <= SAMPLED_POINTS_MAX:
        raise InvalidParameterValue(f"max_results must be between 1 and {SAMPLED_POINTS_MAX}.")
    services = services_of(request)
    found = await _read(
        services,
        sampled,
        services.lake,
        asked.run_ids,
        asked.metric_key,
        limit,
        _interval(asked.start_step, asked.end_step),
    )
    total = sum(len(points) for _, points in found)
    if not total:
        return json_answer(EMPTY)

    def point(key: str, run_id: str, value: float | str, timestamp: int, step: int) -> _RunPoint:
        return _RunPoint(key, value, timestamp, step, run_id)

    return await _answer(services, total, _pieces(asked.metric_key, found, point, b"}"))


def _page_size(sent: object) -> int | None:
    """The page size, None for all. What is no whole number counts as not sent, as in MLflow."""
    try:
        size = int(sent) if isinstance(sent, (int, str)) else None
    except ValueError:
        return None
    if size is None:
        return None
    if not 1 <= size < 2**31:
        raise InvalidParameterValue(
            f"Invalid value {size} for parameter 'max_results' supplied. "
            "It must be a positive integer."
        )
    return size


def _interval(start_step: int | None, end_step: int | None) -> tuple[int, int] | None:
    if start_step is None and end_step is None:
        return None
    if start_step is None or end_step is None:
        raise InvalidParameterValue(
            "If either start step or end step are specified, both must be specified."
        )
    if start_step > end_step:
        raise InvalidParameterValue(
            "end_step must be greater than start_step. "
            f"Found start_step={start_step} and end_step={end_step}."
        )
    return start_step, end_step


async def _read(
    services: Services,
    query: Callable[Concatenate[sa.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """The query's answer; from a new snapshot where compaction took away a file of the first."""
    for _ in range(SNAPSHOTS_MAX):
        try:
            return await services.histories.read(query, *args, **kwargs)
        except SegmentGone:
            continue
    raise TemporarilyUnavailable(
        "A file of the lake is missing. Try again shortly; if that does not help, `runfold "
        "rebuild` makes the views and the lake anew from the log."
    )


async def _answer(services: Services, points: int, pieces: Iterator[bytes]) -> Response:
    if points > WHOLE_POINTS_MAX:
        return StreamingResponse(pieces, media_type="application/json")
    if points <= SAMPLED_POINTS_MAX:
        # A chart's answer takes less than waiting for a thread would.
        return Response(b"".join(pieces), media_type="application/json")
    body = await services.views.in_thread(lambda: b"".join(pieces))
    return Response(body, media_type="application/json")


def _pieces(
    key: str, found: Sequence[tuple[str, Points]], to_json: PointJson, end: bytes
) -> Iterator[bytes]:
    """The answer's JSON, a bounded number of points at a time."""
    yield b'{"metrics":['
    separator = b""
    for run_id, points in found:
        for start in range(0, len(points), PIECE_POINTS):
            part = points.at(slice(start, start + PIECE_POINTS))
            columns = zip(_values(part), part.timestamps.tolist(), part.steps.tolist(), strict=True)
            yield (
                separator
                + msgspec.json.encode([to_json(key, run_id, *row) for row in columns])[1:-1]
            )
            separator = b","
    yield b"]" + end


def _values(points: Points) -> list[float | str]:
    values: list[float | str] = points.values.tolist()
    for place in np.flatnonzero(np.isnan(points.values)).tolist():
        values[place] = "NaN"
    return values


ROUTES = [
    Route(f"{PREFIX}/get-history", get_history, methods=["GET"]),
    Route(f"{PREFIX}/get-history-bulk", get_history_bulk, methods=["GET"]),
    Route(f"{PREFIX}/get-history-bulk-interval", get_history_bulk_interval, methods=["GET"]),
]
