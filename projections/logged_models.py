"""Logged models with their params, tags and metrics: rows and folds, and queries for single rows.

Also what came out of a run: the models that it made, and the history of models in its tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from events.codec import Block, Series
from events.datasets import RUN_OUTPUTS_LOGGED, ModelOutput, RunOutputsLogged
from events.errors import InvalidParameterValue, ResourceAlreadyExists, ResourceDoesNotExist
from events.event import Event
from events.logged_models import (
    LOGGED_MODEL_CREATED,
    LOGGED_MODEL_DELETED,
    LOGGED_MODEL_FINALIZED,
    LOGGED_MODEL_PARAMS_LOGGED,
    LOGGED_MODEL_PURGED,
    LOGGED_MODEL_TAG_DELETED,
    LOGGED_MODEL_TAGS_SET,
    RUN_MODEL_LOGGED,
    LoggedModelCreated,
    LoggedModelFinalized,
    LoggedModelParamsLogged,
    LoggedModelTagDeleted,
    LoggedModelTagsSet,
    ModelParam,
    ModelTag,
    RunModelLogged,
)
from events.metrics import POINTS_LOGGED, block_of
from events.runs import RUN_BATCH_LOGGED, RUN_PURGED, RunBatchLogged
from projections.lifecycle import (
    ACTIVE,
    DELETED,
    active_experiment,
    active_run,
    existing_experiment,
    not_deleted,
)
from projections.owned import owned_rows
from projections.schema import metadata
from projections.state import Key, Row, State
from projections.view import EntityView

IDS_MAX = 500
"""Ids in one IN list: statements of one size are prepared once, and no backend refuses it."""

_COLLECTED = "points on models"

HISTORY_TAG = "mlflow.log-model.history"
"""The run tag in which MLflow keeps what older clients tell with runs/log-model."""

logged_models = sa.Table(
    "logged_models",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("artifact_location", sa.Text, nullable=False),
    sa.Column("creation_timestamp", sa.BigInteger, nullable=False),
    sa.Column("last_updated_timestamp", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("lifecycle_stage", sa.Text, nullable=False),
    sa.Column("model_type", sa.Text, nullable=False),
    sa.Column("source_run_id", sa.Text, nullable=False),
    sa.Index(
        "logged_models_by_creation",
        "experiment_id",
        "lifecycle_stage",
        sa.text("creation_timestamp DESC"),
    ),
)

logged_model_params = sa.Table(
    "logged_model_params",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

logged_model_tags = sa.Table(
    "logged_model_tags",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

logged_model_metrics = sa.Table(
    "logged_model_metrics",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("timestamp", sa.BigInteger, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("dataset_name", sa.Text, primary_key=True),
    sa.Column("dataset_digest", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, primary_key=True),
    sa.Column("is_nan", sa.Boolean, primary_key=True),
    sa.Index("logged_model_metrics_by_run", "run_id"),
    sqlite_with_rowid=False,
)
"""The points that were measured on a model: a set, so that both lanes can add to it in any order.
The dataset is empty text where there is none; NaN is stored as 0 with `is_nan`."""

model_outputs = sa.Table(
    "model_outputs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("step", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


def unknown_model(model_id: str) -> ResourceDoesNotExist:
    """What a model id that is not there, or is deleted, is answered with."""
    return ResourceDoesNotExist(f"Logged model with ID '{model_id}' not found.")


def missing_model_tag(model_id: str, key: str) -> ResourceDoesNotExist:
    """What removing a tag that a model does not have is answered with."""
    return ResourceDoesNotExist(f"No tag with key '{key}' found for model with ID '{model_id}'.")


def model_param_changed(model_id: str, key: str, old: str, new: str) -> InvalidParameterValue:
    """What another value for a param that is set is answered with."""
    return InvalidParameterValue(
        "Changing param values is not allowed. "
        f"Param with key='{key}' was already logged with value='{old}' for model ID='{model_id}'. "
        f"Attempted logging new value '{new}'."
    )


def output_moved(run_id: str, model_id: str, old: int, new: int) -> InvalidParameterValue:
    """What the same model at another step is answered with."""
    return InvalidParameterValue(
        f"Model '{model_id}' is an output of run '{run_id}' already, at step {old}; "
        f"it can't be one at step {new} too."
    )


def bad_history(run_id: str) -> InvalidParameterValue:
    """What runs/log-model is answered with where the run's tag holds something of the user's."""
    return InvalidParameterValue(
        f"The tag '{HISTORY_TAG}' of run '{run_id}' does not hold a JSON list, so that no model "
        "can be added to it. Delete the tag first."
    )


def fold_created(state: State, event: Event, data: LoggedModelCreated) -> None:
    """A new model in an active experiment."""
    if state.rows(logged_models).get(event.subject) is not None:
        raise ResourceAlreadyExists(f"Logged model with ID '{event.subject}' already exists.")
    active_experiment(state, data.experiment_id)
    for table in (logged_model_params, logged_model_tags):
        state.rows(table).begin_group(event.subject)
    state.rows(logged_models).put(
        {
            "model_id": event.subject,
            "experiment_id": data.experiment_id,
            "name": data.name,
            "artifact_location": data.artifact_location,
            "creation_timestamp": data.creation_time,
            "last_updated_timestamp": data.creation_time,
            "status": "PENDING",
            "lifecycle_stage": ACTIVE,
            "model_type": data.model_type,
            "source_run_id": data.source_run_id,
        }
    )
    _put_params(state, event.subject, data.params)
    _put_tags(state, event.subject, data.tags)


def _existing(state: State, model_id: str) -> Row:
    """The model's row in any stage: MLflow lets deleted models be written to."""
    row = state.rows(logged_models).get(model_id)
    if row is None:
        raise unknown_model(model_id)
    return row


