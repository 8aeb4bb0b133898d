"""Experiments: their rows, the folds that make them, and the queries that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from events.errors import (
    BadRequest,
    InvalidParameterValue,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
)
from events.event import Event
from events.experiments import (
    EXPERIMENT_CREATED,
    EXPERIMENT_DELETED,
    EXPERIMENT_PURGED,
    EXPERIMENT_RENAMED,
    EXPERIMENT_RESTORED,
    EXPERIMENT_TAG_DELETED,
    EXPERIMENT_TAG_SET,
    ExperimentCreated,
    ExperimentRenamed,
    ExperimentTagDeleted,
    ExperimentTagSet,
)
from projections.filter_language import EXPERIMENTS, OrderBy, parse_filter, parse_order_by
from projections.lifecycle import (
    ACTIVE,
    DELETED,
    active_experiment,
    existing_experiment,
    not_deleted,
    unknown_experiment,
)
from projections.owned import owned_rows
from projections.page_tokens import Position
from projections.schema import metadata
from projections.search import Searchable, Values, in_view, search
from projections.state import Row, State
from projections.view import EntityView

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("artifact_location", sa.Text, nullable=False),
    sa.Column("lifecycle_stage", sa.Text, nullable=False),
    sa.Column("creation_time", sa.BigInteger, nullable=False),
    sa.Column("last_update_time", sa.BigInteger, nullable=False),
)

experiment_names = sa.Table(
    "experiment_names",
    metadata,
    sa.Column("name_sha256", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False, index=True),
)
"""Who has a name. By its hash, which a purge leaves in the log, so that the verdicts on others
that wanted the name are the same in a rebuild."""

experiment_tags = sa.Table(
    "experiment_tags",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def name_hash(name: str) -> str:
    """What stands for an experiment's name where the name itself was purged."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _check_name(state: State, hashed: str, name: str, experiment_id: str) -> None:
    holder = state.rows(experiment_names).get(hashed)
    if holder is not None and holder["experiment_id"] != experiment_id:
        raise ResourceAlreadyExists(f"Experiment(name={name}) already exists.")


def _hold_name(state: State, hashed: str, experiment_id: str) -> None:
    state.rows(experiment_names).put({"name_sha256": hashed, "experiment_id": experiment_id})


def _release_name(state: State, experiment_id: str) -> None:
    state.execute(
        sa.delete(experiment_names).where(experiment_names.c.experiment_id == experiment_id)
    )


def fold_created(state: State, event: Event, data: ExperimentCreated) -> None:
    """A new experiment, where its name is free (deleted experiments keep theirs)."""
    if state.rows(experiments).get(event.subject) is not None:
        raise ResourceAlreadyExists(f"Experiment with id={event.subject} already exists.")
    _create(state, event, data, name_hash(data.name))
    for tag in data.tags:
        state.rows(experiment_tags).put(
            {"experiment_id": event.subject, "key": tag.key, "value": tag.value}
        )


def _create(state: State, event: Event, data: ExperimentCreated, hashed: str) -> None:
    _check_name(state, hashed, data.name, event.subject)
    _hold_name(state, hashed, event.subject)
    state.rows(experiments).put(
        {
            "experiment_id": event.subject,
            "name": data.name,
            "artifact_location": data.artifact_location,
            "lifecycle_stage": ACTIVE,
            "creation_time": data.creation_time,
            "last_update_time": data.creation_time,
        }
    )


def fold_renamed(state: State, event: Event, data: ExperimentRenamed) -> None:
    """Another name for an active experiment; its old name is free again."""
    _rename(state, event, data.name, name_hash(data.name))


def _rename(state: State, event: Event, name: str, hashed: str) -> None:
    row = active_experiment(state, event.subject)
    try:
        _check_name(state, hashed, name, event.subject)
    except ResourceAlreadyExists as taken:
        # MLflow's code for a rename to a taken name differs from that for a creation.
        raise BadRequest(taken.message) from taken
    _release_name(state, event.subject)
    _hold_name(state, hashed, event.subject)
    state.rows(experiments).put({**row, "name": name, "last_update_time": event.time})


def fold_deleted(state: State, event: Event, _data: Any) -> None:
    """The deleted stage; deleting twice is an error, as in MLflow."""
    row = existing_experiment(state, event.subject)
    if row["lifecycle_stage"] != ACTIVE:
        raise unknown_experiment(event.subject)
    state.rows(experiments).put({**row, "lifecycle_stage": DELETED, "last_update_time": event.time})


def fold_restored(state: State, event: Event, _data: Any) -> None:
    """Active again; restoring what is active is an error, as in MLflow."""
    row = existing_experiment(state, event.subject)
    if row["lifecycle_stage"] != DELETED:
        raise unknown_experiment(event.subject)
    state.rows(experiments).put({**row, "lifecycle_stage": ACTIVE, "last_update_time": event.time})


def fold_tag_set(state: State, event: Event, data: ExperimentTagSet) -> None:
    """The last write wins."""
    row = active_experiment(state, event.subject)
    state.rows(experiment_tags).put(
        {"experiment_id": event.subject, "key": data.key, "value": data.value}
    )
    state.rows(experiments).put({**row, "last_update_time": event.time})


def fold_tag_deleted(state: State, event: Event, data: ExperimentTagDeleted) -> None:
    """Removing a tag that is not there is an error, as in MLflow."""
    row = active_experiment(state, event.subject)
    tags = state.rows(experiment_tags)
    if tags.get(event.subject, data.key) is None:
        raise ResourceDoesNotExist(
            f"No tag with key '{data.key}' in experiment with ID {event.subject}"
        )
    tags.delete(event.subject, data.key)
    state.rows(experiments).put({**row, "last_update_time": event.time})


