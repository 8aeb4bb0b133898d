"""What the lake's exports lack: the runs and experiments that changed since they were written.

Folding marks what it changes, in its own transaction; the exporter (workers/exporter.py) writes the
files anew that hold what is marked, and a query's snapshot (projections/sql_snapshot.py) reads it
from the views meanwhile. The tables here say how rows are stored, not which there are, so a
rebuild begins them afresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from events.event import Event
from events.experiments import EXPERIMENT_DELETED, EXPERIMENT_PURGED, EXPERIMENT_RESTORED
from events.logged_models import LOGGED_MODEL_PURGED
from events.runs import RUN_PURGED
from projections.schema import metadata
from projections.state import State
from projections.statements import marking
from projections.view import EntityView

KINDS = {
    "runs": 1,
    "params": 2,
    "tags": 4,
    "latest_metrics": 8,
    "datasets": 16,
    "experiments": 32,
    "logged_models": 64,
    "events": 128,
}
"""A bit for each exported table: what of a run or experiment changed. Of an experiment, `runs` and
`datasets` mean those of all its runs, and `events` that some of them are gone."""
ALL_KINDS = sum(KINDS.values())

changed_runs = sa.Table(
    "changed_runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("kinds", sa.Integer, nullable=False),
    sa.Column("changes", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""The runs that changed since they were exported. `changes` counts the batches that changed one:
who has exported it removes the row only where the count still is what it was."""

changed_experiments = sa.Table(
    "changed_experiments",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("kinds", sa.Integer, nullable=False),
    sa.Column("changes", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

exported_runs = sa.Table(
    "exported_runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("part", sa.Text, nullable=False, index=True),
    sqlite_with_rowid=False,
)
"""Which part each exported run is in. A part is some runs of one experiment, in the order in which
they were first exported: what changes is written anew a part at a time."""

export_parts = sa.Table(
    "export_parts",
    metadata,
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False, index=True),
    sqlite_with_rowid=False,
)

export_files = sa.Table(
    "export_files",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The exported files: for each experiment and table (`name`) one a part; the tables that have no
runs have the part ''. `path` is relative to the lake."""

retired_exports = sa.Table(
    "retired_exports",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("retired_ms", sa.BigInteger, nullable=False),
)
"""Files that others took the place of; a reader with an older snapshot may still want them."""

segment_ranges = sa.Table(
    "segment_ranges",
    metadata,
    sa.Column("segment_id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("step_min", sa.BigInteger, nullable=False),
    sa.Column("step_max", sa.BigInteger, nullable=False),
    sa.Column("time_min", sa.BigInteger, nullable=False),
    sa.Column("time_max", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Where a run's points in a segment lie: the same point can be in two segments only where both
their steps and their timestamps overlap, so hardly ever must a query look for it."""

export_state = sa.Table(
    "export_state",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""`events`: the journal's position up to which events are exported. `exported_ms`: when everything
that was marked was exported last."""

CHANGE_TABLES = (
    changed_runs,
    changed_experiments,
    exported_runs,
    export_parts,
    export_files,
    retired_exports,
    segment_ranges,
    export_state,
)

_RUN_TABLES = {
    "runs": KINDS["runs"],
    "params": KINDS["params"],
    "tags": KINDS["tags"],
    "latest_metrics": KINDS["latest_metrics"],
    "run_inputs": KINDS["datasets"],
    "input_tags": KINDS["datasets"],
}
"""The views' tables whose key begins with a run, and what of it they are."""
_MODEL_TABLES = ("logged_models", "logged_model_params", "logged_model_tags")
_EXPERIMENT_TABLES = ("experiments", "experiment_tags")


def _mark(state: State, table: sa.Table, changed: Mapping[str, int]) -> None:
    """Marks runs or experiments with what changed of each."""
    rows = [(one, kinds, 1) for one, kinds in changed.items()]
    state.insert_many(marking(state.dialect, table, "kinds", "changes"), rows)


def fold_run_purged(state: State, event: Event, _data: Any) -> None:
    """Its files are due, those of its events too. Another run may have said first now what a
    dataset is that they share. A mark too many, where the purge is rejected, costs a file."""
    _mark(state, changed_runs, {event.subject: ALL_KINDS})
    row = state.rows("runs").get(event.subject)
    if row is not None:
        kinds = KINDS["datasets"] | KINDS["events"]
        _mark(state, changed_experiments, {row["experiment_id"]: kinds})


def fold_model_purged(state: State, event: Event, _data: Any) -> None:
    """Its experiment's models and events are due."""
    row = state.rows("logged_models").get(event.subject)
    if row is not None:
        kinds = KINDS["logged_models"] | KINDS["events"]
        _mark(state, changed_experiments, {row["experiment_id"]: kinds})


def fold_experiment_changed(state: State, event: Event, _data: Any) -> None:
    """The stage of all its runs may have changed, by a statement that names none of them."""
    _mark(state, changed_experiments, {event.subject: ALL_KINDS})


def finish(state: State) -> None:
    """Marks what the batch changed."""
    runs: dict[str, int] = {}
    for table, kind in _RUN_TABLES.items():
        for run_id in state.touched(table):
            runs[run_id] = runs.get(run_id, 0) | kind
    _mark(state, changed_runs, runs)
    experiments = dict(_experiments_touched(state))
    for model_id in _first_keys(state, _MODEL_TABLES):
        row = state.rows("logged_models").get(model_id)
        if row is not None:
            one = row["experiment_id"]
            experiments[one] = experiments.get(one, 0) | KINDS["logged_models"]
    _mark(state, changed_experiments, experiments)


def _experiments_touched(state: State) -> Iterable[tuple[str, int]]:
    return ((one, KINDS["experiments"]) for one in _first_keys(state, _EXPERIMENT_TABLES))


def _first_keys(state: State, tables: Iterable[str]) -> set[str]:
    return set().union(*map(state.touched, tables))


BEFORE = EntityView(
    name="lake changes by purges",
    tables=(),
    folds={
        RUN_PURGED: fold_run_purged,
        LOGGED_MODEL_PURGED: fold_model_purged,
        EXPERIMENT_DELETED: fold_experiment_changed,
        EXPERIMENT_RESTORED: fold_experiment_changed,
        EXPERIMENT_PURGED: fold_experiment_changed,
    },
    scrubbed={
        EXPERIMENT_DELETED: fold_experiment_changed,
        EXPERIMENT_RESTORED: fold_experiment_changed,
    },
)
"""Comes before all others, to see what they are about to remove."""

VIEW = EntityView(name="lake changes", tables=CHANGE_TABLES, folds={}, finish=finish)
"""Comes behind all others, to see what they changed."""


def forget_exports(connection: sa.Connection, prefix: str) -> None:
    """Marks everything in the tables with this prefix as not exported, for rows that were replaced
    by others than folds. The files that were exported belong to nobody then, and the exporter
    deletes them."""
    for table in CHANGE_TABLES:
        connection.exec_driver_sql(f"DELETE FROM {prefix}{table.name}")
    for noun in ("run", "experiment"):
        connection.exec_driver_sql(
            f"INSERT INTO {prefix}changed_{noun}s SELECT {noun}_id, {ALL_KINDS}, 1"
            f" FROM {prefix}{noun}s"
        )