def fold_finalized(state: State, event: Event, data: LoggedModelFinalized) -> None:
    """Any status may follow any other, as in MLflow."""
    row = _existing(state, event.subject)
    state.rows(logged_models).put(
        {**row, "status": data.status, "last_updated_timestamp": event.time}
    )


def fold_params_logged(state: State, event: Event, data: LoggedModelParamsLogged) -> None:
    """Params are set once for ever."""
    _existing(state, event.subject)
    _put_params(state, event.subject, data.params)


def fold_tags_set(state: State, event: Event, data: LoggedModelTagsSet) -> None:
    """The last write wins."""
    _existing(state, event.subject)
    _put_tags(state, event.subject, data.tags)


def fold_tag_deleted(state: State, event: Event, data: LoggedModelTagDeleted) -> None:
    """Removing a tag that is not there is an error, as in MLflow."""
    _existing(state, event.subject)
    tags = state.rows(logged_model_tags)
    if tags.get(event.subject, data.key) is None:
        raise missing_model_tag(event.subject, data.key)
    tags.delete(event.subject, data.key)


def fold_deleted(state: State, event: Event, _data: Any) -> None:
    """The deleted stage; deleting twice changes the time alone, as in MLflow."""
    row = _existing(state, event.subject)
    state.rows(logged_models).put(
        {**row, "lifecycle_stage": DELETED, "last_updated_timestamp": event.time}
    )


def _put_params(state: State, model_id: str, given: Sequence[ModelParam]) -> None:
    params = state.rows(logged_model_params)
    for param in given:
        before = params.get(model_id, param.key)
        if before is None:
            params.put({"model_id": model_id, "key": param.key, "value": param.value})
        elif before["value"] != param.value:
            raise model_param_changed(model_id, param.key, before["value"], param.value)


def _put_tags(state: State, model_id: str, given: Sequence[ModelTag]) -> None:
    tags = state.rows(logged_model_tags)
    for tag in given:
        tags.put({"model_id": model_id, "key": tag.key, "value": tag.value})


def fold_batch_logged(state: State, event: Event, data: RunBatchLogged) -> None:
    """The points of a batch that also had params or tags."""
    if any(point.model_id for point in data.metrics):
        fold_points(state, event, block_of(data.metrics))


def fold_points(state: State, event: Event, block: Block) -> None:
    """Collects the points that name a model. It need not be known: its lane may be behind."""
    if any(series.model_id for series in block.series):
        state.collect(_COLLECTED).append((event.subject, block))


