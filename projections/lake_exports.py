"""The lake's exports: runs and all that belongs to them as Parquet files, besides the segments.

Which files count is said by the tables of projections/lake_changes.py. A file never changes. One
that takes another's place is written first; then one transaction names the new file, retires the
old one and takes away the marks that it was written for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
import uuid_utils

from projections.lake import EXPORTS, WRITING, DuckDB, Lake
from projections.lake_changes import (
    KINDS,
    export_files,
    export_parts,
    export_state,
    exported_runs,
    retired_exports,
    segment_ranges,
)
from projections.sql_rows import OF_EXPERIMENTS, OF_RUNS, READERS, Raw, quoted, write_table
from projections.statements import fetch_rows, native, run, upserting

PART_RUNS = 1_000
"""So many runs are in one file, and written anew together."""
MARKS_MAX = 20_000
"""So many changed runs are looked at in one round."""
NOWHERE = "__HIVE_DEFAULT_PARTITION__"
"""The folder's name, in the words of Hive, of events whose subject never came to be."""
EVENT_FILES_MAX = 8
"""So many files of an experiment's events become one."""
ALL_OF_RUN = sum(KINDS[name] for name in OF_RUNS)
ROW_GROUP_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class File:
    """The file of a table's part from now on; without a path it has none any more."""

    experiment_id: str
    name: str
    part: str
    path: str | None
    size_bytes: int = 0


@dataclass(slots=True)
class Part:
    """Some runs of one experiment whose files are due."""

    experiment_id: str
    part: str
    kinds: int = 0
    new: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    marks: list[tuple[str, int]] = field(default_factory=list)
    """Its changed runs, each with the count of changes that is being exported."""


@dataclass(slots=True)
class Step:
    """What one transaction makes part of the views."""

    files: list[File] = field(default_factory=list)
    part: Part | None = None
    experiment: tuple[str, int] | None = None
    """An experiment whose mark is done, with its count of changes."""
    events: int | None = None
    """The journal's position up to which events are exported."""


def is_of(path: str, generation: str) -> bool:
    """Whether an exported file was written for this generation of the views."""
    return path.rpartition("/")[2].startswith(f"{generation}-")


class Writer:
    """Writes the files of one generation of the views."""

    def __init__(self, opened: Callable[[], DuckDB], lake: Lake, generation: str) -> None:
        """`opened` gives DuckDB when it is first needed: most rounds have nothing to write."""
        self._opened = opened
        self._cursor: DuckDB | None = None
        self.lake = lake
        self._generation = generation

    @property
    def cursor(self) -> DuckDB:
        """DuckDB for this round."""
        if self._cursor is None:
            self._cursor = self._opened()
        return self._cursor

    def close(self) -> None:
        """Gives back what it holds open."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def write(self, experiment_id: str, name: str, part: str, fill: Callable[[Path], None]) -> File:
        """A whole, durable file that `fill` has written."""
        folder = f"{EXPORTS}/{folder_of(experiment_id)}/{name}"
        path = f"{folder}/{self._generation}-{uuid_utils.uuid7()}.parquet"
        target = self.lake.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + WRITING)
        try:
            fill(temporary)
            opened = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
            temporary.rename(target)
            size_bytes = target.stat().st_size
            self.lake.keep(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            self.lake.discard(path)
            raise
        return File(experiment_id, name, part, path, size_bytes)

    def rows(self, experiment_id: str, name: str, part: str, raw: Raw) -> File:
        """A file of these rows; none where there are no rows."""
        if not len(next(iter(raw.values()))):
            return File(experiment_id, name, part, None)

        def fill(path: Path) -> None:
            write_table(
                self.cursor, name, raw, path, without=("experiment_id",), compression="zstd"
            )

        return self.write(experiment_id, name, part, fill)


def folder_of(experiment_id: str) -> str:
    """The name of an experiment's folder; '' stands for none."""
    return f"experiment_id={quote(experiment_id, safe='') or NOWHERE}"


def due_parts(connection: sa.Connection) -> list[Part]:
    """The parts that hold changed runs, or runs of experiments that changed as a whole."""
    parts: dict[str, Part] = {}
    homeless: dict[str, list[tuple[str, int]]] = {}
    nowhere = Part("", "")
    for run_id, kinds, changes, is_there, home, part in fetch_rows(
        connection,
        "SELECT c.run_id, c.kinds, c.changes, r.experiment_id, f.experiment_id, e.part"
        " FROM changed_runs c LEFT JOIN runs r ON r.run_id = c.run_id"
        " LEFT JOIN exported_runs e ON e.run_id = c.run_id"
        " LEFT JOIN export_parts f ON f.part = e.part"
        f" ORDER BY c.run_id LIMIT {MARKS_MAX}",
    ):
        if part is None:
            if is_there is None:
                nowhere.marks.append((run_id, changes))
            else:
                homeless.setdefault(is_there, []).append((run_id, changes))
            continue
        due = parts.setdefault(part, Part(home, part))
        due.kinds |= kinds & ALL_OF_RUN
        due.marks.append((run_id, changes))
        if is_there is None:
            due.gone.append(run_id)
    for experiment_id, found in homeless.items():
        for due in _rooms(connection, experiment_id, found):
            known = parts.setdefault(due.part, due)
            if known is not due:
                known.new += due.new
                known.marks += due.marks
            known.kinds = ALL_OF_RUN
    for experiment_id, part, kinds in fetch_rows(
        connection,
        "SELECT p.experiment_id, p.part, c.kinds FROM changed_experiments c"
        " JOIN export_parts p ON p.experiment_id = c.experiment_id WHERE (c.kinds & ?) <> 0",
        (KINDS["runs"] | KINDS["datasets"],),
    ):
        due = parts.setdefault(part, Part(experiment_id, part))
        due.kinds |= kinds & (KINDS["runs"] | KINDS["datasets"])
    return [*parts.values(), *([nowhere] if nowhere.marks else [])]


