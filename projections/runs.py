"""Runs with their params and tags: rows, folds, and the queries that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from events.errors import InvalidParameterValue, ResourceDoesNotExist
from events.event import Event
from events.experiments import EXPERIMENT_DELETED, EXPERIMENT_RESTORED
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_DELETED,
    RUN_PURGED,
    RUN_RESTORED,
    RUN_TAG_DELETED,
    RUN_UPDATED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunTag,
    RunTagDeleted,
    RunUpdated,
)
from projections.lifecycle import (
    ACTIVE,
    DELETED,
    active_experiment,
    active_run,
    existing_run,
    not_deleted,
    unknown_run,
)
from projections.owned import owned_rows
from projections.schema import FOR_SEARCH, checkpoints, metadata
from projections.state import Row, State
from projections.view import EntityView

RUN_NAME_TAG = "mlflow.runName"
IDS_MAX = 500
"""Ids in one IN list: statements of one size are prepared once, and no backend refuses it."""

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("start_time", sa.BigInteger, nullable=False),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("lifecycle_stage", sa.Text, nullable=False),
    sa.Column("deleted_time", sa.BigInteger),
    sa.Column("artifact_uri", sa.Text, nullable=False),
    sa.Index(
        "runs_by_start",
        "experiment_id",
        "lifecycle_stage",
        sa.text("start_time DESC"),
        "run_id",
        "name",  # A search by name reads on in the index, and not a row for each run.
    ),
)

params = sa.Table(
    "params",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("params_by_value", "key", "value", "run_id", info=FOR_SEARCH),
    sqlite_with_rowid=False,
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("tags_by_value", "key", "value", "run_id", info=FOR_SEARCH),
    sqlite_with_rowid=False,
)


def param_changed(run_id: str, key: str, old: str, new: str) -> InvalidParameterValue:
    """What another value for a param that is set is answered with."""
    return InvalidParameterValue(
        "Changing param values is not allowed. "
        f"Param with key='{key}' was already logged with value='{old}' for run ID='{run_id}'. "
        f"Attempted logging new value '{new}'."
    )


def fold_created(state: State, event: Event, data: RunCreated) -> None:
    """A new run in an active experiment."""
    active_experiment(state, data.experiment_id)
    for table in (params, tags):
        state.rows(table).begin_group(event.subject)
    state.rows(runs).put(created_row(event.subject, data))
    # Searches count on it: a run's name and the tag that says it never differ.
    named = [RunTag(tag.key, data.name) if tag.key == RUN_NAME_TAG else tag for tag in data.tags]
    _put_tags(state, event.subject, named)


def created_row(run_id: str, data: RunCreated) -> Row:
    """The row of a run as its creation makes it."""
    return {
        "run_id": run_id,
        "experiment_id": data.experiment_id,
        "name": data.name,
        "user_id": data.user_id,
        "status": "RUNNING",
        "start_time": data.start_time,
        "end_time": None,
        "lifecycle_stage": ACTIVE,
        "deleted_time": None,
        "artifact_uri": data.artifact_uri,
    }


def fold_updated(state: State, event: Event, data: RunUpdated) -> None:
    """Status, end and name of an active run; any status may follow any other, as in MLflow."""
    row = active_run(state, event.subject)
    changed = dict(row)
    if data.status is not None:
        changed["status"] = data.status
    if data.end_time is not None:
        changed["end_time"] = data.end_time
    if data.name:
        changed["name"] = data.name
        _put_tags(state, event.subject, [RunTag(RUN_NAME_TAG, data.name)])
    state.rows(runs).put(changed)


def fold_deleted(state: State, event: Event, _data: Any) -> None:
    """The deleted stage; deleting twice changes nothing."""
    row = existing_run(state, event.subject)
    if row["lifecycle_stage"] == ACTIVE:
        state.rows(runs).put({**row, "lifecycle_stage": DELETED, "deleted_time": event.time})


def fold_restored(state: State, event: Event, _data: Any) -> None:
    """Active again, also where its experiment is deleted."""
    row = existing_run(state, event.subject)
    state.rows(runs).put({**row, "lifecycle_stage": ACTIVE, "deleted_time": None})


def fold_experiment_deleted(state: State, event: Event, _data: Any) -> None:
    """All active runs of the experiment go with it."""
    state.execute(
        sa.update(runs)
        .where(runs.c.experiment_id == event.subject, runs.c.lifecycle_stage == ACTIVE)
        .values(lifecycle_stage=DELETED, deleted_time=event.time)
    )


def fold_experiment_restored(state: State, event: Event, _data: Any) -> None:
    """All runs of the experiment come back, also those that were deleted one by one."""
    state.execute(
        sa.update(runs)
        .where(runs.c.experiment_id == event.subject)
        .values(lifecycle_stage=ACTIVE, deleted_time=None)
    )


def fold_batch_logged(state: State, event: Event, data: RunBatchLogged) -> None:
    """Params are set once for ever, tags are overwritten."""
    active_run(state, event.subject)
    rows = state.rows(params)
    for param in data.params:
        before = rows.get(event.subject, param.key)
        if before is None:
            rows.put({"run_id": event.subject, "key": param.key, "value": param.value})
        elif before["value"] != param.value:
            raise param_changed(event.subject, param.key, before["value"], param.value)
    # An empty name is no name: the run keeps the one that it has, and so does its tag.
    kept = [tag for tag in data.tags if tag.key != RUN_NAME_TAG or tag.value]
    _put_tags(state, event.subject, kept)
    named = [tag.value for tag in kept if tag.key == RUN_NAME_TAG]
    if named:
        row = existing_run(state, event.subject)
        state.rows(runs).put({**row, "name": named[-1]})


def fold_tag_deleted(state: State, event: Event, data: RunTagDeleted) -> None:
    """Removing a tag that is not there is an error, as in MLflow."""
    active_run(state, event.subject)
    if state.rows(tags).get(event.subject, data.key) is None:
        raise missing_tag(event.subject, data.key)
    state.rows(tags).delete(event.subject, data.key)


def fold_purged(state: State, event: Event, _data: Any) -> None:
    """Every row of the run goes; one that was restored meanwhile stays."""
    if existing_run(state, event.subject)["lifecycle_stage"] != DELETED:
        raise not_deleted("run", event.subject)
    state.rows(runs).delete(event.subject)
    for table in (params, tags):
        rows = state.rows(table)
        for row in rows.group(event.subject):
            rows.delete(event.subject, row["key"])


def _keep_experiment(data: RunCreated) -> dict[str, str]:
    return {"experiment_id": data.experiment_id}


def fold_scrubbed_created(state: State, event: Event, kept: dict[str, str]) -> None:
    """A purged run until its purge: its experiment could not be purged before it."""
    fold_created(state, event, RunCreated(kept["experiment_id"], "", "", 0, ""))


def missing_tag(run_id: str, key: str) -> ResourceDoesNotExist:
    """What removing a tag that a run does not have is answered with."""
    return ResourceDoesNotExist(f"No tag with name: {key} in run with id {run_id}")


def _put_tags(state: State, run_id: str, given: Sequence[RunTag]) -> None:
    rows = state.rows(tags)
    for tag in given:
        rows.put({"run_id": run_id, "key": tag.key, "value": tag.value})


def get_rows(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, Row]:
    """The rows of those of these runs that are there, in any stage."""
    found: dict[str, Row] = {}
    for start in range(0, len(run_ids), IDS_MAX):
        chunk = list(run_ids[start : start + IDS_MAX])
        for row in connection.execute(sa.select(runs).where(runs.c.run_id.in_(chunk))):
            found[row.run_id] = dict(row._mapping)
    return found


def get_row(connection: sa.Connection, run_id: str) -> Row:
    """The run's row, in any stage. Raises ResourceDoesNotExist."""
    found = connection.execute(sa.select(runs).where(runs.c.run_id == run_id)).first()
    if found is None:
        raise unknown_run(run_id)
    return dict(found._mapping)


