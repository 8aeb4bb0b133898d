"""Things to be found, and how they are put into the views' own tables, past the log and folds."""

from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from projections.datasets import datasets, input_tags, run_inputs
from projections.experiments import experiment_tags, experiments
from projections.logged_models import (
    logged_model_metrics,
    logged_model_params,
    logged_model_tags,
    logged_models,
)
from projections.metrics import latest_metrics
from projections.runs import params, runs, tags


@dataclass
class Experiment:
    """An experiment to be found."""

    experiment_id: str
    name: str
    artifact_location: str = ""
    lifecycle_stage: str = "active"
    creation_time: int = 0
    last_update_time: int = 0
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Input:
    """A dataset that a run read, perhaps in some context."""

    name: str
    digest: str
    context: str | None = None


@dataclass
class Run:
    """A run to be found."""

    run_id: str
    experiment_id: str = "1"
    name: str = ""
    user_id: str = ""
    status: str = "RUNNING"
    start_time: int = 0
    end_time: int | None = None
    lifecycle_stage: str = "active"
    deleted_time: int | None = None
    artifact_uri: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)


@dataclass
class ModelMetric:
    """One measurement of a logged model."""

    key: str
    timestamp: int
    step: int
    run_id: str
    value: float
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass
class Model:
    """A logged model to be found."""

    model_id: str
    experiment_id: str = "1"
    name: str = ""
    artifact_location: str = ""
    creation_timestamp: int = 0
    last_updated_timestamp: int = 0
    status: str = "READY"
    lifecycle_stage: str = "active"
    model_type: str = ""
    source_run_id: str = ""
    metrics: list[ModelMetric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def columns_of(table: sa.Table, item: Any) -> dict[str, Any]:
    """The row that an item is in its main table."""
    values = asdict(item)
    return {column.name: values[column.name] for column in table.columns}


def _keyed(connection: sa.Connection, table: sa.Table, owner: str, of: dict[str, str]) -> None:
    name = table.columns[0].name
    rows = [{name: owner, "key": key, "value": value} for key, value in of.items()]
    if rows:
        connection.execute(sa.insert(table), rows)


def put_experiment(connection: sa.Connection, item: Experiment) -> None:
    """Inserts an experiment."""
    connection.execute(sa.insert(experiments), columns_of(experiments, item))
    _keyed(connection, experiment_tags, item.experiment_id, item.tags)


def metric_row(run_id: str, key: str, value: float) -> dict[str, Any]:
    """The row of a run's latest metric."""
    return {"run_id": run_id, "key": key, **_as_stored(value), "timestamp": 0, "step": 0}


def _as_stored(value: float) -> dict[str, Any]:
    """A number as the views store it: NaN is 0 and a flag."""
    nan = value != value
    return {"value": 0.0 if nan else value, "is_nan": nan}


def put_run(connection: sa.Connection, item: Run) -> None:
    """Inserts a run."""
    connection.execute(sa.insert(runs), columns_of(runs, item))
    _keyed(connection, params, item.run_id, item.params)
    _keyed(connection, tags, item.run_id, item.tags)
    for key, value in item.metrics.items():
        connection.execute(sa.insert(latest_metrics), metric_row(item.run_id, key, value))
    for place, given in enumerate(item.inputs):
        _put_input(connection, item, given, place)


def _put_input(connection: sa.Connection, run: Run, given: Input, place: int) -> None:
    # No search asks for the contents of a dataset: their id leads nowhere.
    dataset_id = content_id = f"{run.experiment_id}/{given.name}/{given.digest}"
    row = {
        "dataset_id": dataset_id,
        "experiment_id": run.experiment_id,
        "name": given.name,
        "digest": given.digest,
        "content_id": content_id,
    }
    if connection.execute(sa.select(datasets).filter_by(dataset_id=dataset_id)).first() is None:
        connection.execute(sa.insert(datasets), row)
    key = {"run_id": run.run_id, "dataset_id": dataset_id}
    link = {**key, "content_id": content_id, "position": 1, "place": place}
    connection.execute(sa.insert(run_inputs), link)
    if given.context is not None:
        tag = {**key, "key": "mlflow.data.context", "value": given.context}
        connection.execute(sa.insert(input_tags), tag)


def remove_run(connection: sa.Connection, run_id: str) -> None:
    """Deletes a run with all that belongs to it."""
    for table in (runs, params, tags, latest_metrics, run_inputs, input_tags):
        connection.execute(sa.delete(table).where(table.c.run_id == run_id))


def put_model(connection: sa.Connection, item: Model) -> None:
    """Inserts a logged model. No dataset of a metric is stored as the views store it: as ""."""
    connection.execute(sa.insert(logged_models), columns_of(logged_models, item))
    _keyed(connection, logged_model_params, item.model_id, item.params)
    _keyed(connection, logged_model_tags, item.model_id, item.tags)
    for metric in item.metrics:
        row = {
            "model_id": item.model_id,
            **asdict(metric),
            **_as_stored(metric.value),
            "dataset_name": metric.dataset_name or "",
            "dataset_digest": metric.dataset_digest or "",
        }
        connection.execute(sa.insert(logged_model_metrics), row)
