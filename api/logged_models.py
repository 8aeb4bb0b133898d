"""Logged models: create, finalize, params, tags, get, search, delete, and their files."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer, json_number, key_values, without_empty
from api.limits import check_experiment_id, check_length, check_max_results, check_unique
from api.names import new_model_id, random_name
from api.requests import Int32, RequiredText, choices, decode, parse_json
from api.services import new_event, now_ms, services_of
from api.transfers import list_answer, stream_file
from events.artifact_uris import join_uri
from events.blobs import BlobStore, safe_path
from events.errors import BadRequest, InvalidParameterValue
from events.event import EventType
from events.logged_models import (
    LOGGED_MODEL_CREATED,
    LOGGED_MODEL_DELETED,
    LOGGED_MODEL_FINALIZED,
    LOGGED_MODEL_PARAMS_LOGGED,
    LOGGED_MODEL_TAG_DELETED,
    LOGGED_MODEL_TAGS_SET,
    RUN_MODEL_LOGGED,
    LoggedModelCreated,
    LoggedModelDeleted,
    LoggedModelFinalized,
    LoggedModelParamsLogged,
    LoggedModelTagDeleted,
    LoggedModelTagsSet,
    ModelParam,
    ModelStatus,
    ModelTag,
    RunModelLogged,
)
from projections.logged_models import (
    check_has_model_tag,
    check_model_params,
    extended_history,
    get_model_row,
    history_of,
)
from projections.model_documents import (
    ModelDocument,
    get_model,
    search_models,
)
from projections.page_tokens import PageQuery, read_page_token, write_page_token
from projections.search import Dataset
from projections.state import Row

MODELS = "/api/2.0/mlflow/logged-models"

SEARCH_DEFAULT, SEARCH_MAX = 50, 1_000
NAME_LENGTH_MAX = 500
MODEL_TYPE_LENGTH_MAX = 500
RUN_ID_LENGTH_MAX = 256
KEY_LENGTH_MAX = 255
HISTORY_FIELDS = ("artifact_path", "flavors", "utc_time_created", "run_id")
_NOT_IN_NAMES = re.compile(r"""[/:.%"'\x00-\x1f\x7f]""")

FinalStatus = Annotated[
    str, choices(LOGGED_MODEL_PENDING=1, LOGGED_MODEL_READY=2, LOGGED_MODEL_UPLOAD_FAILED=3)
]
STATUS_BY_WIRE: dict[str, ModelStatus] = {
    "LOGGED_MODEL_PENDING": "PENDING",
    "LOGGED_MODEL_READY": "READY",
    "LOGGED_MODEL_UPLOAD_FAILED": "FAILED",
}
WIRE_BY_STATUS = {status: wire for wire, status in STATUS_BY_WIRE.items()}


class TextSent(msgspec.Struct):
    """A param or tag as a client sends it."""

    key: RequiredText
    value: str | None = None


class CreateModel(msgspec.Struct):
    """POST logged-models."""

    experiment_id: RequiredText
    name: str | None = None
    model_type: str | None = None
    source_run_id: str | None = None
    params: list[TextSent] = []
    tags: list[TextSent] = []


class FinalizeModel(msgspec.Struct):
    """PATCH logged-models/{model_id}; MLflow's clients send the id in the body too."""

    model_id: RequiredText
    status: FinalStatus


class LogModelParams(msgspec.Struct):
    """POST logged-models/{model_id}/params; MLflow's clients send the id in the body too."""

    model_id: RequiredText
    params: list[TextSent] = []


class SetModelTags(msgspec.Struct):
    """PATCH logged-models/{model_id}/tags."""

    tags: list[TextSent] = []


class DatasetSent(msgspec.Struct):
    """A dataset that metrics of a search must belong to."""

    dataset_name: RequiredText
    dataset_digest: str | None = None


class OrderSent(msgspec.Struct):
    """One key that the models of a search are sorted by."""

    field_name: RequiredText
    ascending: bool | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class SearchModels(msgspec.Struct):
    """POST logged-models/search."""

    experiment_ids: list[str]
    filter: str | None = None
    datasets: list[DatasetSent] = []
    max_results: Int32 | None = None
    order_by: list[OrderSent] = []
    page_token: str | None = None


