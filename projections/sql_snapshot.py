"""What a SQL query is given: a folder of files, and the statements that make tables of them.

The folder holds what the query may see and nothing else: rows and files of other experiments are
not in it. The lake's files are linked, not copied: they never change, and a link keeps a file alive
that is replaced meanwhile. What they lack is read from the views, in the transaction that also
told which files count, so all tables are one snapshot.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from events.log import Log
from projections.database import Views
from projections.lake import DuckDB, Lake, SegmentGone, escaped, reader_cursor
from projections.lake_changes import KINDS
from projections.lake_exports import folder_of, get_state
from projections.query_points import POINTS_FILE
from projections.sql_events import event_columns, events_behind
from projections.sql_macros import CURVES, PIVOTED, QUERIES, run_table
from projections.sql_points import write_points
from projections.sql_rows import (
    OF_EXPERIMENTS,
    OF_RUNS,
    READERS,
    Raw,
    quoted,
    write_table,
)
from projections.sql_tables import BY_NAME
from projections.statements import fetch_rows

__all__ = ["SegmentGone", "Snapshot", "take_snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a query, and what makes tables of them."""

    folder: Path
    statements: tuple[str, ...]
    """For a DuckDB connection that may read the folder and nothing else, in this order, after
    `query_points.declare_metrics`: views and macros. They read footers and no rows."""


def take_snapshot(
    views: Views,
    log: Log,
    lake: Lake,
    experiments: Collection[str] | None,
    folder: Path,
    tables: Collection[str] | None = None,
) -> Snapshot:
    """Fills a folder, which must be new, private and on the lake's file system, with what these
    experiments (None: all) have at this moment. The caller removes it.

    Wait for the views beforehand to have it fresh. `tables` bounds the work to tables that the
    query can name (`run_table` and `curves` count as ones); others are then not declared at all.
    Raises SegmentGone where a file vanishes before it is linked: the folder is emptied, try again.
    """
    names = names_needed(tables)
    if not names:
        return Snapshot(folder, ())
    try:
        with views.read() as connection:
            return _Taking(connection, log, lake, folder, experiments).take(names)
    except SegmentGone:
        _empty(folder)
        raise


def fetch_ahead(
    views: Views,
    lake: Lake,
    experiments: Collection[str] | None,
    tables: Collection[str] | None = None,
) -> None:
    """Brings to this machine what a snapshot will need, which is not to wait for gigabytes.

    Raises SegmentGone as `take_snapshot` does, and TemporarilyUnavailable where S3 is away.
    """
    names = names_needed(tables)
    if not lake.is_remote or not names:
        return
    with views.read() as connection:
        found = fetch_rows(
            connection,
            "SELECT name, experiment_id, path FROM export_files UNION ALL"
            " SELECT 'metrics', experiment_id, path FROM segments",
        )
    wanted = None if experiments is None else set(experiments)
    lake.fetch([p for name, one, p in found if name in names and (wanted is None or one in wanted)])


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


def names_needed(tables: Collection[str] | None) -> set[str]:
    """The tables to declare for a query that can name these: what macros read is among them."""
    names = {*BY_NAME, "run_table", "curves"} if tables is None else set(tables)
    if "run_table" in names:
        names |= {"runs", *PIVOTED}
    if "curves" in names:
        names.add("metrics")
    return names


_RUN_TABLE_READS = [f"CREATE VIEW {name} " for name in ("runs", *PIVOTED)]


