"""The log on PostgreSQL: what differs there from other servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from events.event import LANES, Lane
from events.log import PURGED_TYPES, LogError
from events.sql_writer import Append, Heads

_PURGED = ", ".join(f"'{name}'" for name in PURGED_TYPES)
_CREATE_LOCK = 0x52756E666F6C64
"""Whoever makes tables holds this advisory lock: "Runfold" in ASCII."""

_TABLES = """
CREATE TABLE log_meta (name text PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE log_heads (
    id integer PRIMARY KEY CHECK (id = 1),
    journal bigint NOT NULL,
    points bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO log_heads VALUES (1, 0, 0);
CREATE TABLE log_writers (
    writer text PRIMARY KEY,
    sequence bigint NOT NULL,
    fenced bigint NOT NULL,
    journal bigint NOT NULL,
    points bigint NOT NULL
) WITH (fillfactor = 10);
CREATE FUNCTION log_never_deletes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: events are never deleted';
END $$;
"""
_LANE = """
CREATE TABLE log_{lane} (
    position bigint PRIMARY KEY,
    type text NOT NULL,
    version integer NOT NULL,
    subject text NOT NULL,
    time bigint NOT NULL,
    actor text,
    origin text,
    scrubbed boolean NOT NULL DEFAULT false,
    data {data_type} NOT NULL
);
CREATE INDEX log_{lane}_subject ON log_{lane} (subject, position);
CREATE TRIGGER log_{lane}_never_deletes BEFORE DELETE ON log_{lane}
    FOR EACH ROW EXECUTE FUNCTION log_never_deletes();
CREATE TRIGGER log_{lane}_never_empties BEFORE TRUNCATE ON log_{lane}
    FOR EACH STATEMENT EXECUTE FUNCTION log_never_deletes();
CREATE FUNCTION log_{lane}_never_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.scrubbed
        AND (NEW.position, NEW.type, NEW.version, NEW.subject, NEW.time, NEW.actor, NEW.origin)
            IS NOT DISTINCT FROM
            (OLD.position, OLD.type, OLD.version, OLD.subject, OLD.time, OLD.actor, OLD.origin)
        AND octet_length(NEW.data) <= greatest(octet_length(OLD.data), 96)
        AND OLD.type NOT IN ({purged})
        AND EXISTS (
            SELECT 1 FROM log_journal p WHERE p.subject = OLD.subject AND p.type IN ({purged})
        )
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the log is append-only: only a purged subject can be scrubbed';
END $$;
CREATE TRIGGER log_{lane}_never_changes BEFORE UPDATE ON log_{lane}
    FOR EACH ROW EXECUTE FUNCTION log_{lane}_never_changes();
"""
_DATA_TYPES: dict[Lane, str] = {"journal": "text", "points": "bytea"}
_SCHEMA = _TABLES + "".join(
    _LANE.format(lane=lane, data_type=_DATA_TYPES[lane], purged=_PURGED) for lane in LANES
)


@cache
def _append_statement(lanes: tuple[Lane, ...]) -> str:
    """One statement, and so one transaction and one way over the network: no lock waits for a
    client. Locking the writer's row comes first, then the heads' row, which everybody waits for;
    so positions are given, and become visible, in the order of the commits."""
    inserts = "".join(
        f""", insert_{lane} AS (
    INSERT INTO log_{lane} (position, type, version, subject, time, actor, origin, scrubbed, data)
    SELECT heads.{lane} - %(count_{lane})s + place, u.type, u.version, u.subject, u.time, u.actor,
        u.origin, u.scrubbed, u.data
    FROM heads, unnest(
        %(type_{lane})b::text[], %(version_{lane})b::integer[], %(subject_{lane})b::text[],
        %(time_{lane})b::bigint[], %(actor_{lane})b::text[], %(origin_{lane})b::text[],
        %(scrubbed_{lane})b::boolean[], %(data_{lane})b::{_DATA_TYPES[lane]}[]
    ) WITH ORDINALITY AS u (type, version, subject, time, actor, origin, scrubbed, data, place)
)"""
        for lane in lanes
    )
    grown = ", ".join(f"{lane} = h.{lane} + %(count_{lane})s" for lane in lanes)
    return f"""
WITH mine AS (
    SELECT writer FROM log_writers WHERE writer = %(writer)s AND sequence = %(sequence)s - 1
    FOR UPDATE
), heads AS (
    UPDATE log_heads h SET {grown} FROM mine WHERE h.id = 1 RETURNING h.journal, h.points
), noted AS (
    UPDATE log_writers w SET sequence = %(sequence)s, journal = heads.journal,
        points = heads.points
    FROM heads WHERE w.writer = %(writer)s
){inserts}
SELECT journal, points FROM heads"""


_COLUMNS = ("type", "version", "subject", "time", "actor", "origin", "scrubbed", "data")


def _parameters(append: Append) -> dict[str, Any]:
    found: dict[str, Any] = {"writer": append.writer, "sequence": append.sequence}
    for lane, rows in append.rows.items():
        found[f"count_{lane}"] = len(rows)
        columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True))
        for name, values in zip(_COLUMNS, columns, strict=True):
            found[f"{name}_{lane}"] = list(values)
    return found


class PostgresqlDialect:
    """See sql_writer.Dialect."""

    def prepare(self, connection: Any, new_meta: Mapping[str, bytes]) -> dict[str, bytes]:
        """See Dialect.prepare. Two that begin at once make one set of tables."""
        with connection.driver_connection.transaction():
            cursor = self.cursor(connection)
            if self._is_missing(cursor):
                if not new_meta:
                    return {}
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_CREATE_LOCK,))
                if self._is_missing(cursor):
                    connection.driver_connection.execute(_SCHEMA)
                    cursor.executemany(
                        "INSERT INTO log_meta (name, value) VALUES (%s, %s)", list(new_meta.items())
                    )
            cursor.execute("SELECT name, value FROM log_meta")
            return dict(cursor.fetchall())

    @staticmethod
    def _is_missing(cursor: Any) -> bool:
        # Not to_regclass: it answers from a cache that a wait for a lock does not renew.
        cursor.execute(
            "SELECT 1 FROM pg_catalog.pg_class WHERE relname = 'log_meta' "
            "AND pg_catalog.pg_table_is_visible(oid)"
        )
        return cursor.fetchone() is None

    def check(self, cursor: Any) -> None:
        """See Dialect.check."""
        cursor.execute(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync'), "
            "current_setting('server_encoding'), pg_is_in_recovery()"
        )
        synchronous_commit, fsync, encoding, is_standby = cursor.fetchone()
        if is_standby:
            raise LogError("the log's PostgreSQL is a standby: name the primary")
        if fsync != "on":
            raise LogError(
                "the log's PostgreSQL has fsync=off and can lose or damage what it has committed: "
                "set fsync=on in its configuration"
            )
        if synchronous_commit == "off":
            raise LogError(
                "the log's PostgreSQL has synchronous_commit=off and can lose what it has "
                "committed: set it to on, for the server or with ALTER ROLE … SET "
                "synchronous_commit = on"
            )
        if encoding != "UTF8":
            raise LogError(
                f"the log's PostgreSQL database has the encoding {encoding}: make one with UTF8"
            )

    def cursor(self, connection: Any) -> Any:
        """See Dialect.cursor. In binary form, where bytes are not written in hexadecimal."""
        return connection.driver_connection.cursor(binary=True)

    def append(self, cursor: Any, append: Append) -> Heads | None:
        """See Dialect.append."""
        statement = _append_statement(tuple(lane for lane in LANES if lane in append.rows))
        cursor.execute(statement, _parameters(append), prepare=True)
        row = cursor.fetchone()
        return None if row is None else Heads(*row)

    def roll_back(self, cursor: Any) -> None:
        """See Dialect.roll_back. A statement that failed has left nothing."""

    def is_lost(self, error: Exception, connection: Any) -> bool:
        """See Dialect.is_lost. Classes 08 and 57P: the connection failed, or the server ends it."""
        driver = connection.driver_connection
        state = getattr(error, "sqlstate", None) or ""
        return driver is None or bool(driver.closed) or state.startswith(("08", "57P"))

    def socket_of(self, connection: Any) -> int:
        """See Dialect.socket_of."""
        driver = connection.driver_connection
        return -1 if driver.closed else int(driver.fileno())

    def flush(self, cursor: Any) -> None:
        """See Dialect.flush. Nobody sees a commit before it is durable."""