class LogRunModel(msgspec.Struct):
    """POST runs/log-model, from clients older than logged models."""

    run_id: RequiredText
    model_json: RequiredText


class ListModelFiles(msgspec.Struct):
    """GET logged-models/{model_id}/artifacts/directories."""

    artifact_directory_path: str | None = None
    page_token: str | None = None


async def create_model(request: Request) -> Response:
    """A new model, PENDING until it is finalized, with a random name where none is given."""
    asked = await decode(request, CreateModel)
    check_experiment_id(asked.experiment_id)
    name = asked.name or random_name()
    _check_name(name)
    check_length(asked.model_type or "", MODEL_TYPE_LENGTH_MAX, "model_type")
    check_length(asked.source_run_id or "", RUN_ID_LENGTH_MAX, "source_run_id")
    params, tags = _checked(asked.params, "params"), _checked(asked.tags, "tags")
    check_unique((param.key for param in params), "parameter")
    check_unique((tag.key for tag in tags), "tag")
    services = services_of(request)
    location, _ = await services.gate.artifact_location(asked.experiment_id)
    services.writer.require_folding()
    model_id, time_ms = new_model_id(), now_ms()
    created = LoggedModelCreated(
        asked.experiment_id,
        name,
        join_uri(location, "models", model_id, "artifacts"),
        time_ms,
        asked.source_run_id or "",
        asked.model_type or "",
        [ModelParam(param.key, param.value or "") for param in params],
        [ModelTag(tag.key, tag.value or "") for tag in tags],
    )
    event = new_event(request, LOGGED_MODEL_CREATED, model_id, created, time_ms)
    await services.writer.decide(event)
    return await _answer_written(request, model_id)


def _check_name(name: str) -> None:
    check_length(name, NAME_LENGTH_MAX, "name")
    if _NOT_IN_NAMES.search(name):
        raise InvalidParameterValue(
            f"Invalid model name ({name!r}) provided. A model's name may not contain any of "
            "/ : . % \" ' or control characters."
        )


def _checked(sent: list[TextSent], path: str) -> list[TextSent]:
    for place, text in enumerate(sent):
        check_length(text.key, KEY_LENGTH_MAX, f"{path}[{place}].key")
    return sent


async def finalize_model(request: Request) -> Response:
    """Another status; any may follow any other."""
    asked = await decode(request, FinalizeModel)
    model_id = _model_id(request, asked.model_id)
    await services_of(request).views.at_door(get_model_row, model_id, allow_deleted=True)
    finalized = LoggedModelFinalized(STATUS_BY_WIRE[asked.status])
    await _decide(request, LOGGED_MODEL_FINALIZED, model_id, finalized)
    return await _answer_written(request, model_id)


def _model_id(request: Request, in_body: str | None = None) -> str:
    """The model that the path names; a body that names another is a mistake of the caller's."""
    model_id: str = request.path_params["model_id"]
    if in_body is not None and in_body != model_id:
        raise InvalidParameterValue(
            f"The request's path names the model {model_id[:100]!r}, its body {in_body[:100]!r}."
        )
    return model_id


async def _decide(
    request: Request, event_type: EventType[Any], model_id: str, payload: Any
) -> None:
    await services_of(request).writer.decide(new_event(request, event_type, model_id, payload))


async def log_model_params(request: Request) -> Response:
    """Params of a model, each set once for ever."""
    asked = await decode(request, LogModelParams)
    model_id = _model_id(request, asked.model_id)
    sent = _checked(asked.params, "params")
    check_unique((param.key for param in sent), "parameter")
    params = [ModelParam(param.key, param.value or "") for param in sent]
    await services_of(request).views.at_door(check_model_params, model_id, params)
    if params:
        logged = LoggedModelParamsLogged(params)
        await _decide(request, LOGGED_MODEL_PARAMS_LOGGED, model_id, logged)
    return json_answer({})