def fold_purged(state: State, event: Event, _data: Any) -> None:
    """Every row of the experiment goes and its name is free; its runs and logged models must have
    been purged before it, so that none is left behind without one."""
    row = existing_experiment(state, event.subject)
    if row["lifecycle_stage"] != DELETED:
        raise not_deleted("experiment", event.subject)
    for name in ("runs", "logged_models"):
        table = metadata.tables.get(name)
        if table is not None and state.exists(
            sa.select(table.c.experiment_id).where(table.c.experiment_id == event.subject)
        ):
            raise InvalidParameterValue(
                f"The experiment {event.subject} still has {name.replace('_', ' ')}: they are "
                "purged first."
            )
    _release_name(state, event.subject)
    tags = state.rows(experiment_tags)
    for tag in tags.group(event.subject):
        tags.delete(event.subject, tag["key"])
    state.rows(experiments).delete(event.subject)


def _keep_name(data: ExperimentCreated | ExperimentRenamed) -> dict[str, str]:
    return {"name_sha256": name_hash(data.name)}


def fold_scrubbed_created(state: State, event: Event, kept: dict[str, str]) -> None:
    """A purged experiment until its purge: it has its name, which others may have wanted."""
    _create(state, event, ExperimentCreated("", "", 0), kept["name_sha256"])


def fold_scrubbed_renamed(state: State, event: Event, kept: dict[str, str]) -> None:
    """A purged experiment's other name."""
    _rename(state, event, "", kept["name_sha256"])


_NAMES = [column.name for column in experiments.columns]
_ROWS = sa.select(*experiments.columns)
_TAGS = sa.select(*experiment_tags.columns).order_by(*experiment_tags.primary_key.columns)


def get_experiment(connection: sa.Connection, experiment_id: str) -> Row:
    """The experiment's row with `tags`, in any stage. Raises ResourceDoesNotExist."""
    found = next(owned_rows(connection, _ROWS, experiments.c.experiment_id, [experiment_id]), None)
    if found is None:
        raise unknown_experiment(experiment_id)
    return _with_tags(connection, [dict(zip(_NAMES, found, strict=True))])[0]


def get_experiment_by_name(connection: sa.Connection, name: str) -> Row:
    """The experiment of this name, in any stage. Raises ResourceDoesNotExist."""
    found = connection.execute(sa.select(experiments).where(experiments.c.name == name)).first()
    if found is None:
        raise ResourceDoesNotExist(f"Could not find experiment with name '{name}'")
    return _with_tags(connection, [dict(found._mapping)])[0]


def name_holder(connection: sa.Connection, name: str) -> str | None:
    """The id of the experiment that has this name, or None."""
    found = connection.execute(
        sa.select(experiment_names.c.experiment_id).where(
            experiment_names.c.name_sha256 == name_hash(name)
        )
    ).scalar()
    return None if found is None else str(found)


def _with_tags(connection: sa.Connection, rows: list[Row]) -> list[Row]:
    by_id: dict[str, dict[str, str]] = {row["experiment_id"]: {} for row in rows}
    owner = experiment_tags.c.experiment_id
    for experiment_id, key, value in owned_rows(connection, _TAGS, owner, list(by_id)):
        by_id[experiment_id][key] = value
    return [{**row, "tags": by_id[row["experiment_id"]]} for row in rows]


SEARCH = Searchable(
    table=experiments,
    id=experiments.c.experiment_id,
    attributes={
        "name": experiments.c.name,
        "experiment_id": experiments.c.experiment_id,
        "creation_time": experiments.c.creation_time,
        "last_update_time": experiments.c.last_update_time,
    },
    # Ids are whole numbers as text: they sort as numbers.
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


def search_experiments(
    connection: sa.Connection,
    *,
    filter_text: str | None,
    order_by: Sequence[str],
    view: str,
    limit: int,
    after: Position | None,
) -> tuple[list[Row], Position | None]:
    """A page of experiments with `tags`, and where the next begins.

    Raises InvalidParameterValue for what is wrong with the filter or the order.
    """
    page = search(
        connection,
        SEARCH,
        clauses=parse_filter(EXPERIMENTS, filter_text),
        order_by=parse_order_by(EXPERIMENTS, order_by),
        scope=[in_view(experiments.c.lifecycle_stage, view)],
        limit=limit,
        after=after,
    )
    return _with_tags(connection, page.rows), page.next_after


VIEW = EntityView(
    name="experiments",
    tables=(experiments, experiment_names, experiment_tags),
    folds={
        EXPERIMENT_CREATED: fold_created,
        EXPERIMENT_RENAMED: fold_renamed,
        EXPERIMENT_DELETED: fold_deleted,
        EXPERIMENT_RESTORED: fold_restored,
        EXPERIMENT_TAG_SET: fold_tag_set,
        EXPERIMENT_TAG_DELETED: fold_tag_deleted,
        EXPERIMENT_PURGED: fold_purged,
    },
    kept={EXPERIMENT_CREATED: _keep_name, EXPERIMENT_RENAMED: _keep_name},
    scrubbed={
        EXPERIMENT_CREATED: fold_scrubbed_created,
        EXPERIMENT_RENAMED: fold_scrubbed_renamed,
        EXPERIMENT_DELETED: fold_deleted,
        EXPERIMENT_RESTORED: fold_restored,
    },
)
