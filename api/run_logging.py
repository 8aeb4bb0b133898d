"""What is logged to a run: metrics, params and tags, one by one or in batches."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer
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
from api.requests import Double, Int64, RequiredText, RunId, decode
from api.run_tags import TagSent, checked_tags, tag_value
from api.services import new_event, services_of
from events.codec import Series, make_block
from events.errors import InvalidParameterValue
from events.metrics import POINTS_LOGGED, points_of
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_TAG_DELETED,
    Param,
    RunBatchLogged,
    RunTag,
    RunTagDeleted,
)
from projections.runs import conflicting_param, missing_tag, tags, texts_of

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
    check_key(asked.key, "metric", "key")
    _check_timestamp(asked.timestamp, "timestamp")
    await services_of(request).gate.require_active(asked.run_id)
    await _append_points(request, asked.run_id, [asked])
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
    stored = await services.views.read(texts_of, tags, [asked.run_id])
    if asked.key not in dict(stored[asked.run_id]):
        raise missing_tag(asked.run_id, asked.key)
    deleted = new_event(request, RUN_TAG_DELETED, asked.run_id, RunTagDeleted(asked.key))
    await services.writer.decide(deleted)
    return json_answer({})


async def log_batch(request: Request) -> Response:
    """Metrics, params and tags, all or nothing."""
    asked = await decode(request, LogBatch, body_bytes_max=BATCH_BYTES_MAX)
    check_run_id(asked.run_id)
    _check_batch_size(asked)
    for place, metric in enumerate(asked.metrics):
        check_key(metric.key, "metric", f"metrics[{place}].key")
        if metric.timestamp < 0:
            _check_timestamp(metric.timestamp, f"metrics[{place}].timestamp")
    params = _params(asked.params)
    given = checked_tags(asked.tags)
    if params or given:
        await _log_texts(request, asked.run_id, params, given, asked.metrics)
    else:
        await services_of(request).gate.require_active(asked.run_id)
        if asked.metrics:
            await _append_points(request, asked.run_id, asked.metrics)
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


def _check_timestamp(timestamp: int, path: str) -> None:
    if timestamp < 0:
        raise InvalidParameterValue(
            f"Invalid value {timestamp} for parameter '{path}': a timestamp is milliseconds since "
            "the epoch and can't be negative."
        )


def _params(sent: list[ParamSent]) -> list[Param]:
    """The params, checked and cut to their length."""
    found = []
    for place, param in enumerate(sent):
        check_key(param.key, "param", f"params[{place}].key")
        found.append(Param(param.key, (param.value or "")[:PARAM_VALUE_LENGTH_MAX]))
    check_unique((param.key for param in found), "parameter")
    return found


async def _points(
    request: Request, sent: list[MetricSent] | list[LogMetric]
) -> list[tuple[Series, int, int, float]]:
    """The points, once it is sure that what they were measured on is named in full and there."""
    if any(bool(metric.dataset_name) != bool(metric.dataset_digest) for metric in sent):
        raise InvalidParameterValue(
            "Both dataset_name and dataset_digest must be provided if one is provided."
        )
    models = {metric.model_id for metric in sent if metric.model_id}
    if models:
        await services_of(request).gate.require_models(models)
    return [
        (
            Series(
                metric.key,
                metric.model_id or None,
                metric.dataset_name or None,
                metric.dataset_digest or None,
            ),
            metric.step or 0,
            metric.timestamp,
            metric.value,
        )
        for metric in sent
    ]


async def _append_points(
    request: Request, run_id: str, sent: list[MetricSent] | list[LogMetric]
) -> None:
    block = make_block(await _points(request, sent))
    await services_of(request).writer.append(new_event(request, POINTS_LOGGED, run_id, block))


async def _log_texts(
    request: Request,
    run_id: str,
    params: list[Param] | None = None,
    given: list[RunTag] | None = None,
    metrics: list[MetricSent] | None = None,
) -> None:
    """One journal event with params, tags and points; its verdict is the answer."""
    services = services_of(request)
    await services.gate.require_active(run_id)
    if params:
        refusal = await services.views.read(conflicting_param, run_id, params)
        if refusal is not None:
            raise refusal
    points = points_of(make_block(await _points(request, metrics))) if metrics else []
    batch = RunBatchLogged(params or [], given or [], points)
    await services.writer.decide(new_event(request, RUN_BATCH_LOGGED, run_id, batch))


ROUTES = [
    Route(f"{PREFIX}/log-metric", log_metric, methods=["POST"]),
    Route(f"{PREFIX}/log-parameter", log_param, methods=["POST"]),
    Route(f"{PREFIX}/set-tag", set_tag, methods=["POST"]),
    Route(f"{PREFIX}/delete-tag", delete_tag, methods=["POST"]),
    Route(f"{PREFIX}/log-batch", log_batch, methods=["POST"]),
]