def artifact_uri(connection: sa.Connection, run_id: str) -> str:
    """Where a run's artifacts are. Raises ResourceDoesNotExist."""
    return str(get_row(connection, run_id)["artifact_uri"])


_TEXTS = {
    table: sa.select(table.c.run_id, table.c.key, table.c.value).order_by(
        table.c.run_id, table.c.key
    )
    for table in (params, tags)
}


def texts_of(
    connection: sa.Connection, table: sa.Table, run_ids: Sequence[str]
) -> dict[str, list[tuple[str, str]]]:
    """For each run the (key, value) pairs of `params` or `tags`, in order of key."""
    found: dict[str, list[tuple[str, str]]] = {run_id: [] for run_id in run_ids}
    for run_id, key, value in owned_rows(connection, _TEXTS[table], table.c.run_id, run_ids):
        found[run_id].append((key, value))
    return found


def checked_params(
    connection: sa.Connection, run_id: str, given: Sequence[Param]
) -> tuple[int, dict[str, str]]:
    """All params of the run, with the journal's position up to which that is so.

    Raises the refusal that the given ones would get as the views stand.
    """
    stored = dict(texts_of(connection, params, [run_id])[run_id])
    require_unchanged(run_id, stored, given)
    folded = connection.execute(_FOLDED).scalar()
    return folded or 0, stored


_FOLDED = sa.select(checkpoints.c.position).where(checkpoints.c.lane == "journal")


def require_unchanged(run_id: str, stored: Mapping[str, str], given: Sequence[Param]) -> None:
    """Raises InvalidParameterValue where one of these params is set to another value."""
    for param in given:
        old = stored.get(param.key)
        if old is not None and old != param.value:
            raise param_changed(run_id, param.key, old, param.value)


def check_has_tag(connection: sa.Connection, run_id: str, key: str) -> None:
    """Raises ResourceDoesNotExist where the run has no such tag."""
    if key not in dict(texts_of(connection, tags, [run_id])[run_id]):
        raise missing_tag(run_id, key)


VIEW = EntityView(
    name="runs",
    tables=(runs, params, tags),
    folds={
        RUN_CREATED: fold_created,
        RUN_UPDATED: fold_updated,
        RUN_DELETED: fold_deleted,
        RUN_RESTORED: fold_restored,
        RUN_BATCH_LOGGED: fold_batch_logged,
        RUN_TAG_DELETED: fold_tag_deleted,
        RUN_PURGED: fold_purged,
        EXPERIMENT_DELETED: fold_experiment_deleted,
        EXPERIMENT_RESTORED: fold_experiment_restored,
    },
    kept={RUN_CREATED: _keep_experiment},
    scrubbed={
        RUN_CREATED: fold_scrubbed_created,
        RUN_DELETED: fold_deleted,
        RUN_RESTORED: fold_restored,
        EXPERIMENT_DELETED: fold_experiment_deleted,
        EXPERIMENT_RESTORED: fold_experiment_restored,
    },
)
