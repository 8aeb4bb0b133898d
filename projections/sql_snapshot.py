"""What a SQL query is given: a folder of files, and the statements that make tables of them.

The folder holds what the query may see and nothing else: rows and files of other experiments are
not in it. All of it is one snapshot of the views, so the tables hold together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from events.codec import Block, Series
from events.event import Event
from events.log import Log
from projections.database import Views
from projections.history import SegmentGone, run_points
from projections.lake import DuckDB, reader_cursor
from projections.schema import checkpoints, purged, rejections
from projections.sql_macros import macros
from projections.sql_rows import OF_EXPERIMENTS, OF_RUNS, READERS, Raw, quoted, write_table
from projections.sql_tables import BY_NAME

__all__ = ["SegmentGone", "Snapshot", "take_snapshot"]

READ_EVENTS = 5_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a query, and what makes tables of them."""

    folder: Path
    statements: tuple[str, ...]
    """For a fresh DuckDB connection that may read the folder and nothing else, in this order,
    before it is locked down: views and macros. They read footers, no rows, unless `run_table` is
    among the tables."""


def take_snapshot(
    views: Views,
    log: Log,
    lake: Path,
    experiments: Collection[str] | None,
    folder: Path,
    tables: Collection[str] | None = None,
) -> Snapshot:
    """Fills a folder, which must be new, private and on the lake's file system, with what these
    experiments (None: all) have at this moment. The caller removes it.

    Wait for the views beforehand to have it fresh. `tables` bounds the work to tables that the
    query can name (`run_table` and `curves` count as ones); others are then not declared at all.
    Raises SegmentGone where files vanish faster than they can be linked: try again.
    """
    with views.read() as connection:
        return _Taking(connection, log, lake, folder, experiments).take(names_needed(tables))


def names_needed(tables: Collection[str] | None) -> set[str]:
    """The tables to declare for a query that can name these: what macros read is among them."""
    names = {*BY_NAME, "run_table", "curves"} if tables is None else set(tables)
    if "run_table" in names:
        names |= {"runs", "params", "tags", "latest_metrics"}
    if "curves" in names:
        names.add("metrics")
    return names


class _Taking:
    """One snapshot being made."""

    def __init__(
        self,
        connection: sa.Connection,
        log: Log,
        lake: Path,
        folder: Path,
        experiments: Collection[str] | None,
    ) -> None:
        self._connection = connection
        self._log = log
        self._lake = lake
        self._folder = folder
        self._cursor: DuckDB = reader_cursor()
        self._is_all = experiments is None
        found = connection.exec_driver_sql("SELECT experiment_id FROM experiments").scalars()
        self._experiments = [one for one in found if experiments is None or one in experiments]

    def take(self, names: set[str]) -> Snapshot:
        """Writes the tables and tells how to read them."""
        statements: list[str] = []
        experiment_of = self._experiment_of()
        run_ids = list(experiment_of)
        for table in OF_RUNS:
            if table in names:
                raw = dict(READERS[table](self._connection, run_ids))
                raw["experiment_id"] = [experiment_of[run_id] for run_id in raw["run_id"]]
                statements.append(self._fresh(table, raw))
        for table in OF_EXPERIMENTS:
            if table in names:
                raw = dict(READERS[table](self._connection, self._experiments))
                statements.append(self._fresh(table, raw))
        if "metrics" in names:
            statements.append(self._fresh("metrics", self._points(experiment_of)))
        if "events" in names:
            statements.append(self._fresh("events", self._events()))
        return Snapshot(self._folder, (*statements, *macros(names)))

    def _experiment_of(self) -> dict[str, str]:
        wanted = set(self._experiments)
        found = self._connection.exec_driver_sql("SELECT run_id, experiment_id FROM runs").all()
        return {run_id: experiment for run_id, experiment in found if experiment in wanted}

    def _fresh(self, table: str, raw: Raw) -> str:
        path = self._folder / f"{table}.parquet"
        write_table(self._cursor, table, raw, path)
        names = ", ".join(BY_NAME[table].column_names())
        return (
            f"CREATE VIEW {table} AS SELECT DISTINCT {names}"
            f" FROM read_parquet({quoted(str(path))}, hive_partitioning = false)"
        )

    def _points(self, experiment_of: dict[str, str]) -> Raw:
        raw: dict[str, list[Any]] = {}
        for run_id, experiment_id in experiment_of.items():
            for block in run_points(self._connection, self._lake, run_id):
                for name, values in block_columns(run_id, experiment_id, block).items():
                    raw.setdefault(name, []).append(values)
        if not raw:
            raw = {name: [()] for name in ("run_id", "experiment_id", "step", "timestamp")}
            raw |= {name: [()] for name in ("value", *Series._fields)}
        return {name: np.concatenate(values) for name, values in raw.items()}

    def _events(self) -> Raw:
        place = checkpoints.c.lane == "journal"
        head = self._connection.execute(sa.select(checkpoints.c.position).where(place)).scalar()
        raw: dict[str, list[Any]] = {name: [] for name in _EVENT_COLUMNS}
        experiment_of = subjects(self._connection)
        wanted = set(self._experiments)
        gone = set(self._connection.execute(sa.select(purged.c.subject)).scalars())
        refused = {row[0]: row for row in self._connection.execute(sa.select(rejections))}
        for event in self._journal(head or 0):
            experiment_id = experiment_of.get(event.subject)
            if event.subject in gone or not (self._is_all or experiment_id in wanted):
                continue
            verdict = refused.get(event.position)
            for name in _EVENT_COLUMNS[:6]:
                raw[name].append(getattr(event, name))
            raw["experiment_id"].append(experiment_id)
            raw["data"].append(event.data.decode())
            raw["verdict"].append("rejected" if verdict else "accepted")
            raw["error_code"].append(verdict[2] if verdict else None)
            raw["error_message"].append(verdict[3] if verdict else None)
            raw["origin"].append(event.origin)
        return dict(raw)

    def _journal(self, head: int) -> Iterator[Event]:
        after = 0
        while events := self._log.read("journal", after, READ_EVENTS):
            for event in events:
                if event.position > head:
                    return
                yield event
            after = events[-1].position


_EVENT_COLUMNS = (
    *("position", "type", "version", "subject", "time", "actor", "origin"),
    *("experiment_id", "data", "verdict", "error_code", "error_message"),
)


def subjects(connection: sa.Connection) -> dict[str, str]:
    """The experiment of everything that events are about."""
    found: dict[str, str] = {}
    for statement in (
        "SELECT experiment_id, experiment_id FROM experiments",
        "SELECT run_id, experiment_id FROM runs",
        "SELECT model_id, experiment_id FROM logged_models",
    ):
        found.update(connection.exec_driver_sql(statement).all())
    return found


def block_columns(run_id: str, experiment_id: str, block: Block) -> dict[str, Any]:
    """The points of a block as columns of `metrics`."""
    columns: dict[str, Any] = {
        "run_id": np.full(len(block), run_id, object),
        "experiment_id": np.full(len(block), experiment_id, object),
        "step": block.steps,
        "timestamp": block.timestamps,
        # Of a zero and its negative, equal to all, one is kept.
        "value": block.values + 0.0,
    }
    for name in Series._fields:
        texts = np.empty(len(block.series), object)
        texts[:] = [getattr(series, name) for series in block.series]
        columns[name] = texts[block.index]
    return columns