def _rooms(
    connection: sa.Connection, experiment_id: str, runs: Sequence[tuple[str, int]]
) -> list[Part]:
    """The last part of the experiment, up to its size, and new ones for these runs."""
    found = fetch_rows(
        connection,
        "SELECT p.part, (SELECT count(*) FROM exported_runs e WHERE e.part = p.part)"
        " FROM export_parts p WHERE p.experiment_id = ? ORDER BY p.part DESC LIMIT 1",
        (experiment_id,),
    )
    part, count = found[0] if found else ("", PART_RUNS)
    parts: list[Part] = []
    for run_id, changes in runs:
        if count >= PART_RUNS:
            part, count = str(uuid_utils.uuid7()), 0
        if not parts or parts[-1].part != part:
            parts.append(Part(experiment_id, part))
        parts[-1].new.append(run_id)
        parts[-1].marks.append((run_id, changes))
        count += 1
    return parts


def export_part(connection: sa.Connection, writer: Writer, due: Part) -> Step:
    """Writes those files of a part that changed."""
    found = fetch_rows(connection, "SELECT run_id FROM exported_runs WHERE part = ?", (due.part,))
    members = sorted({*(row[0] for row in found), *due.new} - set(due.gone))
    step = Step(part=due)
    for name in OF_RUNS:
        if due.kinds & KINDS[name]:
            raw = READERS[name](connection, members)
            step.files.append(writer.rows(due.experiment_id, name, due.part, raw))
    return step


def due_experiments(connection: sa.Connection) -> list[tuple[str, int, int]]:
    """The (experiment, kinds, changes) that are marked."""
    statement = "SELECT experiment_id, kinds, changes FROM changed_experiments"
    return [(row[0], row[1], row[2]) for row in fetch_rows(connection, statement)]


def export_experiment(
    connection: sa.Connection, writer: Writer, experiment_id: str, kinds: int
) -> list[File]:
    """Writes what is marked of an experiment, but for its runs."""
    written = [
        writer.rows(experiment_id, name, "", READERS[name](connection, [experiment_id]))
        for name in OF_EXPERIMENTS
        if kinds & KINDS[name]
    ]
    if kinds & KINDS["events"]:
        written += rewrite_events(connection, writer, experiment_id)
    return written


def event_files(connection: sa.Connection, experiment_id: str) -> list[tuple[str, str]]:
    """The (part, path) of an experiment's files of events, oldest first."""
    found = fetch_rows(
        connection,
        "SELECT part, path FROM export_files WHERE experiment_id = ? AND name = 'events'"
        " ORDER BY part",
        (experiment_id,),
    )
    return [(part, path) for part, path in found]


def rewrite_events(connection: sa.Connection, writer: Writer, experiment_id: str) -> list[File]:
    """One file of an experiment's events in the place of all, without those of what was purged."""
    given = event_files(connection, experiment_id)
    if not given:
        return []
    listed = f"read_parquet([{', '.join(map(quoted, writer.lake.files([p for _, p in given])))}]"
    listed += ", hive_partitioning = false)"
    subjects = writer.cursor.execute(f"SELECT DISTINCT subject FROM {listed}").fetchall()
    known = {row[0] for row in fetch_rows(connection, "SELECT subject FROM purged")}
    gone = sorted({subject for (subject,) in subjects} & known)
    left = f"FROM {listed} WHERE NOT list_contains(?::VARCHAR[], subject)"
    found = writer.cursor.execute(f"SELECT count(*) {left}", [gone]).fetchall()
    emptied = [File(experiment_id, "events", part, None) for part, _ in given]
    if not found[0][0]:
        return emptied

    def fill(path: Path) -> None:
        writer.cursor.execute(
            f"COPY (SELECT * {left} ORDER BY position) TO {quoted(str(path))}"
            " (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)",
            [gone],
        )

    return [*emptied[1:], writer.write(experiment_id, "events", given[0][0], fill)]