async def set_model_tags(request: Request) -> Response:
    """Tags of a model, set or overwritten; of a key that stands twice the last wins."""
    asked = await decode(request, SetModelTags)
    model_id = _model_id(request)
    tags = {tag.key: ModelTag(tag.key, tag.value or "") for tag in _checked(asked.tags, "tags")}
    await services_of(request).views.at_door(get_model_row, model_id, allow_deleted=True)
    if tags:
        await _decide(
            request, LOGGED_MODEL_TAGS_SET, model_id, LoggedModelTagsSet(list(tags.values()))
        )
    return json_answer({})


async def delete_model_tag(request: Request) -> Response:
    """One tag of a model removed."""
    model_id, key = _model_id(request), request.path_params["tag_key"]
    await services_of(request).views.at_door(check_has_model_tag, model_id, key)
    await _decide(request, LOGGED_MODEL_TAG_DELETED, model_id, LoggedModelTagDeleted(key))
    return json_answer({})


async def delete_model(request: Request) -> Response:
    """The deleted stage; its files stay until gc."""
    model_id = _model_id(request)
    await services_of(request).views.at_door(get_model_row, model_id, allow_deleted=True)
    await _decide(request, LOGGED_MODEL_DELETED, model_id, LoggedModelDeleted())
    return json_answer({})


async def answer_model(request: Request) -> Response:
    """One model; a deleted one only with `allow_deleted=true`."""
    allow_deleted = request.query_params.get("allow_deleted", "").lower() == "true"
    document = await services_of(request).views.read(
        get_model, _model_id(request), allow_deleted=allow_deleted
    )
    return json_answer({"model": model_json(document)})


async def _answer_written(request: Request, model_id: str) -> Response:
    """The model that a write has just changed: its verdict says that the views have the change."""
    document = await services_of(request).views.read(get_model, model_id, allow_deleted=True)
    return json_answer({"model": model_json(document)})


async def search(request: Request) -> Response:
    """A page of the experiments' active models."""
    asked = await decode(request, SearchModels)
    for place, experiment_id in enumerate(asked.experiment_ids):
        check_experiment_id(experiment_id, f"experiment_ids[{place}]")
    limit = check_max_results(asked.max_results, SEARCH_DEFAULT, SEARCH_MAX)
    order_by = [_order(order) for order in asked.order_by]
    datasets = [Dataset(sent.dataset_name, sent.dataset_digest or None) for sent in asked.datasets]
    parts = (
        sorted(asked.experiment_ids),
        asked.filter or "",
        [[dataset.name, dataset.digest] for dataset in datasets],
        order_by,
    )
    services = services_of(request)
    query = PageQuery("logged-models/search", "", parts)
    secret = services.log.identity.secret
    models, next_after = await services.views.read(
        search_models,
        experiment_ids=asked.experiment_ids,
        filter_text=asked.filter,
        datasets=datasets,
        order_by=order_by,
        limit=limit,
        after=read_page_token(secret, query, asked.page_token),
    )
    answer: dict[str, Any] = {"models": [model_json(model) for model in models]}
    if next_after is not None:
        answer["next_page_token"] = write_page_token(secret, query, next_after)
    return json_answer(without_empty(answer))


def _order(sent: OrderSent) -> dict[str, Any]:
    """The same for the same order, however it is spelled: page tokens are bound to it."""
    return {
        "field_name": sent.field_name,
        "ascending": sent.ascending is not False,
        "dataset_name": sent.dataset_name or None,
        "dataset_digest": sent.dataset_digest or None,
    }


async def list_model_files(request: Request) -> Response:
    """What is in a folder of a model's files."""
    asked = await decode(request, ListModelFiles)
    folder = safe_path(asked.artifact_directory_path or "")
    uri, store, path = await _files_of_model(request, folder)
    return list_answer(await run_in_threadpool(store.list, path), folder, uri)


async def get_model_file(request: Request) -> Response:
    """One of a model's files, as the UI asks for it."""
    sent = request.query_params.get("artifact_file_path")
    if not sent:
        raise BadRequest('Request must include the "artifact_file_path" query parameter.')
    _, store, path = await _files_of_model(request, safe_path(sent))
    return await stream_file(request, store, path)


async def _files_of_model(request: Request, path: str) -> tuple[str, BlobStore, str]:
    """A model's artifact URI, the store that this is in, and what `path` is called there."""
    services = services_of(request)
    row = await services.views.read(get_model_row, _model_id(request))
    store, where = services.artifacts.locate(row["artifact_location"], path)
    return row["artifact_location"], store, where


