"""The log in one SQLite file: WAL, synchronous=FULL, append-only by triggers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from events.event import LANES, UNDIVIDED, Event, Lane, NewEvent, Partition
from events.log import PURGED_TYPES, LogError, LogIdentity
from events.sqlite import SqliteError, open_engine

SCHEMA_VERSION = 1
_PURGED = ", ".join(f"'{name}'" for name in PURGED_TYPES)
_PAGE = 200
_SCRUB_PAGE = 100
"""Events scrubbed in one transaction: few, since writers wait for it."""
_IDS_MAX = 500

_LANE_SCHEMA = """
CREATE TABLE {lane} (
    position INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    version INTEGER NOT NULL,
    subject TEXT NOT NULL,
    time INTEGER NOT NULL,
    actor TEXT,
    origin TEXT,
    scrubbed INTEGER NOT NULL DEFAULT 0,
    data {data_type} NOT NULL
);
CREATE INDEX {lane}_subject ON {lane} (subject);
CREATE TRIGGER {lane}_never_deletes BEFORE DELETE ON {lane}
BEGIN SELECT RAISE(ABORT, 'the log is append-only: events are never deleted'); END;
CREATE TRIGGER {lane}_never_changes BEFORE UPDATE ON {lane}
WHEN NOT (
    NEW.scrubbed = 1
    AND NEW.position = OLD.position AND NEW.type = OLD.type AND NEW.version = OLD.version
    AND NEW.subject = OLD.subject AND NEW.time = OLD.time
    AND NEW.actor IS OLD.actor AND NEW.origin IS OLD.origin
    AND length(NEW.data) <= max(length(OLD.data), 96)
    AND OLD.type NOT IN ({purged})
    AND EXISTS (SELECT 1 FROM journal p WHERE p.subject = OLD.subject AND p.type IN ({purged}))
)
BEGIN SELECT RAISE(ABORT, 'the log is append-only: only a purged subject can be scrubbed'); END;
"""

_INSERTED = "type, version, subject, time, actor, origin, data"
_WIDTH = 7
ROWS_A_STATEMENT = 64
_OF_EVENT = "position, type, version, subject, time, actor, origin, scrubbed"
_COLUMNS = f"{_OF_EVENT}, CAST(data AS BLOB)"
"""The data as bytes, which is what SQLite has: text would be made of them, and bytes of it."""


def _statements(script: str) -> Iterator[str]:
    """The script's statements; a trigger's body has semicolons of its own."""
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        closes = line.rstrip().endswith(";") and ("CREATE TRIGGER" not in pending or "END;" in line)
        if closes:
            yield pending
            pending = ""


def _columns(event: NewEvent | Event) -> tuple[Any, ...]:
    data = event.data.decode() if event.lane == "journal" else event.data
    return (
        event.type,
        event.version,
        event.subject,
        event.time,
        event.actor,
        event.origin,
        data,
    )


@cache
def _insertion(lane: Lane, rows: int) -> str:
    marks = ", ".join(["(" + ", ".join("?" * _WIDTH) + ")"] * rows)
    return f"INSERT INTO {lane} ({_INSERTED}) VALUES {marks}"


def _insert(cursor: Any, lane: Lane, values: list[Any]) -> int:
    """Inserts rows in one step, which SQLite numbers one after the other, as none is ever deleted;
    returns the last one's position.

    Every step gives up the interpreter's lock and waits until it has it again, so a step a row
    would make a commit wait for the requests that it should answer.
    """
    cursor.execute(_insertion(lane, len(values) // _WIDTH), values)
    return int(cursor.lastrowid)


class SqliteLog:
    """A Log over a SQLite file; any number of processes may open it."""

    is_near = True
    generation: str | None = None
    has_gaps = False
    can_scrub = True

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = open_engine(path, synchronous="FULL", secure_delete=True, cache_mb=4)
        self._reader = open_engine(path, synchronous="FULL", read_only=True, cache_mb=4)
        try:
            self.identity = self._prepare()
        except sa.exc.DatabaseError as error:
            raise LogError(f"{path} can't be used as a log: {error.orig}") from error
        self._append_lock = threading.Lock()
        self._append_connection: Any = self._writer.raw_connection()
        # Heads are asked for at every read: one plain connection spares the pool's way.
        self._read_lock = threading.Lock()
        self._read_connection: Any = self._reader.raw_connection()

    def _prepare(self) -> LogIdentity:
        with self._writer.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE IF NOT EXISTS log_meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)"
            )
            rows = connection.exec_driver_sql("SELECT name, value FROM log_meta").all()
            meta = {row[0]: row[1] for row in rows}
            if not meta:
                meta = {
                    "schema_version": SCHEMA_VERSION,
                    "log_id": secrets.token_hex(16),
                    "secret": secrets.token_bytes(32),
                }
                for lane, data_type in (("journal", "TEXT"), ("points", "BLOB")):
                    script = _LANE_SCHEMA.format(lane=lane, data_type=data_type, purged=_PURGED)
                    for statement in _statements(script):
                        connection.exec_driver_sql(statement)
                connection.exec_driver_sql(
                    "INSERT INTO log_meta (name, value) VALUES (?, ?)", list(meta.items())
                )
        if meta["schema_version"] != SCHEMA_VERSION:
            raise LogError(
                f"the log has schema version {meta['schema_version']}, this Runfold knows "
                f"{SCHEMA_VERSION}: use the version of Runfold that wrote it, or a later one"
            )
        return LogIdentity(meta["log_id"], meta["secret"])

    def partition_of(self, lane: Lane, subject: str) -> Partition:  # noqa: ARG002
        """See CopyTarget.partition_of."""
        return Partition(lane)

    def adopt(self, events: Sequence[Event]) -> list[int]:
        """See CopyTarget.adopt."""
        positions = []
        with self._append_lock:
            cursor = self._append_connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
                for event in events:
                    cursor.execute(
                        f"INSERT INTO {event.lane} ({_INSERTED}, scrubbed) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (*_columns(event), event.scrubbed),
                    )
                    positions.append(int(cursor.lastrowid))
                cursor.execute("COMMIT")
            finally:
                if self._append_connection.driver_connection.in_transaction:
                    cursor.execute("ROLLBACK")
                cursor.close()
        return positions

    @property
    def copy_note(self) -> bytes | None:
        """See CopyTarget.copy_note."""
        rows = self._fetch("SELECT value FROM log_meta WHERE name = 'copy_note'")
        return bytes(rows[0][0]) if rows else None

    def note_copy(self, note: bytes, identity: LogIdentity | None = None) -> None:
        """See CopyTarget.note_copy."""
        values: dict[str, Any] = {"copy_note": note}
        if identity is not None:
            values |= {"log_id": identity.log_id, "secret": identity.secret}
        with self._writer.begin() as connection:
            connection.exec_driver_sql(
                "INSERT OR REPLACE INTO log_meta (name, value) VALUES (?, ?)", list(values.items())
            )
        self.identity = identity or self.identity

    def partitions(self) -> Sequence[Partition]:
        """See Log.partitions."""
        return UNDIVIDED

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append. One transaction, so one fsync, whatever the number of events."""
        # A plain cursor: every metric that is logged passes here.
        rows: dict[Lane, list[Any]] = {}
        for event in events:
            rows.setdefault(event.lane, []).extend(_columns(event))
        with self._append_lock:
            cursor = self._append_connection.cursor()
            try:
                if len(rows) == 1 and len(events) <= ROWS_A_STATEMENT:
                    # A statement alone is a transaction of its own.
                    ((lane, values),) = rows.items()
                    last = {lane: _insert(cursor, lane, values)}
                else:
                    last = self._insert_all(cursor, rows)
            finally:
                cursor.close()
        if len(last) == 1:
            (position,) = last.values()
            return list(range(position - len(events) + 1, position + 1))
        heads = {lane: last[lane] - len(rows[lane]) // _WIDTH for lane in rows}
        positions = []
        for event in events:
            heads[event.lane] += 1
            positions.append(heads[event.lane])
        return positions

    def _insert_all(self, cursor: Any, rows: Mapping[Lane, list[Any]]) -> dict[Lane, int]:
        """Inserts what needs more than one statement; returns each lane's last position."""
        last: dict[Lane, int] = {}
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for lane, values in rows.items():
                for start in range(0, len(values), ROWS_A_STATEMENT * _WIDTH):
                    chunk = values[start : start + ROWS_A_STATEMENT * _WIDTH]
                    last[lane] = _insert(cursor, lane, chunk)
            cursor.execute("COMMIT")
        except BaseException:
            if self._append_connection.driver_connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        return last

    @staticmethod
    def _event(lane: Lane, row: Any) -> Event:
        return Event(
            lane, row[0], row[1], row[2], row[3], row[4], row[8], row[5], row[6], bool(row[7])
        )

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """See Log.read."""
        lane = partition.lane
        rows = self._fetch(
            f"SELECT {_COLUMNS} FROM {lane} WHERE position > ? ORDER BY position LIMIT ?",
            (after, limit),
        )
        return [self._event(lane, row) for row in rows]

    def head(self, partition: Partition) -> int:
        """See Log.head."""
        return int(self._fetch(f"SELECT max(position) FROM {partition.lane}")[0][0] or 0)

    def heads(self) -> dict[Partition, int]:
        """See Log.heads."""
        return {partition: self.head(partition) for partition in UNDIVIDED}

    def share_points(self) -> None:
        """See Log.share_points: there is one partition, and so one process at a time."""

    def has_grown(self, heads: Mapping[Partition, int], wait_s: float) -> bool:  # noqa: ARG002
        """See Log.has_grown."""
        now = self.heads()
        return any(now[partition] != head for partition, head in heads.items())

    def _fetch(self, statement: str, parameters: tuple[int, ...] = ()) -> list[Any]:
        with self._read_lock:
            cursor = self._read_connection.cursor()
            try:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())
            finally:
                cursor.close()

    def about(self, lane: Lane, subject: str) -> Iterator[Event]:
        """See Log.about. Reads a page at a time, so that a long history costs no memory."""
        after = 0
        while True:
            with self._reader.connect() as connection:
                rows = connection.exec_driver_sql(
                    f"SELECT {_COLUMNS} FROM {lane} WHERE subject = ? AND position > ? "
                    "ORDER BY position LIMIT ?",
                    (subject, after, _PAGE),
                ).all()
            for row in rows:
                yield self._event(lane, row)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def unscrubbed(self, subjects: Collection[str]) -> set[str]:
        """See Log.unscrubbed."""
        found: set[str] = set()
        wanted = sorted(subjects)
        for start in range(0, len(wanted), _IDS_MAX):
            chunk = wanted[start : start + _IDS_MAX]
            marks = ", ".join("?" * len(chunk))
            for lane in LANES:
                with self._reader.connect() as connection:
                    rows = connection.exec_driver_sql(
                        f"SELECT DISTINCT subject FROM {lane} WHERE subject IN ({marks}) "
                        f"AND scrubbed = 0 AND type NOT IN ({_PURGED})",
                        tuple(chunk),
                    )
                    found.update(row[0] for row in rows)
        return found

    def scrub(self, subjects: Collection[str], keep: Callable[[Event], bytes]) -> int:
        """See Log.scrub. Freed bytes are overwritten (secure_delete) and the WAL is emptied.

        Events only shrink, where they are: SQLite moves no page's content for that, so that no
        copy of it stays in a page's unused part.
        """
        count = 0
        for subject in subjects:
            for lane in LANES:
                count += self._scrub_subject(lane, subject, keep)
        self._empty_wal()
        return count

    def _scrub_subject(self, lane: Lane, subject: str, keep: Callable[[Event], bytes]) -> int:
        count = after = 0
        while True:
            # Points may be many and large, and nothing of them stays: their data is not read.
            columns = _COLUMNS if lane == "journal" else f"{_OF_EVENT}, x''"
            with self._writer.begin() as connection:
                rows = connection.exec_driver_sql(
                    f"SELECT {columns} FROM {lane} WHERE subject = ? AND scrubbed = 0 "
                    f"AND type NOT IN ({_PURGED}) AND position > ? ORDER BY position LIMIT ?",
                    (subject, after, _SCRUB_PAGE),
                ).all()
                changes = [
                    (keep(self._event(lane, row)).decode() if lane == "journal" else b"", row[0])
                    for row in rows
                ]
                if changes:
                    connection.exec_driver_sql(
                        f"UPDATE {lane} SET data = ?, scrubbed = 1 WHERE position = ?", changes
                    )
            count += len(rows)
            if len(rows) < _SCRUB_PAGE:
                return count
            after = rows[-1][0]

    def _empty_wal(self) -> None:
        """Moves the WAL into the file and cuts it to nothing, for it holds the old pages."""
        for wait_s in (0.1, 0.5, 2.0, None):
            if self._try_to_empty_wal():
                return
            if wait_s is not None:
                time.sleep(wait_s)
        raise LogError(
            "the log's WAL could not be emptied: another process is reading an old state of "
            "it; run the purge again"
        )

    def _try_to_empty_wal(self) -> bool:
        connection = self._writer.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            row = cursor.fetchone()
            busy = row is None or row[0]
            cursor.close()
        except SqliteError as error:
            raise LogError(f"the log's WAL could not be emptied: {error}") from error
        finally:
            connection.close()
        return not busy

    def close(self) -> None:
        """See Log.close."""
        self._read_connection.close()
        self._append_connection.close()
        self._reader.dispose()
        self._writer.dispose()
