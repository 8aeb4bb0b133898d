"""Datasets and models as inputs of runs: rows, folds, and the queries that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa

from events.datasets import RUN_INPUTS_LOGGED, DatasetInput, RunInputsLogged
from events.event import Event
from events.runs import RUN_PURGED
from projections.lifecycle import active_run
from projections.owned import owned_rows
from projections.schema import metadata
from projections.state import State
from projections.view import EntityView

CONTEXT_TAG = "mlflow.data.context"
"""The input tag that says what a dataset was used for: training, evaluation."""
SUMMARIES_MAX = 1_000
IDS_MAX = 500
"""Ids in one IN list: statements of one size are prepared once, and no backend refuses it."""

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("dataset_id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("content_id", sa.Text, nullable=False),
    sa.Index("datasets_by_name", "experiment_id", "name", "digest"),
)
"""A name and digest within an experiment. Its content is the one that was given first by a run
that is still there."""

dataset_contents = sa.Table(
    "dataset_contents",
    metadata,
    sa.Column("content_id", sa.Text, primary_key=True),
    sa.Column("source_type", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("schema", sa.Text),
    sa.Column("profile", sa.Text),
)
"""What was said of datasets, each once however many runs said it."""

run_inputs = sa.Table(
    "run_inputs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("dataset_id", sa.Text, primary_key=True),
    sa.Column("content_id", sa.Text, nullable=False, index=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Index("run_inputs_by_dataset", "dataset_id", "position", "place"),
    sqlite_with_rowid=False,
)
"""Which run has which dataset, what it said of it, and where in the journal it said so."""

input_tags = sa.Table(
    "input_tags",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("dataset_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("input_tags_by_value", "key", "value", "run_id"),
    sqlite_with_rowid=False,
)

model_inputs = sa.Table(
    "model_inputs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("model_id", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)


def _hash(*parts: str | None) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def fold_inputs_logged(state: State, event: Event, data: RunInputsLogged) -> None:
    """What the run has already stays as it is, so that a repeated request changes nothing."""
    run = active_run(state, event.subject)
    for place, dataset in enumerate(data.datasets):
        _put_input(state, event, run["experiment_id"], dataset, place)
    for model_id in data.models:
        state.rows(model_inputs).put({"run_id": event.subject, "model_id": model_id})


def _put_input(
    state: State, event: Event, experiment_id: str, dataset: DatasetInput, place: int
) -> None:
    dataset_id = _hash(experiment_id, dataset.name, dataset.digest)
    inputs = state.rows(run_inputs)
    if inputs.get(event.subject, dataset_id) is not None:
        return
    content = (dataset.source_type, dataset.source, dataset.schema, dataset.profile)
    content_id = _hash(*content)
    contents = state.rows(dataset_contents)
    if contents.get(content_id) is None:
        names = ("source_type", "source", "schema", "profile")
        contents.put({"content_id": content_id, **dict(zip(names, content, strict=True))})
    known = state.rows(datasets)
    if known.get(dataset_id) is None:
        known.put(
            {
                "dataset_id": dataset_id,
                "experiment_id": experiment_id,
                "name": dataset.name,
                "digest": dataset.digest,
                "content_id": content_id,
            }
        )
    key = {"run_id": event.subject, "dataset_id": dataset_id}
    inputs.put({**key, "content_id": content_id, "position": event.position, "place": place})
    for tag in dataset.tags:
        state.rows(input_tags).put({**key, "key": tag.key, "value": tag.value})


def fold_run_purged(state: State, event: Event, _data: Any) -> None:
    """The run's inputs go; a dataset that other runs have too keeps the first of their contents.

    So the rows are those of a log that never had the purged run.
    """
    state.flush()
    of_run = run_inputs.c.run_id == event.subject
    gone = state.connection.execute(
        sa.select(run_inputs.c.dataset_id, run_inputs.c.content_id).where(of_run)
    ).all()
    for table in (run_inputs, input_tags, model_inputs):
        state.execute(sa.delete(table).where(table.c.run_id == event.subject))
    for dataset_id, content_id in gone:
        first = state.connection.execute(
            sa.select(run_inputs.c.content_id)
            .where(run_inputs.c.dataset_id == dataset_id)
            .order_by(run_inputs.c.position, run_inputs.c.place)
            .limit(1)
        ).scalar()
        this = datasets.c.dataset_id == dataset_id
        if first is None:
            state.execute(sa.delete(datasets).where(this))
        else:
            state.execute(sa.update(datasets).where(this).values(content_id=first))
        used = sa.exists().where(run_inputs.c.content_id == content_id)
        state.execute(
            sa.delete(dataset_contents).where(dataset_contents.c.content_id == content_id, ~used)
        )


@dataclass(frozen=True, slots=True)
class InputDataset:
    """A dataset as an input of one run; `tags` in order of their keys."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    tags: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunInputs:
    """All inputs of one run: its datasets as they were logged, the ids of the models in order."""

    datasets: list[InputDataset] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