def finish(state: State) -> None:
    """Adds the points of the batch's events; those on a purged model are left out, whichever of
    the two lanes comes first."""
    collected = state.collect(_COLLECTED)
    gone = state.rows("purged")
    rows: list[Key] = []
    for run_id, block in collected:
        for place, series in enumerate(block.series):
            if series.model_id and gone.get(series.model_id) is None:
                rows.extend(_metric_rows(run_id, series, block, block.index == place))
    collected.clear()
    if rows:
        state.rows(logged_model_metrics).write(rows)


def _metric_rows(
    run_id: str, series: Series, block: Block, of_series: npt.NDArray[np.bool_]
) -> Iterator[Key]:
    is_nan = np.isnan(block.values[of_series])
    return zip(
        repeat(series.model_id),
        repeat(series.key),
        block.timestamps[of_series].tolist(),
        block.steps[of_series].tolist(),
        repeat(run_id),
        repeat(series.dataset_name or ""),
        repeat(series.dataset_digest or ""),
        # Of -0.0 and 0.0, equal to all, one is stored.
        np.where(is_nan, 0.0, block.values[of_series] + 0.0).tolist(),
        is_nan.tolist(),
        strict=False,  # what is repeated has no end
    )


def fold_outputs_logged(state: State, event: Event, data: RunOutputsLogged) -> None:
    """A model is an output of a run once; the same again changes nothing."""
    active_run(state, event.subject)
    rows = state.rows(model_outputs)
    for model in data.models:
        before = rows.get(event.subject, model.model_id)
        if before is None:
            key = {"run_id": event.subject, "model_id": model.model_id}
            rows.put({**key, "step": model.step})
        elif before["step"] != model.step:
            raise output_moved(event.subject, model.model_id, before["step"], model.step)


def fold_run_model_logged(state: State, event: Event, data: RunModelLogged) -> None:
    """Adds the model to the list in the run's tag. Here, so that of two at once none is lost."""
    active_run(state, event.subject)
    tags = state.rows("tags")
    before = tags.get(event.subject, HISTORY_TAG)
    history = extended_history(event.subject, before["value"] if before else None, data.model)
    tags.put({"run_id": event.subject, "key": HISTORY_TAG, "value": history})


def extended_history(run_id: str, before: str | None, model: dict[str, Any]) -> str:
    """The tag's text with one more model. Raises where it holds something else than a list."""
    try:
        models = json.loads(before) if before else []
    except (ValueError, RecursionError):
        raise bad_history(run_id) from None
    if not isinstance(models, list):
        raise bad_history(run_id)
    return json.dumps([*models, model])


def fold_run_purged(state: State, event: Event, _data: Any) -> None:
    """What the run measured on models goes, and which models it made; the models stay."""
    collected = state.collect(_COLLECTED)
    collected[:] = [item for item in collected if item[0] != event.subject]
    for table in (logged_model_metrics, model_outputs):
        state.execute(sa.delete(table).where(table.c.run_id == event.subject))


def fold_purged(state: State, event: Event, _data: Any) -> None:
    """Every row of a model that is deleted, or whose experiment is, goes.

    Runs go on naming its id among their inputs and outputs.
    """
    row = _existing(state, event.subject)
    experiment = existing_experiment(state, row["experiment_id"])
    if DELETED not in (row["lifecycle_stage"], experiment["lifecycle_stage"]):
        raise not_deleted("logged model", event.subject)
    for table in (logged_models, logged_model_params, logged_model_tags, logged_model_metrics):
        state.execute(sa.delete(table).where(table.c.model_id == event.subject))


def _keep_experiment(data: LoggedModelCreated) -> dict[str, str]:
    return {"experiment_id": data.experiment_id}


def fold_scrubbed_created(state: State, event: Event, kept: dict[str, str]) -> None:
    """A purged model until its purge: its experiment could not be purged before it."""
    fold_created(state, event, LoggedModelCreated(kept["experiment_id"], "", "", 0))


def get_model_row(connection: sa.Connection, model_id: str, *, allow_deleted: bool = False) -> Row:
    """The model's row; a deleted one only where that is allowed. Raises ResourceDoesNotExist."""
    found = connection.execute(
        sa.select(logged_models).where(logged_models.c.model_id == model_id)
    ).first()
    if found is None or (found.lifecycle_stage != ACTIVE and not allow_deleted):
        raise unknown_model(model_id)
    return dict(found._mapping)


