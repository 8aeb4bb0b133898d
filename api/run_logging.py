"""What is logged to a run: metrics, params and tags, one by one or in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer
from api.foresight import Claim
from api.limits import (
    BATCH_BYTES_MAX,
    BATCH_METRICS_MAX,
    BATCH_PARAMS_MAX,
    BATCH_TAGS_MAX,
    BATCH_TOTAL_MAX,
    PARAM_VALUE_LENGTH_MAX,
    check_key,
    check_run_id,
    check_unique,
)
from api.requests import Double, Int64, RequiredText, RunId, decode, decode_body_quickly
from api.run_tags import TagSent, checked_tags, tag_value
from api.services import Services, new_event, now_ms, services_of
from events.codec import Block, Series, encode_columns
from events.errors import InvalidParameterValue
from events.event import NewEvent
from events.metrics import POINTS_LOGGED, points_of
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_TAG_DELETED,
    Param,
    RunBatchLogged,
    RunTag,
    RunTagDeleted,
)
from projections.runs import check_has_tag, checked_params

PREFIX = "/api/2.0/mlflow/runs"


class ParamSent(msgspec.Struct, gc=False):
    """A param as a client sends it."""

    key: RequiredText
    value: str | None = None


class MetricSent(msgspec.Struct, gc=False):
    """A metric point as a client sends it."""

    key: RequiredText
    value: Double
    timestamp: Int64
    step: Int64 | None = None
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class LogMetric(msgspec.Struct):
    """POST runs/log-metric."""

    run_id: RunId
    key: RequiredText
    value: Double
    timestamp: Int64
    step: Int64 | None = None
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class LogParam(msgspec.Struct):
    """POST runs/log-parameter."""

    run_id: RunId
    key: RequiredText
    value: str | None = None


class SetTag(msgspec.Struct):
    """POST runs/set-tag."""

    run_id: RunId
    key: RequiredText
    value: str | None = None


class DeleteTag(msgspec.Struct):
    """POST runs/delete-tag."""

    run_id: RequiredText
    key: RequiredText


class LogBatch(msgspec.Struct):
    """POST runs/log-batch."""

    run_id: RequiredText
    metrics: list[MetricSent] = []
    params: list[ParamSent] = []
    tags: list[TagSent] = []


async def log_metric(request: Request) -> Response:
    """One metric point: an event of the points lane."""
    asked = await decode(request, LogMetric)
    block = await _block(request, [asked], "")
    services = services_of(request)
    await services.gate.require_active(asked.run_id)
    await services.writer.append(new_event(request, POINTS_LOGGED, asked.run_id, block))
    return json_answer({})


async def log_param(request: Request) -> Response:
    """One param, set once for ever."""
    asked = await decode(request, LogParam)
    await _log_texts(request, asked.run_id, params=_params([ParamSent(asked.key, asked.value)]))
    return json_answer({})


async def set_tag(request: Request) -> Response:
    """One tag, set or overwritten."""
    asked = await decode(request, SetTag)
    check_key(asked.key, "tag", "key")
    tag = RunTag(asked.key, tag_value(asked.key, asked.value))
    await _log_texts(request, asked.run_id, given=[tag])
    return json_answer({})


async def delete_tag(request: Request) -> Response:
    """One tag removed."""
    asked = await decode(request, DeleteTag)
    services = services_of(request)
    await services.gate.require_active(asked.run_id)
    await services.views.at_door(check_has_tag, asked.run_id, asked.key)
    deleted = new_event(request, RUN_TAG_DELETED, asked.run_id, RunTagDeleted(asked.key))
    await services.writer.decide(deleted)
    return json_answer({})


async def log_batch(request: Request) -> Response:
    """Metrics, params and tags, all or nothing."""
    asked = await decode(request, LogBatch, body_bytes_max=BATCH_BYTES_MAX)
    check_run_id(asked.run_id)
    _check_batch_size(asked)
    block = await _block(request, asked.metrics, "metrics[{}].") if asked.metrics else None
    params = _params(asked.params)
    given = checked_tags(asked.tags)
    if params or given:
        await _log_texts(request, asked.run_id, params, given, block)
    else:
        services = services_of(request)
        await services.gate.require_active(asked.run_id)
        if block is not None:
            await services.writer.append(new_event(request, POINTS_LOGGED, asked.run_id, block))
    return json_answer({})


def _check_batch_size(asked: LogBatch) -> None:
    counts = (
        ("metrics", len(asked.metrics), BATCH_METRICS_MAX),
        ("params", len(asked.params), BATCH_PARAMS_MAX),
        ("tags", len(asked.tags), BATCH_TAGS_MAX),
        (
            "metrics, params and tags together",
            len(asked.metrics) + len(asked.params) + len(asked.tags),
            BATCH_TOTAL_MAX,
        ),
    )
    for what, count, maximum in counts:
        if count > maximum:
            raise InvalidParameterValue(
                f"A batch logging request can contain at most {maximum} {what}. Got {count}. "
                "Please split them into several requests."
            )


def _params(sent: list[ParamSent]) -> list[Param]:
    """The params, checked and cut to their length."""
    found = []
    for place, param in enumerate(sent):
        check_key(param.key, "param", f"params[{place}].key")
        found.append(Param(param.key, (param.value or "")[:PARAM_VALUE_LENGTH_MAX]))
    check_unique((param.key for param in found), "parameter")
    return found


async def _block(request: Request, sent: Sequence[MetricSent | LogMetric], path: str) -> Block:
    """The points as columns, checked; `path` says where one was sent ("metrics[3].").

    Works on whole columns, for this is where a training's points pass: a key is checked once a
    batch, not once a point.
    """
    keys = [metric.key for metric in sent]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    for key in places:
        check_key(key, "metric", f"{path.format(keys.index(key))}key")
    timestamps = [metric.timestamp for metric in sent]
    if min(timestamps) < 0:
        place = next(place for place, time in enumerate(timestamps) if time < 0)
        raise InvalidParameterValue(
            f"Invalid value {timestamps[place]} for parameter '{path.format(place)}timestamp': a "
            "timestamp is milliseconds since the epoch and can't be negative."
        )
    if any(m.model_id or m.dataset_name or m.dataset_digest for m in sent):
        series, index = await _measured_on(request, sent)
    else:
        series, index = [Series(key) for key in places], list(map(places.__getitem__, keys))
    return Block(
        series,
        np.array(index, np.uint32),
        np.array([metric.step or 0 for metric in sent], np.int64),
        np.array(timestamps, np.int64),
        np.array([metric.value for metric in sent], np.float64),
    )


async def _measured_on(
    request: Request, sent: Sequence[MetricSent | LogMetric]
) -> tuple[list[Series], list[int]]:
    """The series of points on models and datasets, once it is sure that what they name is named in
    full and there."""
    if any(bool(metric.dataset_name) != bool(metric.dataset_digest) for metric in sent):
        raise InvalidParameterValue(
            "Both dataset_name and dataset_digest must be provided if one is provided."
        )
    models = {metric.model_id for metric in sent if metric.model_id}
    if models:
        await services_of(request).gate.require_models(models)
    series = [
        Series(m.key, m.model_id or None, m.dataset_name or None, m.dataset_digest or None)
        for m in sent
    ]
    places = {one: place for place, one in enumerate(dict.fromkeys(series))}
    return list(places), [places[one] for one in series]


async def _log_texts(
    request: Request,
    run_id: str,
    params: list[Param] | None = None,
    given: list[RunTag] | None = None,
    block: Block | None = None,
) -> None:
    """One journal event with params, tags and points; its verdict is the answer."""
    services = services_of(request)
    lifecycle = await services.gate.require_active(run_id)
    if params:
        await _check_params(services, run_id, params)
    points = [] if block is None else points_of(block)
    batch = RunBatchLogged(params or [], given or [], points)
    event = new_event(request, RUN_BATCH_LOGGED, run_id, batch)
    await services.writer.decide(event, Claim(lifecycle, params or []))


async def _check_params(services: Services, run_id: str, params: list[Param]) -> None:
    """Refuses params that are set to other values, as far as can be known beforehand."""
    foresight = services.writer.foresight
    if not foresight.check(run_id, params):
        folded, stored = await services.views.at_door(checked_params, run_id, params)
        foresight.learn(run_id, folded, stored)


class PlainMetric(msgspec.Struct, gc=False):
    """A metric point as most are sent."""

    key: RequiredText
    value: Double
    timestamp: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    step: Int64 | None = None


class PlainBatch(msgspec.Struct):
    """A log-batch of nothing but plain metrics."""

    run_id: RequiredText
    metrics: list[PlainMetric]


class PlainLogMetric(msgspec.Struct):
    """A log-metric of a plain metric."""

    run_id: RequiredText
    key: RequiredText
    value: Double
    timestamp: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    step: Int64 | None = None


def quick_metric(services: Services, body: bytes, client: str | None) -> NewEvent | None:
    """The event of a log-metric; None or an error where that needs more than a look."""
    asked = decode_body_quickly(body, PlainLogMetric)
    if asked is None or not services.gate.is_known_active(asked.run_id):
        return None
    check_key(asked.key, "metric", "key")
    data = encode_columns(
        (asked.key,), (0,), (asked.step or 0,), (asked.timestamp,), (asked.value,)
    )
    return POINTS_LOGGED.holding(asked.run_id, data, time=now_ms(), origin=client)


def quick_batch(services: Services, body: bytes, client: str | None) -> NewEvent | None:
    """The event of a log-batch of metrics; None or an error where that needs more than a look."""
    asked = decode_body_quickly(body, PlainBatch)
    if asked is None or not services.gate.is_known_active(asked.run_id):
        return None
    sent = asked.metrics
    if not 0 < len(sent) <= BATCH_METRICS_MAX:
        return None
    keys = [metric.key for metric in sent]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    for key in places:
        check_key(key, "metric", "key")
    data = encode_columns(
        list(places),
        list(map(places.__getitem__, keys)),
        [metric.step or 0 for metric in sent],
        [metric.timestamp for metric in sent],
        [metric.value for metric in sent],
    )
    return POINTS_LOGGED.holding(asked.run_id, data, time=now_ms(), origin=client)


QUICK: dict[str, Callable[[Services, bytes, str | None], NewEvent | None]] = {
    f"{PREFIX}/log-metric": quick_metric,
    f"{PREFIX}/log-batch": quick_batch,
}
"""What api/express.py may ask before a request is taken the ordinary way."""

ROUTES = [
    Route(f"{PREFIX}/log-metric", log_metric, methods=["POST"]),
    Route(f"{PREFIX}/log-parameter", log_param, methods=["POST"]),
    Route(f"{PREFIX}/set-tag", set_tag, methods=["POST"]),
    Route(f"{PREFIX}/delete-tag", delete_tag, methods=["POST"]),
    Route(f"{PREFIX}/log-batch", log_batch, methods=["POST"]),
]
