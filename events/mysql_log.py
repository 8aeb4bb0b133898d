"""The log on MySQL and MariaDB: what differs there from other servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from events.event import LANES, Lane
from events.log import PURGED_TYPES, LogError
from events.sql_writer import Append, Heads, Row

MULTI_STATEMENTS = 1 << 16
"""The client's flag with which one message may hold several statements."""
CREATE_WAIT_S = 60
IDLE_S_MAX, IDLE_TRANSACTION_S_MAX = 600, 30
PACKET_BYTES_MIN = 1 << 20
_PURGED = ", ".join(f"'{name}'" for name in PURGED_TYPES)
# Errors after which the server ends the session: killed, shutting down, idle for too long.
_LOST_CODES = frozenset((1053, 1079, 1152, 1158, 1159, 1160, 1161, 1317, 1927, 2006, 2013, 2014))
_LOST_CODES |= {2045, 2055, 3168, 4031}

_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_TABLES = (
    """CREATE TABLE IF NOT EXISTS log_heads (
    id INTEGER PRIMARY KEY,
    journal BIGINT NOT NULL,
    points BIGINT NOT NULL
) ENGINE = InnoDB""",
    "INSERT IGNORE INTO log_heads VALUES (1, 0, 0)",
    f"""CREATE TABLE IF NOT EXISTS log_writers (
    writer VARCHAR(32) {_TEXT} PRIMARY KEY,
    sequence BIGINT NOT NULL,
    fenced BIGINT NOT NULL,
    journal BIGINT NOT NULL,
    points BIGINT NOT NULL
) ENGINE = InnoDB""",
    "DROP TRIGGER IF EXISTS log_writers_count",
    """CREATE TRIGGER log_writers_count BEFORE UPDATE ON log_writers FOR EACH ROW
BEGIN
    IF NEW.sequence <> OLD.sequence + 1 AND NEW.journal = OLD.journal AND NEW.points = OLD.points
    THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this append was given up';
    END IF;
END""",
)
_LANE = (
    f"""CREATE TABLE IF NOT EXISTS log_{{lane}} (
    position BIGINT PRIMARY KEY,
    type VARCHAR(255) {_TEXT} NOT NULL,
    version INTEGER NOT NULL,
    subject VARCHAR(512) {_TEXT} NOT NULL,
    time BIGINT NOT NULL,
    actor TEXT {_TEXT},
    origin TEXT {_TEXT},
    scrubbed BOOLEAN NOT NULL DEFAULT false,
    data {{data_type}} NOT NULL,
    KEY log_{{lane}}_subject (subject)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC""",
    "DROP TRIGGER IF EXISTS log_{lane}_never_deletes",
    """CREATE TRIGGER log_{lane}_never_deletes BEFORE DELETE ON log_{lane} FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the log is append-only: events are never deleted'""",
    "DROP TRIGGER IF EXISTS log_{lane}_never_changes",
    """CREATE TRIGGER log_{lane}_never_changes BEFORE UPDATE ON log_{lane} FOR EACH ROW
BEGIN
    IF NOT (
        NEW.scrubbed
        AND NEW.position = OLD.position AND NEW.type = OLD.type AND NEW.version = OLD.version
        AND NEW.subject = OLD.subject AND NEW.time = OLD.time
        AND NEW.actor <=> OLD.actor AND NEW.origin <=> OLD.origin
        AND LENGTH(NEW.data) <= GREATEST(LENGTH(OLD.data), 96)
        AND OLD.type NOT IN ({purged})
        AND EXISTS (
            SELECT 1 FROM log_journal p WHERE p.subject = OLD.subject AND p.type IN ({purged})
        )
    ) THEN
        SIGNAL SQLSTATE '45000'
        SET MESSAGE_TEXT = 'the log is append-only: only a purged subject can be scrubbed';
    END IF;
END""",
)
_DATA_TYPES: dict[Lane, str] = {"journal": f"LONGTEXT {_TEXT}", "points": "LONGBLOB"}
_META = """CREATE TABLE IF NOT EXISTS log_meta (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
    value BLOB NOT NULL
) ENGINE = InnoDB"""
_ROW_MARKS = ", ".join(["%s"] * 8)


def _schema() -> Iterator[str]:
    yield from _TABLES
    for lane in LANES:
        for statement in _LANE:
            yield statement.format(lane=lane, data_type=_DATA_TYPES[lane], purged=_PURGED)


def _inserts(cursor: Any, lane: Lane, rows: Sequence[Row], bytes_max: int) -> Iterator[str]:
    """Statements that insert the rows, none longer than the bound unless one row is.

    Positions count down from the lane's new head, which the server has in a variable.
    """
    head = (
        f"INSERT INTO log_{lane} (position, type, version, subject, time, actor, origin, scrubbed, "
        "data) VALUES "
    )
    values: list[str] = []
    size_bytes = len(head)
    for place, row in enumerate(rows):
        left = len(rows) - place - 1
        text = f"(@{lane} - {left}, {cursor.mogrify(_ROW_MARKS, row)})"
        # A character may be four bytes.
        row_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
        if values and size_bytes + row_bytes > bytes_max:
            yield head + ", ".join(values)
            values, size_bytes = [], len(head)
        values.append(text)
        size_bytes += row_bytes + 2
    yield head + ", ".join(values)


def _messages(statements: Iterator[str], bytes_max: int) -> Iterator[str]:
    """The statements in as few messages as the server takes."""
    message: list[str] = []
    size_bytes = 0
    for statement in statements:
        statement_bytes = len(statement.encode("utf-8", "surrogateescape")) + 2
        if message and size_bytes + statement_bytes > bytes_max:
            yield "; ".join(message)
            message, size_bytes = [], 0
        message.append(statement)
        size_bytes += statement_bytes
    yield "; ".join(message)


