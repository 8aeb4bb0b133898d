"""Tables as the views have them, how they are searched, and things to put into them.

They are declared here once more, so that these tests are about the search and not about any view.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from projections.filter_language import OrderBy
from projections.search import MetricValues, Searchable, Values

metadata = sa.MetaData()


def _texts(name: str, owner: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column(owner, sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Index(f"{name}_by_value", "key", "value", owner),
        sqlite_with_rowid=False,
    )


experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("lifecycle_stage", sa.Text, nullable=False),
    sa.Column("creation_time", sa.BigInteger, nullable=False),
    sa.Column("last_update_time", sa.BigInteger, nullable=False),
)
experiment_tags = _texts("experiment_tags", "experiment_id")

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("start_time", sa.BigInteger, nullable=False),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("lifecycle_stage", sa.Text, nullable=False),
    sa.Column("artifact_uri", sa.Text, nullable=False),
    sa.Index("runs_in_order", "experiment_id", "lifecycle_stage", sa.text("start_time DESC")),
)
params = _texts("params", "run_id")
tags = _texts("tags", "run_id")
latest_metrics = sa.Table(
    "latest_metrics",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False, default=0),
    sa.Column("step", sa.BigInteger, nullable=False, default=0),
    sa.Column("is_nan", sa.Boolean, nullable=False),
    sa.Index("latest_metrics_by_value", "key", "is_nan", "value", "run_id"),
    sqlite_with_rowid=False,
)
datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("dataset_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)
run_inputs = sa.Table(
    "run_inputs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("dataset_id", sa.Text, primary_key=True),
)
input_tags = sa.Table(
    "input_tags",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("dataset_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("artifact_location", sa.Text, nullable=False),
    sa.Column("creation_timestamp", sa.BigInteger, nullable=False),
    sa.Column("last_updated_timestamp", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("model_type", sa.Text),
    sa.Column("source_run_id", sa.Text),
)
model_params = _texts("model_params", "model_id")
model_tags = _texts("model_tags", "model_id")
model_metrics = sa.Table(
    "model_metrics",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("timestamp", sa.BigInteger, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("dataset_name", sa.Text),
    sa.Column("dataset_digest", sa.Text),
)

_inputs = run_inputs.join(datasets, datasets.c.dataset_id == run_inputs.c.dataset_id)

RUN_SEARCH = Searchable(
    table=runs,
    id=runs.c.run_id,
    attributes={
        "run_id": runs.c.run_id,
        "run_name": runs.c.name,
        "user_id": runs.c.user_id,
        "status": runs.c.status,
        "artifact_uri": runs.c.artifact_uri,
        "start_time": runs.c.start_time,
        "end_time": runs.c.end_time,
    },
    tail_order=(OrderBy("attribute", "start_time", False), OrderBy("attribute", "run_id")),
    metrics=MetricValues(
        latest_metrics,
        owner=latest_metrics.c.run_id,
        key=latest_metrics.c.key,
        value=latest_metrics.c.value,
        is_nan=latest_metrics.c.is_nan,
        by_value=True,
    ),
    params=Values(params, params.c.run_id, params.c.value, params.c.key, by_value=True),
    tags=Values(tags, tags.c.run_id, tags.c.value, tags.c.key, by_value=True),
    datasets={
        "name": Values(_inputs, run_inputs.c.run_id, datasets.c.name),
        "digest": Values(_inputs, run_inputs.c.run_id, datasets.c.digest),
        "context": Values(
            input_tags,
            input_tags.c.run_id,
            input_tags.c.value,
            where=(input_tags.c.key == "mlflow.data.context",),
        ),
    },
    filtered_by_tag={"run_name": "mlflow.runName"},
)

EXPERIMENT_SEARCH = Searchable(
    table=experiments,
    id=experiments.c.experiment_id,
    attributes={
        "name": experiments.c.name,
        "experiment_id": experiments.c.experiment_id,
        "creation_time": experiments.c.creation_time,
        "last_update_time": experiments.c.last_update_time,
    },
    sort_by={"experiment_id": sa.cast(experiments.c.experiment_id, sa.BigInteger)},
    default_order=(
        OrderBy("attribute", "creation_time", False),
        OrderBy("attribute", "experiment_id"),
    ),
    tail_order=(OrderBy("attribute", "experiment_id", False),),
    tags=Values(
        experiment_tags,
        experiment_tags.c.experiment_id,
        experiment_tags.c.value,
        experiment_tags.c.key,
    ),
)

MODEL_SEARCH = Searchable(
    table=models,
    id=models.c.model_id,
    attributes={
        "name": models.c.name,
        "model_id": models.c.model_id,
        "model_type": models.c.model_type,
        "status": models.c.status,
        "source_run_id": models.c.source_run_id,
        "experiment_id": models.c.experiment_id,
        "artifact_location": models.c.artifact_location,
        "creation_timestamp": models.c.creation_timestamp,
        "last_updated_timestamp": models.c.last_updated_timestamp,
    },
    tail_order=(
        OrderBy("attribute", "creation_timestamp", False),
        OrderBy("attribute", "model_id"),
    ),
    metrics=MetricValues(
        model_metrics,
        owner=model_metrics.c.model_id,
        key=model_metrics.c.key,
        value=model_metrics.c.value,
        newest_first=(
            model_metrics.c.timestamp.desc(),
            model_metrics.c.step.desc(),
            model_metrics.c.run_id.asc(),
        ),
        dataset_name=model_metrics.c.dataset_name,
        dataset_digest=model_metrics.c.dataset_digest,
    ),
    params=Values(model_params, model_params.c.model_id, model_params.c.value, model_params.c.key),
    tags=Values(model_tags, model_tags.c.model_id, model_tags.c.value, model_tags.c.key),
)


@dataclass
class Experiment:
    """An experiment to be found."""

    experiment_id: str
    name: str
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
    user_id: str | None = None
    status: str = "RUNNING"
    start_time: int = 0
    end_time: int | None = None
    lifecycle_stage: str = "active"
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
    model_type: str | None = None
    source_run_id: str | None = None
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


def put_run(connection: sa.Connection, item: Run) -> None:
    """Inserts a run. NaN is stored as the views store it: 0 and a flag."""
    connection.execute(sa.insert(runs), columns_of(runs, item))
    _keyed(connection, params, item.run_id, item.params)
    _keyed(connection, tags, item.run_id, item.tags)
    for key, value in item.metrics.items():
        nan = value != value
        row = {"run_id": item.run_id, "key": key, "value": 0.0 if nan else value, "is_nan": nan}
        connection.execute(sa.insert(latest_metrics), row)
    for given in item.inputs:
        dataset_id = f"{given.name}/{given.digest}"
        row = {"dataset_id": dataset_id, "name": given.name, "digest": given.digest}
        connection.execute(sa.insert(datasets).prefix_with("OR IGNORE"), row)
        link = {"run_id": item.run_id, "dataset_id": dataset_id}
        connection.execute(sa.insert(run_inputs), link)
        if given.context is not None:
            tag = {**link, "key": "mlflow.data.context", "value": given.context}
            connection.execute(sa.insert(input_tags), tag)


def remove_run(connection: sa.Connection, run_id: str) -> None:
    """Deletes a run with all that belongs to it."""
    for table in (runs, params, tags, latest_metrics, run_inputs, input_tags):
        connection.execute(sa.delete(table).where(table.c.run_id == run_id))


def put_model(connection: sa.Connection, item: Model) -> None:
    """Inserts a logged model."""
    connection.execute(sa.insert(models), columns_of(models, item))
    _keyed(connection, model_params, item.model_id, item.params)
    _keyed(connection, model_tags, item.model_id, item.tags)
    for metric in item.metrics:
        row = {"model_id": item.model_id, **asdict(metric)}
        connection.execute(sa.insert(model_metrics), row)