def existing_models(connection: sa.Connection, model_ids: Sequence[str]) -> set[str]:
    """Those of these ids that are there, in any stage."""
    found: set[str] = set()
    for start in range(0, len(model_ids), IDS_MAX):
        chunk = list(model_ids[start : start + IDS_MAX])
        statement = sa.select(logged_models.c.model_id).where(logged_models.c.model_id.in_(chunk))
        found.update(connection.execute(statement).scalars())
    return found


_OUTPUTS = sa.select(model_outputs).order_by(*model_outputs.c)


def outputs_of(
    connection: sa.Connection, run_ids: Sequence[str]
) -> dict[str, list[tuple[str, int]]]:
    """For each run the (model id, step) of the models that it made, in order of the ids."""
    found: dict[str, list[tuple[str, int]]] = {run_id: [] for run_id in run_ids}
    for run_id, model_id, step in owned_rows(connection, _OUTPUTS, model_outputs.c.run_id, run_ids):
        found[run_id].append((model_id, step))
    return found


def check_outputs(connection: sa.Connection, run_id: str, given: Sequence[ModelOutput]) -> None:
    """Raises the refusal that these outputs would get as the views stand."""
    stored = dict(outputs_of(connection, [run_id])[run_id])
    for model in given:
        old = stored.get(model.model_id, model.step)
        if old != model.step:
            raise output_moved(run_id, model.model_id, old, model.step)


def model_texts(connection: sa.Connection, table: sa.Table, model_id: str) -> dict[str, str]:
    """The params or the tags of a model in any stage. Raises ResourceDoesNotExist."""
    get_model_row(connection, model_id, allow_deleted=True)
    statement = sa.select(table.c.key, table.c.value).where(table.c.model_id == model_id)
    return {key: value for key, value in connection.execute(statement)}


def check_model_params(
    connection: sa.Connection, model_id: str, given: Sequence[ModelParam]
) -> None:
    """Raises the refusal that these params would get as the views stand."""
    stored = model_texts(connection, logged_model_params, model_id)
    for param in given:
        old = stored.get(param.key, param.value)
        if old != param.value:
            raise model_param_changed(model_id, param.key, old, param.value)


def check_has_model_tag(connection: sa.Connection, model_id: str, key: str) -> None:
    """Raises ResourceDoesNotExist where there is no such model, or it has no such tag."""
    if key not in model_texts(connection, logged_model_tags, model_id):
        raise missing_model_tag(model_id, key)


def history_of(connection: sa.Connection, run_id: str) -> str | None:
    """The text of the run's tag that lists its models, or None."""
    tags = metadata.tables["tags"]
    return connection.execute(
        sa.select(tags.c.value).where(tags.c.run_id == run_id, tags.c.key == HISTORY_TAG)
    ).scalar()


VIEW = EntityView(
    name="logged_models",
    tables=(
        logged_models,
        logged_model_params,
        logged_model_tags,
        logged_model_metrics,
        model_outputs,
    ),
    folds={
        LOGGED_MODEL_CREATED: fold_created,
        LOGGED_MODEL_FINALIZED: fold_finalized,
        LOGGED_MODEL_PARAMS_LOGGED: fold_params_logged,
        LOGGED_MODEL_TAGS_SET: fold_tags_set,
        LOGGED_MODEL_TAG_DELETED: fold_tag_deleted,
        LOGGED_MODEL_DELETED: fold_deleted,
        LOGGED_MODEL_PURGED: fold_purged,
        RUN_BATCH_LOGGED: fold_batch_logged,
        POINTS_LOGGED: fold_points,
        RUN_OUTPUTS_LOGGED: fold_outputs_logged,
        RUN_MODEL_LOGGED: fold_run_model_logged,
        RUN_PURGED: fold_run_purged,
    },
    kept={LOGGED_MODEL_CREATED: _keep_experiment},
    scrubbed={LOGGED_MODEL_CREATED: fold_scrubbed_created, LOGGED_MODEL_DELETED: fold_deleted},
    finish=finish,
)
