"""What a run took in and what came out of it, and the datasets of experiments."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer, without_empty
from api.limits import check_experiment_id, check_length, check_run_id, check_unique
from api.requests import Int64, RequiredText, decode
from api.services import new_event, services_of
from events.datasets import (
    RUN_INPUTS_LOGGED,
    RUN_OUTPUTS_LOGGED,
    DatasetInput,
    InputTag,
    ModelOutput,
    RunInputsLogged,
    RunOutputsLogged,
)
from events.errors import InvalidParameterValue
from projections.datasets import DatasetSummary, search_datasets
from projections.logged_models import check_outputs

RUNS = "/api/2.0/mlflow/runs"
EXPERIMENTS = "/api/2.0/mlflow/experiments"

BODY_BYTES_MAX = 64_000_000
"""One dataset may bring a profile of 16 million characters, each of up to four bytes."""
INPUTS_MAX = 1_000
EXPERIMENTS_MAX = 20

NAME_LENGTH_MAX = 500
DIGEST_LENGTH_MAX = 36
SOURCE_TYPE_LENGTH_MAX = 36
SOURCE_LENGTH_MAX = 65_535
SCHEMA_LENGTH_MAX = 1_048_575
PROFILE_LENGTH_MAX = 16_777_215
INPUT_TAG_KEY_LENGTH_MAX = 255
INPUT_TAG_VALUE_LENGTH_MAX = 500


class InputTagSent(msgspec.Struct):
    """A tag of an input as a client sends it."""

    key: RequiredText
    value: str | None = None


class DatasetSent(msgspec.Struct):
    """A dataset as a client sends it. The digest and the source must be there, but may be empty."""

    name: RequiredText
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None


class DatasetInputSent(msgspec.Struct):
    """A dataset with the tags of its use."""

    dataset: DatasetSent
    tags: list[InputTagSent] = []


class ModelInputSent(msgspec.Struct):
    """A logged model that a run used."""

    model_id: RequiredText


class ModelOutputSent(msgspec.Struct):
    """A logged model that a run made."""

    model_id: RequiredText
    step: Int64 | None = None


class LogInputs(msgspec.Struct):
    """POST runs/log-inputs."""

    run_id: RequiredText
    datasets: list[DatasetInputSent] = []
    models: list[ModelInputSent] = []


class LogOutputs(msgspec.Struct):
    """POST runs/outputs."""

    run_id: RequiredText
    models: list[ModelOutputSent]


class SearchDatasets(msgspec.Struct):
    """POST experiments/search-datasets."""

    experiment_ids: list[str] = []


async def log_inputs(request: Request) -> Response:
    """Datasets and models as inputs of a run."""
    asked = await decode(request, LogInputs, body_bytes_max=BODY_BYTES_MAX)
    check_run_id(asked.run_id)
    _check_count(len(asked.datasets), "datasets")
    _check_count(len(asked.models), "models")
    inputs = RunInputsLogged(
        [_dataset(sent, f"datasets[{place}]") for place, sent in enumerate(asked.datasets)],
        [model.model_id for model in asked.models],
    )
    services = services_of(request)
    await services.gate.require_active(asked.run_id)
    if inputs.datasets or inputs.models:
        await services.writer.decide(new_event(request, RUN_INPUTS_LOGGED, asked.run_id, inputs))
    return json_answer({})


def _check_count(count: int, what: str) -> None:
    if count > INPUTS_MAX:
        raise InvalidParameterValue(
            f"A request can log at most {INPUTS_MAX} {what} as inputs. Got {count}. "
            "Please split them into several requests."
        )


def _dataset(sent: DatasetInputSent, path: str) -> DatasetInput:
    dataset = sent.dataset
    lengths = (
        ("name", dataset.name, NAME_LENGTH_MAX),
        ("digest", dataset.digest, DIGEST_LENGTH_MAX),
        ("source_type", dataset.source_type, SOURCE_TYPE_LENGTH_MAX),
        ("source", dataset.source, SOURCE_LENGTH_MAX),
        ("schema", dataset.schema or "", SCHEMA_LENGTH_MAX),
        ("profile", dataset.profile or "", PROFILE_LENGTH_MAX),
    )
    for name, value, maximum in lengths:
        check_length(value, maximum, f"{path}.dataset.{name}")
    tags = []
    for place, tag in enumerate(sent.tags):
        value = tag.value or ""
        check_length(tag.key, INPUT_TAG_KEY_LENGTH_MAX, f"{path}.tags[{place}].key")
        check_length(value, INPUT_TAG_VALUE_LENGTH_MAX, f"{path}.tags[{place}].value")
        tags.append(InputTag(tag.key, value))
    check_unique((tag.key for tag in tags), "tag")
    return DatasetInput(
        dataset.name,
        dataset.digest,
        dataset.source_type,
        dataset.source,
        dataset.schema,
        dataset.profile,
        tags,
    )


async def log_outputs(request: Request) -> Response:
    """Models as outputs of a run."""
    asked = await decode(request, LogOutputs)
    services = services_of(request)
    _check_count(len(asked.models), "models")
    check_unique((model.model_id for model in asked.models), "model")
    await services.gate.require_active(asked.run_id)
    models = [ModelOutput(model.model_id, model.step or 0) for model in asked.models]
    if models:
        await services.views.at_door(check_outputs, asked.run_id, models)
        logged = new_event(request, RUN_OUTPUTS_LOGGED, asked.run_id, RunOutputsLogged(models))
        await services.writer.decide(logged)
    return json_answer({})


async def search(request: Request) -> Response:
    """The datasets that runs of these experiments have as inputs."""
    asked = await decode(request, SearchDatasets)
    if not asked.experiment_ids:
        raise InvalidParameterValue(
            "Missing value for required parameter 'experiment_ids': name at least one experiment."
        )
    if len(asked.experiment_ids) > EXPERIMENTS_MAX:
        raise InvalidParameterValue(
            f"The datasets of at most {EXPERIMENTS_MAX} experiments can be asked for at once, "
            f"not of {len(asked.experiment_ids)}."
        )
    for place, experiment_id in enumerate(asked.experiment_ids):
        check_experiment_id(experiment_id, f"experiment_ids[{place}]")
    found = await services_of(request).views.read(search_datasets, asked.experiment_ids)
    return json_answer(
        without_empty({"dataset_summaries": [_summary_json(summary) for summary in found]})
    )


def _summary_json(summary: DatasetSummary) -> dict[str, str]:
    return without_empty(
        {
            "experiment_id": summary.experiment_id,
            "name": summary.name,
            "digest": summary.digest,
            "context": summary.context or None,
        }
    )


ROUTES = [
    Route(f"{RUNS}/log-inputs", log_inputs, methods=["POST"]),
    Route(f"{RUNS}/outputs", log_outputs, methods=["POST"]),
    Route(f"{EXPERIMENTS}/search-datasets", search, methods=["POST"]),
]