_MODELS = sa.select(model_inputs).order_by(*model_inputs.c)
_DATASETS = (
    sa.select(
        run_inputs.c.run_id,
        run_inputs.c.dataset_id,
        datasets.c.name,
        datasets.c.digest,
        datasets.c.content_id,
    )
    .join_from(run_inputs, datasets, run_inputs.c.dataset_id == datasets.c.dataset_id)
    .order_by(run_inputs.c.run_id, run_inputs.c.position, run_inputs.c.place)
)
_INPUT_TAGS = sa.select(input_tags).order_by(input_tags.c.key)


def inputs_of(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, RunInputs]:
    """For each of these runs its inputs; a run that is not there has none."""
    found = {run_id: RunInputs() for run_id in run_ids}
    _add_datasets(connection, found, run_ids)
    for run_id, model_id in owned_rows(connection, _MODELS, model_inputs.c.run_id, run_ids):
        found[run_id].models.append(model_id)
    return found


def _add_datasets(
    connection: sa.Connection, found: dict[str, RunInputs], run_ids: Sequence[str]
) -> None:
    inputs = list(owned_rows(connection, _DATASETS, run_inputs.c.run_id, run_ids))
    if not inputs:
        return
    contents = _contents(connection, {row[4] for row in inputs})
    by_input: dict[tuple[str, str], InputDataset] = {}
    for run_id, dataset_id, name, digest, content_id in inputs:
        dataset = InputDataset(name, digest, *contents[content_id])
        by_input[run_id, dataset_id] = dataset
        found[run_id].datasets.append(dataset)
    tags = owned_rows(connection, _INPUT_TAGS, input_tags.c.run_id, run_ids)
    for run_id, dataset_id, key, value in tags:
        by_input[run_id, dataset_id].tags.append((key, value))


def _contents(
    connection: sa.Connection, content_ids: set[str]
) -> dict[str, tuple[str, str, str | None, str | None]]:
    """Each content once: a thousand runs on one dataset read its profile once."""
    ids = sorted(content_ids)
    found: dict[str, tuple[str, str, str | None, str | None]] = {}
    for start in range(0, len(ids), IDS_MAX):
        chunk = ids[start : start + IDS_MAX]
        statement = sa.select(dataset_contents).where(dataset_contents.c.content_id.in_(chunk))
        for content_id, source_type, source, schema, profile in connection.execute(statement):
            found[content_id] = (source_type, source, schema, profile)
    return found


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A dataset of an experiment, once for each context that its runs used it in."""

    experiment_id: str
    name: str
    digest: str
    context: str | None


def search_datasets(
    connection: sa.Connection, experiment_ids: Sequence[str]
) -> list[DatasetSummary]:
    """The datasets of these experiments' runs, deleted ones too; at most SUMMARIES_MAX."""
    context = sa.and_(
        input_tags.c.run_id == run_inputs.c.run_id,
        input_tags.c.dataset_id == run_inputs.c.dataset_id,
        input_tags.c.key == CONTEXT_TAG,
    )
    columns = (
        datasets.c.experiment_id,
        datasets.c.name,
        datasets.c.digest,
        input_tags.c.value.label("context"),
    )
    statement = (
        sa.select(*columns)
        .select_from(
            datasets.join(run_inputs, run_inputs.c.dataset_id == datasets.c.dataset_id).outerjoin(
                input_tags, context
            )
        )
        .where(datasets.c.experiment_id.in_(list(experiment_ids)))
        .group_by(*columns)
        .order_by(*columns[:3], sa.func.min(run_inputs.c.position), columns[3])
        .limit(SUMMARIES_MAX)
    )
    return [DatasetSummary(*row) for row in connection.execute(statement)]


VIEW = EntityView(
    name="datasets",
    tables=(datasets, dataset_contents, run_inputs, input_tags, model_inputs),
    folds={
        RUN_INPUTS_LOGGED: fold_inputs_logged,
        RUN_PURGED: fold_run_purged,
    },
)