class _Taking:
    """One snapshot being made."""

    def __init__(
        self,
        connection: sa.Connection,
        log: Log,
        lake: Lake,
        folder: Path,
        experiments: Collection[str] | None,
    ) -> None:
        self._connection = connection
        self._log = log
        self._lake = lake
        self._folder = folder
        self._wanted = None if experiments is None else set(experiments)
        found = fetch_rows(connection, "SELECT experiment_id FROM experiments")
        self._experiments = {one for (one,) in found if self._wanted is None or one in self._wanted}
        marks = fetch_rows(connection, "SELECT experiment_id, kinds FROM changed_experiments")
        self._marks: dict[str, int] = {row[0]: row[1] for row in marks}
        files_there = fetch_rows(connection, "SELECT name, experiment_id, path FROM export_files")
        self._files: dict[str, list[tuple[str, str]]] = {}
        for name, experiment_id, path in files_there:
            if self._is_wanted(experiment_id):
                self._files.setdefault(name, []).append((experiment_id, path))

    @property
    def _cursor(self) -> DuckDB:
        """DuckDB, where a table needs it: a query for points alone does not."""
        return reader_cursor()

    def _is_wanted(self, experiment_id: str) -> bool:
        """Whether it is asked for; '', of what belongs to none, is only with all of them."""
        return self._wanted is None or experiment_id in self._wanted

    def take(self, names: set[str]) -> Snapshot:
        """Writes the tables and tells how to read them."""
        statements = [self._of_runs(table) for table in OF_RUNS if table in names]
        statements += [self._of_experiments(table) for table in OF_EXPERIMENTS if table in names]
        if "metrics" in names:
            self._metrics()
        if "events" in names:
            statements.append(self._events())
        if "run_table" in names:
            statements.append(self._run_table(statements))
        if "curves" in names:
            statements.append(CURVES)
        return Snapshot(self._folder, tuple(statements))

    def _run_table(self, statements: list[str]) -> str:
        """The macro, whose columns are found here over the same files: the child that runs the
        query may do nothing but what its statement says."""
        made = [one for one in statements if one.startswith(tuple(_RUN_TABLE_READS))]
        try:
            for one in made:
                self._cursor.execute(one.replace("CREATE VIEW", "CREATE OR REPLACE TEMP VIEW", 1))
            return run_table(self._cursor.execute(QUERIES).fetchall())
        finally:
            for one in made:
                self._cursor.execute(f"DROP VIEW IF EXISTS temp.{one.split(maxsplit=3)[2]}")

    def _of_runs(self, table: str) -> str:
        kind = KINDS[table]
        whole = {one for one, kinds in self._marks.items() if kinds & kind}
        linked = [(one, path) for one, path in self._files.get(table, []) if one not in whole]
        fresh: dict[str, str] = {}
        gone: list[str] = []
        for run_id, experiment_id, home in fetch_rows(
            self._connection,
            "SELECT c.run_id, r.experiment_id, p.experiment_id FROM changed_runs c"
            " LEFT JOIN runs r ON r.run_id = c.run_id"
            " LEFT JOIN exported_runs e ON e.run_id = c.run_id"
            " LEFT JOIN export_parts p ON p.part = e.part"
            " WHERE (c.kinds & ?) <> 0 OR p.part IS NULL",
            (kind,),
        ):
            if experiment_id is not None and experiment_id in self._experiments:
                fresh[run_id] = experiment_id
            if home is not None and self._is_wanted(home) and home not in whole:
                gone.append(run_id)
        for experiment_id in sorted(whole & self._experiments):
            found = fetch_rows(
                self._connection, "SELECT run_id FROM runs WHERE experiment_id = ?", [experiment_id]
            )
            fresh.update((run_id, experiment_id) for (run_id,) in found)
        raw = dict(READERS[table](self._connection, sorted(fresh)))
        raw["experiment_id"] = [fresh[run_id] for run_id in raw["run_id"]]
        return self._view(table, linked, raw, gone)

    def _of_experiments(self, table: str) -> str:
        kind = KINDS[table]
        listed = self._files.get(table, [])
        linked = [(one, path) for one, path in listed if not self._marks.get(one, 0) & kind]
        changed = {one for one, kinds in self._marks.items() if kinds & kind}
        raw = READERS[table](self._connection, sorted(changed & self._experiments))
        return self._view(table, linked, raw)

    def _events(self) -> str:
        after = get_state(self._connection, "events")
        rows = events_behind(self._connection, self._log, after, self._wanted)
        listed = self._files.get("events", [])
        marked = {one for one, kinds in self._marks.items() if kinds & KINDS["events"]}
        linked = [(one, path) for one, path in listed if one not in marked]
        left = [(one, path) for one, path in listed if one in marked]
        return self._view(
            "events", linked, event_columns(rows), extra=[self._events_left(left)] if left else []
        )

    def _events_left(self, given: list[tuple[str, str]]) -> Path:
        """What is left, after a purge, of events that were exported before it."""
        found = [row[0] for row in fetch_rows(self._connection, "SELECT subject FROM purged")]
        path = self._folder / "events-left.parquet"
        self._cursor.execute(
            f"COPY (SELECT {', '.join(BY_NAME['events'].column_names())} FROM read_parquet(?,"
            " hive_partitioning = true, hive_types = {'experiment_id': VARCHAR})"
            f" WHERE NOT list_contains(?::VARCHAR[], subject)) TO {quoted(str(path))}"
            " (FORMAT parquet)",
            [self._lake.files([one for _, one in given]), found],
        )
        return path

    def _view(
        self,
        table: str,
        linked: list[tuple[str, str]],
        raw: Raw,
        without: Collection[str] = (),
        extra: Iterable[Path] = (),
    ) -> str:
        """The table of linked files, but for some runs' rows, of fresh rows, and of more files."""
        names = ", ".join(BY_NAME[table].column_names())
        parts = []
        if linked:
            source = self._linked(table, linked)
            parts.append(f"SELECT {names} FROM {source}")
            if without:
                owners = self._folder / f"{table}-changed.parquet"
                self._write_ids(without, owners)
                parts[0] += f" WHERE run_id NOT IN (SELECT id FROM {_plain(owners)})"
        if not linked or len(next(iter(raw.values()))):
            path = self._folder / f"{table}-fresh.parquet"
            write_table(self._cursor, table, raw, path)
            extra = [path, *extra]
        parts += [f"SELECT {names} FROM {_plain(path)}" for path in extra]
        return f"CREATE VIEW {table} AS " + " UNION ALL ".join(parts)

    def _linked(self, table: str, paths: Iterable[tuple[str, str]]) -> str:
        """Files of the lake in the folder, as DuckDB reads them."""
        self._link(table, paths)
        every = escaped(self._folder / table) + "/*/*.parquet"
        return (
            f"read_parquet({quoted(every)}, hive_partitioning = true,"
            " hive_types = {'experiment_id': VARCHAR})"
        )

    def _link(self, table: str, paths: Iterable[tuple[str, str]]) -> None:
        self._lake.link({self._folder / _place(table, one, path): path for one, path in paths})

    def _write_ids(self, ids: Collection[str], path: Path) -> None:
        self._cursor.execute(
            f"COPY (SELECT unnest(?::VARCHAR[]) AS id) TO {quoted(str(path))} (FORMAT parquet)",
            [list(ids)],
        )

    def _metrics(self) -> None:
        rows = fetch_rows(self._connection, "SELECT segment_id, experiment_id, path FROM segments")
        found = [row for row in rows if row[1] in self._experiments]
        self._link("metrics", [row[1:] for row in found])
        segments = {row[0]: _place("metrics", *row[1:]) for row in found}
        path = self._folder / POINTS_FILE
        write_points(self._connection, self._experiments, segments, path)


def _plain(path: Path) -> str:
    """A file of our own, as DuckDB reads it."""
    return f"read_parquet({quoted(escaped(path))}, hive_partitioning = false)"


def _place(table: str, experiment_id: str, path: str) -> str:
    """Where a file of the lake is linked, from the folder on."""
    return f"{table}/{folder_of(experiment_id)}/{Path(path).name}"
