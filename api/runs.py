"""Runs: create, update, delete, restore, get, search, and everything that is logged to them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import EMPTY, json_answer, key_values, without_empty
from api.foresight import Claim
from api.limits import (
    RUN_NAME_LENGTH_MAX,
    check_experiment_id,
    check_length,
    check_max_results,
)
from api.names import new_run_id, random_name
from api.requests import Int32, Int64, RequiredText, RunId, choices, decode
from api.run_inputs import inputs_json, outputs_json
from api.run_tags import TagSent, checked_tags
from api.services import new_event, services_of
from events.artifact_uris import join_uri
from events.errors import InvalidParameterValue
from events.runs import (
    RUN_CREATED,
    RUN_DELETED,
    RUN_RESTORED,
    RUN_UPDATED,
    RunCreated,
    RunDeleted,
    RunRestored,
    RunTag,
    RunUpdated,
)
from projections.page_tokens import PageQuery, read_page_token, write_page_token
from projections.run_documents import (
    NO_ELEMENTS,
    NO_INPUTS,
    RunDocument,
    get_document,
    search_documents,
)
from projections.runs import RUN_NAME_TAG, created_row, get_row

PREFIX = "/api/2.0/mlflow/runs"
SEARCH_DEFAULT, SEARCH_MAX = 1_000, 50_000

Status = Annotated[str, choices(RUNNING=1, SCHEDULED=2, FINISHED=3, FAILED=4, KILLED=5)]
ViewType = Annotated[str, choices(ACTIVE_ONLY=1, DELETED_ONLY=2, ALL=3)]


class CreateRun(msgspec.Struct):
    """POST runs/create."""

    experiment_id: str | None = None
    user_id: str | None = None
    run_name: str | None = None
    start_time: Int64 | None = None
    tags: list[TagSent] = []


class UpdateRun(msgspec.Struct):
    """POST runs/update."""

    run_id: RunId
    status: Status | None = None
    end_time: Int64 | None = None
    run_name: str | None = None


class OneRun(msgspec.Struct):
    """The requests that name a run by `run_id` or `run_uuid`."""

    run_id: RunId


class NamedRun(msgspec.Struct):
    """The requests that name a run by `run_id` alone."""

    run_id: RequiredText


class SearchRuns(msgspec.Struct):
    """POST runs/search."""

    experiment_ids: list[str] = []
    filter: str | None = None
    run_view_type: ViewType | None = None
    max_results: Int32 | None = None
    order_by: list[str] = []
    page_token: str | None = None


async def create_run(request: Request) -> Response:
    """A new run with a name, a random one where none is given."""
    asked = await decode(request, CreateRun)
    services = services_of(request)
    if not asked.experiment_id:
        raise InvalidParameterValue("Missing value for required parameter 'experiment_id'.")
    check_experiment_id(asked.experiment_id)
    given = checked_tags(asked.tags)
    name = _run_name(asked.run_name, given)
    location, lifecycle = await services.gate.artifact_location(asked.experiment_id)
    run_id = new_run_id()
    # An empty name is none: its tag says the one that the run got.
    given = [*(tag for tag in given if tag.key != RUN_NAME_TAG), RunTag(RUN_NAME_TAG, name)]
    created = RunCreated(
        asked.experiment_id,
        name,
        asked.user_id or "",
        asked.start_time or 0,
        join_uri(location, run_id, "artifacts"),
        given,
    )
    claim = Claim(lifecycle, creates=True)
    event = new_event(request, RUN_CREATED, run_id, created)
    position = await services.writer.decide(event, claim)
    # The verdict says that the run is as the event made it: there is nothing to read.
    services.gate.opened(run_id, position)
    ordered = sorted((tag.key, tag.value) for tag in given)
    data = without_empty({"tags": key_values(ordered)})
    info = info_json(created_row(run_id, created))
    return json_answer({"run": {"info": info, "data": data, "inputs": {}}})


def _run_name(asked: str | None, given: list[RunTag]) -> str:
    tagged = next((tag.value for tag in given if tag.key == RUN_NAME_TAG), None)
    if asked and tagged and asked != tagged:
        raise InvalidParameterValue(
            f"Both 'run_name' ({asked!r}) and the tag {RUN_NAME_TAG!r} ({tagged!r}) were given, "
            "with different values. Give one of them."
        )
    name = asked or tagged or random_name()
    check_length(name, RUN_NAME_LENGTH_MAX, "run_name")
    return name


async def update_run(request: Request) -> Response:
    """Another status, end time or name."""
    asked = await decode(request, UpdateRun)
    services = services_of(request)
    if asked.run_name is not None:
        check_length(asked.run_name, RUN_NAME_LENGTH_MAX, "run_name")
    await services.gate.require_active(asked.run_id)
    updated = RunUpdated(asked.status, asked.end_time, asked.run_name or None)
    await services.writer.decide(new_event(request, RUN_UPDATED, asked.run_id, updated))
    row = await services.views.now(get_row, asked.run_id)
    return json_answer({"run_info": info_json(row)})


async def delete_run(request: Request) -> Response:
    """The deleted stage, from which it can be restored."""
    asked = await decode(request, NamedRun)
    services = services_of(request)
    await services.views.at_door(get_row, asked.run_id)
    await services.writer.decide(new_event(request, RUN_DELETED, asked.run_id, RunDeleted()))
    return json_answer({})


async def restore_run(request: Request) -> Response:
    """Active again."""
    asked = await decode(request, NamedRun)
    services = services_of(request)
    await services.views.at_door(get_row, asked.run_id)
    await services.writer.decide(new_event(request, RUN_RESTORED, asked.run_id, RunRestored()))
    return json_answer({})


async def get_run(request: Request) -> Response:
    """The whole run."""
    asked = await decode(request, OneRun)
    document = await services_of(request).views.read(get_document, asked.run_id)
    return json_answer({"run": run_json(document)})


async def search_runs(request: Request) -> Response:
    """A page of the runs that a filter finds."""
    asked = await decode(request, SearchRuns)
    services = services_of(request)
    for experiment_id in asked.experiment_ids:
        check_experiment_id(experiment_id, "experiment_ids")
    limit = check_max_results(asked.max_results, SEARCH_DEFAULT, SEARCH_MAX)
    view = asked.run_view_type or "ACTIVE_ONLY"
    query = PageQuery(
        "runs/search", "", (sorted(asked.experiment_ids), asked.filter or "", asked.order_by, view)
    )
    secret = services.log.identity.secret
    found, next_after = await services.views.read(
        search_documents,
        experiment_ids=asked.experiment_ids,
        filter_text=asked.filter,
        order_by=asked.order_by,
        view=view,
        limit=limit,
        after=read_page_token(secret, query, asked.page_token),
    )
    answer: dict[str, Any] = {"runs": [run_json(document) for document in found]}
    if next_after is not None:
        answer["next_page_token"] = write_page_token(secret, query, next_after)
    return json_answer(without_empty(answer))


def info_json(row: dict[str, Any]) -> dict[str, Any]:
    """A run's `info` as MLflow answers it."""
    info = {
        "run_uuid": row["run_id"],
        "experiment_id": row["experiment_id"],
        "run_name": row["name"],
        "user_id": row["user_id"],
        "status": row["status"],
        "start_time": row["start_time"],
        "end_time": row["end_time"],
        "artifact_uri": row["artifact_uri"],
        "lifecycle_stage": row["lifecycle_stage"],
        "run_id": row["run_id"],
    }
    if not row["end_time"]:
        # Protobuf leaves a zero out, and clients read its absence as "not ended".
        del info["end_time"]
    return info


def run_json(document: RunDocument) -> dict[str, Any]:
    """A whole run as MLflow answers it."""
    data: dict[str, msgspec.Raw] = {}
    if document.metrics != NO_ELEMENTS:
        data["metrics"] = msgspec.Raw(document.metrics)
    if document.params != NO_ELEMENTS:
        data["params"] = msgspec.Raw(document.params)
    if document.tags != NO_ELEMENTS:
        data["tags"] = msgspec.Raw(document.tags)
    has_more = document.inputs is not NO_INPUTS or document.outputs
    return {
        "info": info_json(document.info),
        "data": data,
        "inputs": inputs_json(document.inputs) if has_more else EMPTY,
        "outputs": outputs_json(document.outputs) if has_more else EMPTY,
    }


ROUTES = [
    Route(f"{PREFIX}/create", create_run, methods=["POST"]),
    Route(f"{PREFIX}/update", update_run, methods=["POST"]),
    Route(f"{PREFIX}/delete", delete_run, methods=["POST"]),
    Route(f"{PREFIX}/restore", restore_run, methods=["POST"]),
    Route(f"{PREFIX}/get", get_run, methods=["GET"]),
    Route(f"{PREFIX}/search", search_runs, methods=["POST"]),
]
