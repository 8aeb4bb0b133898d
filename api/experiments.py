"""Experiments: create, search, get, delete, restore, rename, and their tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer, key_values, without_empty
from api.limits import (
    EXPERIMENT_TAG_VALUE_LENGTH_MAX,
    check_experiment_id,
    check_experiment_name,
    check_key,
    check_length,
    check_max_results,
    check_unique,
)
from api.names import new_experiment_id
from api.requests import Int32, RequiredText, choices, decode
from api.services import Services, active_experiment_row, new_event, now_ms, services_of
from events.artifact_uris import join_uri
from events.errors import (
    BadRequest,
    InvalidParameterValue,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
)
from events.experiments import (
    DEFAULT_EXPERIMENT_ID,
    EXPERIMENT_CREATED,
    EXPERIMENT_DELETED,
    EXPERIMENT_RENAMED,
    EXPERIMENT_RESTORED,
    EXPERIMENT_TAG_DELETED,
    EXPERIMENT_TAG_SET,
    ExperimentCreated,
    ExperimentDeleted,
    ExperimentRenamed,
    ExperimentRestored,
    ExperimentTagDeleted,
    ExperimentTagSet,
    Tag,
)
from projections.experiments import (
    get_experiment,
    get_experiment_by_name,
    name_holder,
    search_experiments,
)
from projections.lifecycle import ACTIVE, inactive_experiment, unknown_experiment
from projections.page_tokens import PageQuery, read_page_token, write_page_token
from projections.state import Row

PREFIX = "/api/2.0/mlflow/experiments"
SEARCH_DEFAULT, SEARCH_MAX = 1_000, 50_000

ViewType = Annotated[str, choices(ACTIVE_ONLY=1, DELETED_ONLY=2, ALL=3)]


class ExperimentTagSent(msgspec.Struct):
    """A tag as a client sends it."""

    key: RequiredText
    value: str | None = None


class CreateExperiment(msgspec.Struct):
    """POST experiments/create."""

    name: RequiredText
    artifact_location: str | None = None
    tags: list[ExperimentTagSent] = []


class OneExperiment(msgspec.Struct):
    """The requests that name one experiment by its id."""

    experiment_id: RequiredText


class ByName(msgspec.Struct):
    """GET experiments/get-by-name."""

    experiment_name: RequiredText


class UpdateExperiment(msgspec.Struct):
    """POST experiments/update."""

    experiment_id: RequiredText
    new_name: RequiredText


class SearchExperiments(msgspec.Struct):
    """GET and POST experiments/search."""

    max_results: Int32 | None = None
    page_token: str | None = None
    filter: str | None = None
    order_by: list[str] = []
    view_type: ViewType | None = None


class SetExperimentTag(msgspec.Struct):
    """POST experiments/set-experiment-tag."""

    experiment_id: RequiredText
    key: RequiredText
    value: str | None = None


class DeleteExperimentTag(msgspec.Struct):
    """POST experiments/delete-experiment-tag."""

    experiment_id: RequiredText
    key: RequiredText


async def create_experiment(request: Request) -> Response:
    """A new experiment; its name must be free, also among the deleted ones."""
    asked = await decode(request, CreateExperiment)
    services = services_of(request)
    check_experiment_name(asked.name, "name")
    check_unique((tag.key for tag in asked.tags), "tag")
    given = []
    for place, tag in enumerate(asked.tags):
        check_key(tag.key, "tag", f"tags[{place}].key")
        value = tag.value or ""
        check_length(value, EXPERIMENT_TAG_VALUE_LENGTH_MAX, f"tags[{place}].value")
        given.append(Tag(tag.key, value))
    experiment_id = new_experiment_id()
    location = _location(services, experiment_id, asked.artifact_location)
    if await services.views.now(name_holder, asked.name) is not None:
        raise ResourceAlreadyExists(f"Experiment(name={asked.name}) already exists.")
    time_ms = now_ms()
    created = ExperimentCreated(asked.name, location, time_ms, given)
    await services.writer.decide(
        new_event(request, EXPERIMENT_CREATED, experiment_id, created, time_ms)
    )
    return json_answer({"experiment_id": experiment_id})


def _location(services: Services, experiment_id: str, asked: str | None) -> str:
    if not asked:
        return join_uri(services.settings.artifact_root, experiment_id)
    services.artifacts.check_location(asked)
    return asked


async def ensure_default_experiment(services: Services) -> None:
    """Appends the creation of experiment 0 to a log that has none."""
    if any(True for _ in services.log.about("journal", DEFAULT_EXPERIMENT_ID)):
        return
    time_ms = now_ms()
    location = join_uri(services.settings.artifact_root, DEFAULT_EXPERIMENT_ID)
    created = ExperimentCreated("Default", location, time_ms)
    await services.writer.append(
        EXPERIMENT_CREATED.new(DEFAULT_EXPERIMENT_ID, created, time=time_ms)
    )


async def _written_to(request: Request, experiment_id: str) -> Row:
    """The experiment that a write is about, in any stage."""
    check_experiment_id(experiment_id)
    return await services_of(request).views.at_door(get_experiment, experiment_id)


async def _active(request: Request, experiment_id: str) -> Row:
    check_experiment_id(experiment_id)
    return await services_of(request).views.at_door(active_experiment_row, experiment_id)


async def get(request: Request) -> Response:
    """One experiment, in any stage."""
    asked = await decode(request, OneExperiment)
    check_experiment_id(asked.experiment_id)
    row = await services_of(request).views.read(get_experiment, asked.experiment_id)
    return json_answer({"experiment": experiment_json(row)})


async def get_by_name(request: Request) -> Response:
    """The experiment of a name, in any stage."""
    asked = await decode(request, ByName)
    row = await services_of(request).views.read(get_experiment_by_name, asked.experiment_name)
    return json_answer({"experiment": experiment_json(row)})


async def delete(request: Request) -> Response:
    """The deleted stage, with all its runs."""
    asked = await decode(request, OneExperiment)
    row = await _written_to(request, asked.experiment_id)
    if row["lifecycle_stage"] != ACTIVE:
        raise unknown_experiment(asked.experiment_id)
    await services_of(request).writer.decide(
        new_event(request, EXPERIMENT_DELETED, asked.experiment_id, ExperimentDeleted())
    )
    return json_answer({})


async def restore(request: Request) -> Response:
    """Active again, with all its runs."""
    asked = await decode(request, OneExperiment)
    row = await _written_to(request, asked.experiment_id)
    if row["lifecycle_stage"] == ACTIVE:
        raise unknown_experiment(asked.experiment_id)
    await services_of(request).writer.decide(
        new_event(request, EXPERIMENT_RESTORED, asked.experiment_id, ExperimentRestored())
    )
    return json_answer({})


async def update(request: Request) -> Response:
    """Another name; one that is taken is a BAD_REQUEST here, as in MLflow."""
    asked = await decode(request, UpdateExperiment)
    services = services_of(request)
    row = await _written_to(request, asked.experiment_id)
    check_experiment_name(asked.new_name, "new_name")
    if row["lifecycle_stage"] != ACTIVE:
        raise inactive_experiment(asked.experiment_id, row["lifecycle_stage"])
    holder = await services.views.now(name_holder, asked.new_name)
    if holder not in (None, asked.experiment_id):
        raise BadRequest(f"Experiment(name={asked.new_name}) already exists.")
    renamed = ExperimentRenamed(asked.new_name)
    await services.writer.decide(
        new_event(request, EXPERIMENT_RENAMED, asked.experiment_id, renamed)
    )
    return json_answer({})


async def set_tag(request: Request) -> Response:
    """A tag of an active experiment, set or overwritten."""
    asked = await decode(request, SetExperimentTag)
    check_key(asked.key, "tag", "key")
    value = asked.value or ""
    check_length(value, EXPERIMENT_TAG_VALUE_LENGTH_MAX, "value")
    await _active(request, asked.experiment_id)
    tag_set = ExperimentTagSet(asked.key, value)
    await services_of(request).writer.decide(
        new_event(request, EXPERIMENT_TAG_SET, asked.experiment_id, tag_set)
    )
    return json_answer({})


async def delete_tag(request: Request) -> Response:
    """A tag removed."""
    asked = await decode(request, DeleteExperimentTag)
    row = await _active(request, asked.experiment_id)
    if asked.key not in row["tags"]:
        raise ResourceDoesNotExist(
            f"No tag with key '{asked.key}' in experiment with ID {asked.experiment_id}"
        )
    await services_of(request).writer.decide(
        new_event(
            request, EXPERIMENT_TAG_DELETED, asked.experiment_id, ExperimentTagDeleted(asked.key)
        )
    )
    return json_answer({})


async def search(request: Request) -> Response:
    """A page of the experiments that a filter finds."""
    asked = await decode(request, SearchExperiments)
    if asked.max_results == 0:
        raise InvalidParameterValue(
            "Invalid value 0 for parameter 'max_results': it must be at least 1 and at most "
            f"{SEARCH_MAX}."
        )
    services = services_of(request)
    limit = check_max_results(asked.max_results, SEARCH_DEFAULT, SEARCH_MAX)
    view = asked.view_type or "ACTIVE_ONLY"
    query = PageQuery("experiments/search", "", (asked.filter or "", asked.order_by, view))
    secret = services.log.identity.secret
    rows, next_after = await services.views.read(
        search_experiments,
        filter_text=asked.filter,
        order_by=asked.order_by,
        view=view,
        limit=limit,
        after=read_page_token(secret, query, asked.page_token),
    )
    answer: dict[str, Any] = {"experiments": experiments_json(rows)}
    if next_after is not None:
        answer["next_page_token"] = write_page_token(secret, query, next_after)
    return json_answer(without_empty(answer))


def experiments_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Experiments as MLflow answers them."""
    return [experiment_json(row) for row in rows]


def experiment_json(row: Row) -> dict[str, Any]:
    """An experiment as MLflow answers it."""
    return without_empty(
        {
            "experiment_id": row["experiment_id"],
            "name": row["name"],
            "artifact_location": row["artifact_location"],
            "lifecycle_stage": row["lifecycle_stage"],
            "last_update_time": row["last_update_time"],
            "creation_time": row["creation_time"],
            "tags": key_values(list(row["tags"].items())),
            "workspace": "default",
        }
    )


ROUTES = [
    Route(f"{PREFIX}/create", create_experiment, methods=["POST"]),
    Route(f"{PREFIX}/search", search, methods=["GET", "POST"]),
    Route(f"{PREFIX}/get", get, methods=["GET"]),
    Route(f"{PREFIX}/get-by-name", get_by_name, methods=["GET"]),
    Route(f"{PREFIX}/delete", delete, methods=["POST"]),
    Route(f"{PREFIX}/restore", restore, methods=["POST"]),
    Route(f"{PREFIX}/update", update, methods=["POST"]),
    Route(f"{PREFIX}/set-experiment-tag", set_tag, methods=["POST"]),
    Route(f"{PREFIX}/delete-experiment-tag", delete_tag, methods=["POST"]),
]