def commit(connection: sa.Connection, step: Step, now_ms: int) -> None:
    """Makes what a step wrote part of the views. Needs a write transaction."""
    if step.part is not None:
        _commit_part(connection, step.part)
    for file in step.files:
        key = (file.experiment_id, file.name, file.part)
        where = "WHERE experiment_id = ? AND name = ? AND part = ?"
        replaced = fetch_rows(connection, f"SELECT path FROM export_files {where}", key)
        _put(connection, retired_exports, [(path, now_ms) for (path,) in replaced])
        run(connection, f"DELETE FROM export_files {where}", key)
        if file.path is not None:
            _put(connection, export_files, [(*key, file.path, file.size_bytes)])
    if step.experiment is not None:
        run(
            connection,
            "DELETE FROM changed_experiments WHERE experiment_id = ? AND changes = ?",
            step.experiment,
        )
    if step.events is not None:
        put_state(connection, "events", step.events)


def _commit_part(connection: sa.Connection, part: Part) -> None:
    if part.new:
        _put(connection, export_parts, [(part.part, part.experiment_id)])
    _put(connection, exported_runs, [(run_id, part.part) for run_id in part.new])
    _many(connection, "DELETE FROM exported_runs WHERE run_id = ?", ((r,) for r in part.gone))
    _many(connection, "DELETE FROM changed_runs WHERE run_id = ? AND changes = ?", part.marks)


def _many(connection: sa.Connection, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
    given = list(rows)
    if given:
        connection.exec_driver_sql(native(connection.dialect.name, statement), given)


def _put(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[object, ...]]) -> None:
    """Writes rows with all columns of a table, in the place of those with the same key."""
    with contextlib.closing(connection.connection.cursor()) as cursor:
        upserting(connection.dialect.name, table).write(cursor, rows)


def get_state(connection: sa.Connection, name: str) -> int:
    """A number of the exporter's state; 0 where it has none."""
    found = fetch_rows(connection, "SELECT value FROM export_state WHERE name = ?", (name,))
    return int(found[0][0]) if found else 0


def put_state(connection: sa.Connection, name: str, value: int) -> None:
    """Sets a number of the exporter's state."""
    _put(connection, export_state, [(name, value)])


def known_exports(connection: sa.Connection) -> set[str]:
    """The files that the views know: those they are made of, and the retired ones."""
    found = connection.exec_driver_sql(
        "SELECT path FROM export_files UNION ALL SELECT path FROM retired_exports"
    )
    return set(found.scalars())


def next_unranged(connection: sa.Connection) -> tuple[str, str] | None:
    """The (id, path) of a segment of which it is not known where its runs' points lie."""
    found = connection.exec_driver_sql(
        "SELECT segment_id, path FROM segments WHERE segment_id NOT IN"
        " (SELECT segment_id FROM segment_ranges) ORDER BY segment_id DESC LIMIT 1"
    ).first()
    return None if found is None else (found[0], found[1])


def add_ranges(
    connection: sa.Connection, segment_id: str, rows: Sequence[Sequence[object]]
) -> None:
    """Keeps where the points of a segment's runs lie."""
    _put(connection, segment_ranges, [(segment_id, *row) for row in rows])


def forget_ranges(connection: sa.Connection) -> None:
    """Forgets where points lay of segments that are gone."""
    connection.exec_driver_sql(
        "DELETE FROM segment_ranges WHERE segment_id NOT IN (SELECT segment_id FROM segments)"
    )


def merge_ranges(
    connection: sa.Connection, segment_id: str, merged: Sequence[str], without: Sequence[str] = ()
) -> None:
    """Keeps where the points of a segment's runs lie that was made of others; these are forgotten.

    `without`: the runs that were left out. Where one of the others is not known, it is not either.
    """
    marks = ", ".join("?" * len(merged))
    known = fetch_rows(
        connection,
        f"SELECT count(DISTINCT segment_id) FROM segment_ranges WHERE segment_id IN ({marks})",
        tuple(merged),
    )
    if known[0][0] == len(merged):
        found = fetch_rows(
            connection,
            "SELECT run_id, min(step_min), max(step_max), min(time_min), max(time_max)"
            f" FROM segment_ranges WHERE segment_id IN ({marks}) GROUP BY run_id",
            tuple(merged),
        )
        left_out = set(without)
        rows = [row for row in found if row[0] not in left_out]
        add_ranges(connection, segment_id, rows)
    run(connection, f"DELETE FROM segment_ranges WHERE segment_id IN ({marks})", tuple(merged))


def read_ranges(cursor: DuckDB, lake: Lake, path: str) -> list[tuple[object, ...]]:
    """Run, least and greatest step, least and greatest timestamp in a segment."""
    return cursor.execute(
        "SELECT run_id, min(step), max(step), min(timestamp), max(timestamp)"
        " FROM read_parquet(?, hive_partitioning = false) GROUP BY run_id",
        [lake.files([path])],
    ).fetchall()


def export_lag_ms(connection: sa.Connection, now_ms: int) -> int | None:
    """How long ago a round of exports began that was finished; None where there was none."""
    exported_ms = get_state(connection, "exported_ms")
    return None if not exported_ms else max(0, now_ms - exported_ms)