class MysqlDialect:
    """See sql_writer.Dialect."""

    def __init__(self) -> None:
        self._message_bytes_max = PACKET_BYTES_MIN // 2

    def prepare(self, connection: Any, new_meta: Mapping[str, bytes]) -> dict[str, bytes]:
        """See Dialect.prepare. MySQL commits each table by itself; what says that all are there
        comes last, so that a beginning that was killed is done again."""
        cursor = self.cursor(connection)
        cursor.execute("SELECT DATABASE()")
        (database,) = cursor.fetchone()
        if database is None:
            raise LogError("the log's URI names no database: mysql+pymysql://HOST/DATABASE")
        lock = f"runfold.{database}"[:64]
        cursor.execute("SELECT GET_LOCK(%s, %s)", (lock, CREATE_WAIT_S))
        try:
            meta = self._meta(cursor)
            if not meta and new_meta:
                for statement in (_META, *_schema()):
                    cursor.execute(statement)
                with _transaction(cursor):
                    for name, value in new_meta.items():
                        cursor.execute("INSERT INTO log_meta VALUES (%s, %s)", (name, value))
                meta = self._meta(cursor)
        finally:
            cursor.execute("SELECT RELEASE_LOCK(%s)", (lock,))
        return meta

    @staticmethod
    def _meta(cursor: Any) -> dict[str, bytes]:
        cursor.execute("SHOW TABLES LIKE 'log_meta'")
        if cursor.fetchone() is None:
            return {}
        cursor.execute("SELECT name, value FROM log_meta WHERE name <> 'flushes'")
        return dict(cursor.fetchall())

    def check(self, cursor: Any) -> None:
        """See Dialect.check."""
        # A client that is gone without a word leaves no transaction open for long.
        cursor.execute(
            "SET /*M! SESSION idle_write_transaction_timeout = "
            f"{IDLE_TRANSACTION_S_MAX}, */ SESSION wait_timeout = {IDLE_S_MAX}"
        )
        cursor.execute(
            "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog, "
            "@@max_allowed_packet"
        )
        flushes, has_binlog, sync_binlog, packet_bytes = cursor.fetchone()
        if int(flushes) != 1:
            raise LogError(
                f"the log's database has innodb_flush_log_at_trx_commit={flushes} and can lose "
                "what it has committed: set it to 1 in its configuration"
            )
        if has_binlog and int(sync_binlog) != 1:
            raise LogError(
                f"the log's database writes a binary log with sync_binlog={sync_binlog} and can "
                "lose what it has committed: set sync_binlog=1, or skip-log-bin"
            )
        if packet_bytes < PACKET_BYTES_MIN:
            raise LogError(
                f"the log's database has max_allowed_packet={packet_bytes}, which is less than an "
                "event can have: set it to 16M or more"
            )
        self._message_bytes_max = packet_bytes - (packet_bytes >> 4)

    def cursor(self, connection: Any) -> Any:
        """See Dialect.cursor."""
        return connection.driver_connection.cursor()

    def append(self, cursor: Any, append: Append) -> Heads | None:
        """See Dialect.append. All goes to the server at once where it fits into one message, so
        that no lock waits for a client. First the writer's row is counted up, where an append that
        was given up fails; then the heads' row is locked, which everybody waits for. So positions
        are given, and become visible, in the order of the commits."""
        for message in _messages(self._statements(cursor, append), self._message_bytes_max):
            cursor.execute(message)
            while cursor.nextset():
                continue
        journal, points = cursor.fetchone()
        return Heads(int(journal), int(points))

    def _statements(self, cursor: Any, append: Append) -> Iterator[str]:
        mine = f"WHERE writer = '{append.writer}'"
        yield "BEGIN"
        yield f"UPDATE log_writers SET sequence = {append.sequence} {mine}"
        grown = ", ".join(f"{lane} = {lane} + {len(rows)}" for lane, rows in append.rows.items())
        yield f"UPDATE log_heads SET {grown} WHERE id = 1"
        yield "SELECT journal, points INTO @journal, @points FROM log_heads WHERE id = 1"
        for lane, rows in append.rows.items():
            yield from _inserts(cursor, lane, rows, self._message_bytes_max)
        yield f"UPDATE log_writers SET journal = @journal, points = @points {mine}"
        yield "COMMIT"
        yield "SELECT @journal, @points"

    def roll_back(self, cursor: Any) -> None:
        """See Dialect.roll_back."""
        cursor.execute("ROLLBACK")

    def is_lost(self, error: Exception, connection: Any) -> bool:
        """See Dialect.is_lost."""
        driver = connection.driver_connection
        code = error.args[0] if error.args else None
        return driver is None or not driver.open or code in _LOST_CODES

    def socket_of(self, connection: Any) -> int:
        """See Dialect.socket_of. The driver has no public name for it."""
        socket = connection.driver_connection._sock
        return -1 if socket is None else int(socket.fileno())

    def flush(self, cursor: Any) -> None:
        """See Dialect.flush. InnoDB shows a commit to others before it is on the disk; but its log
        is one, so whatever was seen is on the disk when a later commit is."""
        cursor.execute(
            "INSERT INTO log_meta (name, value) VALUES ('flushes', '1') "
            "ON DUPLICATE KEY UPDATE value = value + 1"
        )


@contextlib.contextmanager
def _transaction(cursor: Any) -> Iterator[None]:
    cursor.execute("BEGIN")
    try:
        yield
    except BaseException:
        cursor.execute("ROLLBACK")
        raise
    cursor.execute("COMMIT")