async def log_run_model(request: Request) -> Response:
    """Adds a model that lies among a run's artifacts to the run's tag that lists them."""
    asked = await decode(request, LogRunModel)
    logged = RunModelLogged(_history_entry(asked.model_json))
    services = services_of(request)
    await services.gate.require_active(asked.run_id)
    history = await services.views.now(history_of, asked.run_id)
    extended_history(asked.run_id, history, logged.model)
    await services.writer.decide(new_event(request, RUN_MODEL_LOGGED, asked.run_id, logged))
    return json_answer({})


def _history_entry(model_json: str) -> dict[str, Any]:
    """What MLflow keeps of a model's description: where it is, and its flavors without configs."""
    try:
        model = parse_json(model_json)
    except InvalidParameterValue as error:
        raise InvalidParameterValue(f"Malformed model info: {error.message}") from None
    if not isinstance(model, dict):
        raise InvalidParameterValue("Malformed model info: 'model_json' is not a JSON object.")
    missing = [name for name in HISTORY_FIELDS if name not in model]
    if missing:
        raise InvalidParameterValue(
            f"Model json is missing mandatory fields: {', '.join(missing)}."
        )
    flavors = model["flavors"] or {}
    if not isinstance(flavors, dict):
        raise InvalidParameterValue("The 'flavors' of the model json must be an object.")
    created = model["utc_time_created"] or datetime.now(UTC).replace(tzinfo=None)
    return {
        **{key: model[key] for key in ("run_id", "artifact_path") if model[key] is not None},
        "utc_time_created": str(created),
        "model_uuid": model.get("model_uuid"),
        "flavors": {
            name: {key: value for key, value in flavor.items() if key != "config"}
            if isinstance(flavor, dict)
            else flavor
            for name, flavor in flavors.items()
        },
    }


def model_json(document: ModelDocument) -> dict[str, Any]:
    """A model as MLflow answers it."""
    row = document.info
    info = {
        "model_id": row["model_id"],
        "experiment_id": row["experiment_id"],
        "name": row["name"],
        "creation_timestamp_ms": row["creation_timestamp"],
        "last_updated_timestamp_ms": row["last_updated_timestamp"],
        "artifact_uri": row["artifact_location"],
        "status": WIRE_BY_STATUS[row["status"]],
        "model_type": row["model_type"],
        "source_run_id": row["source_run_id"],
        "tags": key_values(document.tags),
    }
    data = {
        "params": key_values(document.params),
        "metrics": [_metric_json(metric) for metric in document.metrics],
    }
    return {"info": without_empty(info), "data": without_empty(data)}


def _metric_json(row: Row) -> dict[str, Any]:
    return without_empty(
        {
            "key": row["key"],
            "value": "NaN" if row["is_nan"] else json_number(row["value"]),
            "timestamp": row["timestamp"],
            "step": row["step"],
            "dataset_name": row["dataset_name"] or None,
            "dataset_digest": row["dataset_digest"] or None,
            "model_id": row["model_id"],
            "run_id": row["run_id"],
        }
    )


ROUTES = [
    Route(MODELS, create_model, methods=["POST"]),
    Route(f"{MODELS}/search", search, methods=["POST"]),
    Route(f"{MODELS}/{{model_id}}", answer_model, methods=["GET"]),
    Route(f"{MODELS}/{{model_id}}", finalize_model, methods=["PATCH"]),
    Route(f"{MODELS}/{{model_id}}", delete_model, methods=["DELETE"]),
    Route(f"{MODELS}/{{model_id}}/params", log_model_params, methods=["POST"]),
    Route(f"{MODELS}/{{model_id}}/tags", set_model_tags, methods=["PATCH"]),
    Route(f"{MODELS}/{{model_id}}/tags/{{tag_key:path}}", delete_model_tag, methods=["DELETE"]),
    Route(f"{MODELS}/{{model_id}}/artifacts/directories", list_model_files, methods=["GET"]),
    Route("/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files", get_model_file),
    Route("/api/2.0/mlflow/runs/log-model", log_run_model, methods=["POST"]),
]
