"""The log on PostgreSQL, MySQL and MariaDB: a table a lane, append-only by triggers."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from events.errors import TemporarilyUnavailable
from events.event import JOURNAL, LANES, POINTS, UNDIVIDED, Event, Lane, NewEvent, Partition
from events.log import PURGED_TYPES, LogError, LogIdentity
from events.mysql_log import MULTI_STATEMENTS, MysqlDialect
from events.postgresql_log import PostgresqlDialect
from events.sql_servers import DEFAULT_POOL, DriverMissing, Kind, Pool, kind_of, open_server, shown
from events.sql_writer import Dialect, Heads, Row, Session, SqlWriter

SCHEMA_VERSION = 1
_PURGED = ", ".join(f"'{name}'" for name in PURGED_TYPES)
_PAGE = 200
GAP_S_MAX = 5.0
GAP_LOOK_S = 0.005
_SCRUB_PAGE = 100
_IDS_MAX = 500
_COLUMNS = "position, type, version, subject, time, actor, origin, scrubbed, data"
_DIALECTS: dict[Kind, type[Dialect]] = {"postgresql": PostgresqlDialect, "mysql": MysqlDialect}


def _row(event: NewEvent | Event) -> Row:
    data = event.data.decode() if event.lane == "journal" else event.data
    return (
        event.type,
        event.version,
        event.subject,
        event.time,
        event.actor,
        event.origin,
        isinstance(event, Event) and event.scrubbed,
        data,
    )


def _event(lane: Lane, row: Any) -> Event:
    data = row[8]
    return Event(
        lane,
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        data.encode() if isinstance(data, str) else bytes(data),
        row[5],
        row[6],
        bool(row[7]),
    )


class SqlLog:
    """A Log on a database server; any number of processes and machines may open it."""

    is_near = False
    generation: str | None = None
    has_gaps = False
    can_scrub = True

    def __init__(self, uri: str, pool: Pool = DEFAULT_POOL, *, make: bool = True) -> None:
        """Makes the tables where there are none, unless told not to. Raises LogError where there
        is no log or it can't be used."""
        kind = kind_of(uri)
        if kind is None:
            raise LogError(f"not a database server that can hold a log: {shown(uri)}")
        self._uri = uri
        dialect = _DIALECTS[kind]()
        flag = MULTI_STATEMENTS if kind == "mysql" else 0
        try:
            self._engine = open_server(uri, pool)
            one = dataclasses.replace(pool, size=1, max_overflow=0)
            self._writer = SqlWriter(
                open_server(uri, one, client_flag=flag), dialect, pool.recycle_s
            )
        except DriverMissing as error:
            raise LogError(str(error)) from error
        self._dialect = dialect
        self._session = Session(self._engine, dialect)
        self._durable = Heads(0, 0)
        """Events up to here are known to be on the disk."""
        self._durable_lock = threading.Lock()
        try:
            self.identity = self._prepare(make)
        except (self._session.error, TemporarilyUnavailable) as error:
            self.close()
            raise LogError(f"{shown(uri)} can't be used as a log: {error}") from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, make: bool) -> LogIdentity:
        new_meta = (
            {}
            if not make
            else {
                "schema_version": str(SCHEMA_VERSION).encode(),
                "log_id": secrets.token_hex(16).encode(),
                "secret": secrets.token_bytes(32),
            }
        )
        connection = self._session.connect()
        try:
            self._dialect.check(self._dialect.cursor(connection))
            meta = self._dialect.prepare(connection, new_meta)
        finally:
            connection.close()
        if not meta:
            raise LogError(f"there is no log in {shown(self._uri)}: runfold log init makes one")
        version = bytes(meta["schema_version"]).decode()
        if version != str(SCHEMA_VERSION):
            raise LogError(
                f"the log has schema version {version}, this Runfold knows {SCHEMA_VERSION}: use "
                "the version of Runfold that wrote it, or a later one"
            )
        return LogIdentity(bytes(meta["log_id"]).decode(), bytes(meta["secret"]))

    def partitions(self) -> Sequence[Partition]:
        """See Log.partitions."""
        return UNDIVIDED

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append. Raises TemporarilyUnavailable, LogError or OutcomeUnknown."""
        return self._append(events)

    def adopt(self, events: Sequence[Event]) -> list[int]:
        """See CopyTarget.adopt."""
        return self._append(events)

    def _append(self, events: Sequence[NewEvent] | Sequence[Event]) -> list[int]:
        if not events:
            return []
        rows: dict[Lane, list[Row]] = {}
        for event in events:
            rows.setdefault(event.lane, []).append(_row(event))
        last = self._writer.append(rows)
        self._is_durable(last)
        next_ones = {
            "journal": last.journal - len(rows.get("journal", ())),
            "points": last.points - len(rows.get("points", ())),
        }
        positions = []
        for event in events:
            next_ones[event.lane] += 1
            positions.append(next_ones[event.lane])
        return positions

    def partition_of(self, lane: Lane, subject: str) -> Partition:  # noqa: ARG002
        """See CopyTarget.partition_of."""
        return Partition(lane)

    @property
    def copy_note(self) -> bytes | None:
        """See CopyTarget.copy_note."""
        rows = self._fetch("SELECT value FROM log_meta WHERE name = 'copy_note'")
        return bytes(rows[0][0]) if rows else None

    def note_copy(self, note: bytes, identity: LogIdentity | None = None) -> None:
        """See CopyTarget.note_copy."""
        values = {"copy_note": note}
        if identity is not None:
            values |= {"log_id": identity.log_id.encode(), "secret": identity.secret}
        with self._session.cursor() as cursor, _transaction(cursor):
            for name, value in values.items():
                cursor.execute("DELETE FROM log_meta WHERE name = %s", (name,))
                cursor.execute("INSERT INTO log_meta (name, value) VALUES (%s, %s)", (name, value))
        self.identity = identity or self.identity

    def _is_durable(self, heads: Heads) -> None:
        with self._durable_lock:
            self._durable = Heads(*map(max, self._durable, heads))

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """See Log.read. Raises LogError where an event is missing.

        MariaDB may show a commit without an earlier one, for a moment, as it makes its snapshots
        while transactions end. Positions have no gaps, so that is seen: nothing behind a gap is
        believed until the gap has closed.
        """
        lane = partition.lane
        deadline = time.monotonic() + GAP_S_MAX
        while (rows := self._rows(lane, after, limit)) and rows[0][0] != after + 1:
            if time.monotonic() >= deadline:
                raise LogError(
                    f"the log has no event {lane} {after + 1} but has later ones, up to "
                    f"{rows[-1][0]}: it has lost some. Restore its database from a backup"
                )
            time.sleep(GAP_LOOK_S)
        if rows and rows[-1][0] != after + len(rows):
            rows = [row for place, row in enumerate(rows, after + 1) if row[0] == place]
        if rows and rows[-1][0] > getattr(self._durable, lane):
            self._make_durable()
        return [_event(lane, row) for row in rows]

    def _rows(self, lane: Lane, after: int, limit: int) -> list[Any]:
        return self._fetch(
            f"SELECT {_COLUMNS} FROM log_{lane} WHERE position > %s ORDER BY position LIMIT %s",
            (after, limit),
        )

    def _make_durable(self) -> None:
        """Sees to it that whoever keeps what was just read keeps nothing that a crash of the
        server undoes."""
        heads = self._heads()
        with self._session.cursor() as cursor:
            self._dialect.flush(cursor)
        self._is_durable(heads)

    def head(self, partition: Partition) -> int:
        """See Log.head."""
        return int(getattr(self._heads(), partition.lane))

    def heads(self) -> dict[Partition, int]:
        """See Log.heads."""
        heads = self._heads()
        return {JOURNAL: heads.journal, POINTS: heads.points}

    def share_points(self) -> None:
        """See Log.share_points: there is one partition, and so one process at a time."""

    def has_grown(self, heads: Mapping[Partition, int], wait_s: float) -> bool:  # noqa: ARG002
        """See Log.has_grown."""
        now = self.heads()
        return any(now[partition] != head for partition, head in heads.items())

    def _heads(self) -> Heads:
        return Heads(*self._fetch("SELECT journal, points FROM log_heads")[0])

    def _fetch(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a query; asked again where the server had ended the connection before."""
        with contextlib.suppress(TemporarilyUnavailable):
            return self._fetch_once(statement, parameters)
        return self._fetch_once(statement, parameters)

    def _fetch_once(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        with self._session.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())

    def about(self, lane: Lane, subject: str) -> Iterator[Event]:
        """See Log.about. Reads a page at a time, so that a long history costs no memory."""
        after = 0
        while True:
            rows = self._fetch(
                f"SELECT {_COLUMNS} FROM log_{lane} WHERE subject = %s AND position > %s "
                "ORDER BY position LIMIT %s",
                (subject, after, _PAGE),
            )
            for row in rows:
                # See unscrubbed.
                if row[3] == subject:
                    yield _event(lane, row)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def unscrubbed(self, subjects: Collection[str]) -> set[str]:
        """See Log.unscrubbed."""
        found: set[str] = set()
        wanted = sorted(subjects)
        for start in range(0, len(wanted), _IDS_MAX):
            chunk = wanted[start : start + _IDS_MAX]
            marks = ", ".join(["%s"] * len(chunk))
            for lane in LANES:
                rows = self._fetch(
                    # The length: to MySQL a text with spaces at its end is the one without.
                    f"SELECT DISTINCT subject, octet_length(subject) FROM log_{lane} "
                    f"WHERE subject IN ({marks}) "
                    f"AND NOT scrubbed AND type NOT IN ({_PURGED})",
                    tuple(chunk),
                )
                found.update(row[0] for row in rows)
        return found.intersection(wanted)

    def scrub(self, subjects: Collection[str], keep: Callable[[Event], bytes]) -> int:
        """See Log.scrub. The server keeps the old bytes in its files until its own housekeeping
        has been there: VACUUM FULL on PostgreSQL, OPTIMIZE TABLE on MySQL."""
        return sum(
            self._scrub_subject(lane, subject, keep) for subject in subjects for lane in LANES
        )

    def _scrub_subject(self, lane: Lane, subject: str, keep: Callable[[Event], bytes]) -> int:
        count = after = 0
        # Points may be many and large, and nothing of them stays: their data is not read.
        columns = _COLUMNS if lane == "journal" else _COLUMNS.replace(", data", ", ''")
        while True:
            with self._session.cursor() as cursor, _transaction(cursor):
                cursor.execute(
                    f"SELECT {columns} FROM log_{lane} WHERE subject = %s AND NOT scrubbed "
                    f"AND type NOT IN ({_PURGED}) AND position > %s ORDER BY position LIMIT %s "
                    "FOR UPDATE",
                    (subject, after, _SCRUB_PAGE),
                )
                rows = cursor.fetchall()
                own = [row for row in rows if row[3] == subject]
                for row in own:
                    kept = keep(_event(lane, row)).decode() if lane == "journal" else b""
                    cursor.execute(
                        f"UPDATE log_{lane} SET data = %s, scrubbed = true WHERE position = %s",
                        (kept, row[0]),
                    )
            count += len(own)
            if len(rows) < _SCRUB_PAGE:
                return count
            after = rows[-1][0]

    def close(self) -> None:
        """See Log.close."""
        self._writer.close()
        self._engine.dispose()


@contextlib.contextmanager
def _transaction(cursor: Any) -> Iterator[None]:
    """A transaction on a connection whose statements commit by themselves."""
    cursor.execute("BEGIN")
    try:
        yield
    except BaseException:
        # The error that is raised says more than that of a connection which is gone.
        with contextlib.suppress(Exception):
            cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")
