"""The views on MySQL or MariaDB: what is said to the server in its own language."""

from __future__ import annotations

import hashlib
import math
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

import pymysql
import sqlalchemy as sa
from pymysql.constants import CR, ER, FIELD_TYPE
from pymysql.converters import conversions, escape_float

from events.sql_servers import Pool, echo
from projections.database import CHECKPOINT_COLUMNS, FINGERPRINT, Views
from projections.server_pulse import GREETING_S, PATIENCE_S, SILENCE_S, Pulse
from projections.server_views import ServerViews

IDLE_S = 10
"""A lock's connection says something every few seconds; one that is silent has lost its machine."""
_MADE_WITH = f"(SELECT value FROM view_meta WHERE name = '{FINGERPRINT}')"
_LOCKED = f"SELECT value FROM view_meta WHERE name = '{FINGERPRINT}' FOR UPDATE"
_MODES = "ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
_AWAY = {
    *(ER.CON_COUNT_ERROR, ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.SERVER_SHUTDOWN),
    *(ER.QUERY_INTERRUPTED, ER.TOO_MANY_USER_CONNECTIONS),
    1_927,  # MariaDB: the connection was killed
    4_031,  # MySQL: the server has ended an idle connection
}
_CLIENT_ERRORS_END = 3_000
"""From CR_ERROR_FIRST to here: the server could not be reached, or was lost."""
_GONE = {ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR, ER.TABLE_DEF_CHANGED}


class MySql:
    """A database of MySQL's or MariaDB's; see `projections.database_server.Server`.

    A schema is a database there: the generations' are named after the one that the URI names.
    """

    errors: tuple[type[Exception], ...] = (pymysql.err.Error,)
    # An insertion of what a query finds reads the latest rows there, with locks, and no snapshot.
    begin_copy: str | None = None

    def __init__(self, uri: str) -> None:
        """`uri`: as SQLAlchemy takes it, with `mysql` or `mysql+pymysql` for its scheme. Raises
        ValueError where it names no database."""
        self.uri = uri
        self._url = sa.make_url(uri).set(drivername="mysql+pymysql")
        if not self._url.database:
            raise ValueError("the URI of views on MySQL must name a database")
        self.name = self._url.set(drivername="mysql").render_as_string(hide_password=True)
        self._schema = f"{self._url.database}_views"
        self._pointer = f"`{self._url.database}`.runfold_views"
        live = f"(SELECT generation FROM {self._pointer})"
        self._look = f"SELECT {live}, {_MADE_WITH}"
        self.pulse = Pulse(self._greet)
        self._connection = _connection_class(self.pulse)
        self.checkpoints = (
            f"SELECT {live}, {_MADE_WITH}, {CHECKPOINT_COLUMNS}"
            " FROM (SELECT 1) AS always LEFT JOIN checkpoints ON true"
        )

    def engine(self, generation: str | None, pool: Pool) -> sa.Engine:
        """See Server."""
        url = self._url
        if generation is not None:
            url = url.set(database=f"{self._schema}_{generation}")
        engine = sa.create_engine(
            url,
            paramstyle="format",
            connect_args={
                "autocommit": True,
                "charset": "utf8mb4",
                "connect_timeout": GREETING_S,
                "read_timeout": PATIENCE_S,
                "write_timeout": PATIENCE_S,
                "sql_mode": _MODES,
                "conv": _CONVERSIONS,
            },
            **pool.arguments(),
        )
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "connect", _configuring(IDLE_S if generation is None else None))
        if pool.echo:
            echo(engine)
        return engine

    def _connect(self, _dialect: Any, _record: Any, args: Any, kwargs: Any) -> Any:
        with self.pulse.greeting():
            return self._connection(*args, **kwargs)

    def _greet(self) -> None:
        args, kwargs = self._url.get_dialect()().create_connect_args(self._url)
        pymysql.connect(
            *args,
            **{
                **kwargs,
                "connect_timeout": GREETING_S,
                "read_timeout": GREETING_S,
                "write_timeout": GREETING_S,
            },
        ).close()

    def begin_read(self, cursor: Any) -> tuple[str | None, str | None]:
        """See Server."""
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        cursor.execute(self._look)
        live, made_with = cursor.fetchone()
        return live, made_with

    def begin_write(self, cursor: Any) -> tuple[str | None, str | None]:
        """See Server. The first statement that reads without a lock takes the snapshot."""
        cursor.execute("START TRANSACTION")
        cursor.execute(_LOCKED)
        cursor.execute(self._look)
        live, made_with = cursor.fetchone()
        return live, made_with

    def is_away(self, error: BaseException) -> bool:
        """See Server."""
        if isinstance(error, pymysql.err.InterfaceError):
            return True
        code = _code(error)
        return code in _AWAY or CR.CR_ERROR_FIRST <= code < _CLIENT_ERRORS_END

    def is_gone(self, error: BaseException) -> bool:
        """See Server."""
        return _code(error) in _GONE

    def prepare(self, connection: sa.Connection) -> None:
        """See Server."""
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {self._pointer}"
            " (one BOOL PRIMARY KEY, generation VARCHAR(64) NOT NULL) ENGINE=InnoDB"
        )

    def live(self, connection: sa.Connection) -> str | None:
        """See Server."""
        found = connection.exec_driver_sql(f"SELECT generation FROM {self._pointer}").scalar()
        return None if found is None else str(found)

    def point_to(self, connection: sa.Connection, generation: str) -> None:
        """See Server."""
        connection.exec_driver_sql(
            f"INSERT INTO {self._pointer} VALUES (true, %s)"
            " ON DUPLICATE KEY UPDATE generation = VALUES(generation)",
            (generation,),
        )

    def generations(self, connection: sa.Connection) -> list[str]:
        """See Server."""
        names = connection.exec_driver_sql("SELECT schema_name FROM information_schema.schemata")
        prefix = f"{self._schema}_"
        return [name.removeprefix(prefix) for name in names.scalars() if name.startswith(prefix)]

    def create(self, connection: sa.Connection, generation: str) -> None:
        """See Server."""
        connection.exec_driver_sql(
            f"CREATE DATABASE `{self._schema}_{generation}` CHARACTER SET utf8mb4"
        )

    def remove(self, connection: sa.Connection, generation: str) -> bool:
        """See Server."""
        schema = f"`{self._schema}_{generation}`"
        try:
            connection.exec_driver_sql("SET lock_wait_timeout = 1")
            # Who reads has read this table first: whoever comes from now on finds it gone.
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {schema}.view_meta")
        except sa.exc.DBAPIError as error:
            if error.orig is not None and _code(error.orig) == ER.LOCK_WAIT_TIMEOUT:
                return False
            if error.orig is None or not self.is_gone(error.orig):
                raise
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {schema}")
        return True

    def prefix(self, generation: str) -> str:
        """See Server."""
        return f"`{self._schema}_{generation}`."

    def lock(self, connection: sa.Connection, name: str) -> bool:
        """See Server. The names are the whole server's, and have at most 64 characters."""
        key = hashlib.sha256(f"{self._schema} {name}".encode()).hexdigest()[:60]
        return bool(connection.exec_driver_sql("SELECT GET_LOCK(%s, 0)", (key,)).scalar())

    def analyze(self, table: str) -> str:
        """See Server."""
        return f"ANALYZE TABLE `{table}`"

    def continue_ids(self, connection: sa.Connection, source: str, target: str) -> None:
        """See Server."""
        found = connection.exec_driver_sql(
            "SELECT auto_increment FROM information_schema.tables"
            " WHERE table_schema = %s AND table_name = 'blocks'",
            (f"{self._schema}_{source}",),
        ).scalar()
        table = f"{self.prefix(target)}blocks"
        connection.exec_driver_sql(f"ALTER TABLE {table} AUTO_INCREMENT = {int(found or 1)}")


def open_views(uri: str, log_id: str, pool: Pool, generation: str | None) -> Views:
    """The views of this log in a database; see ServerViews."""
    return ServerViews(MySql(uri), log_id, pool, generation=generation)


def _code(error: BaseException) -> int:
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else 0


_PEER_IS_GONE = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 10_000,
}
"""A connection that the network has lost without a word is noticed within about ten seconds."""


def _connection_class(pulse: Pulse) -> type[pymysql.connections.Connection]:
    """Connections that wait no longer than their server lives."""

    class Connection(pymysql.connections.Connection):  # type: ignore[misc]
        def _get_server_information(self) -> None:
            self._await_answer()
            super()._get_server_information()

        def _read_ok_packet(self) -> Any:
            self._await_answer()
            return super()._read_ok_packet()

        def _read_query_result(self, unbuffered: bool = False) -> Any:
            self._await_answer()
            return super()._read_query_result(unbuffered)

        def _await_answer(self) -> None:
            """Waits for the first byte of an answer, of which nothing is here before its question
            is sent."""
            if self._sock is None:
                return
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            while not poll.poll(SILENCE_S * 1_000):
                why = pulse.lost()
                if why is not None:
                    self._force_close()
                    raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, f"no answer: {why}")

    return Connection


# MySQL has no infinity. The greatest double stands for it, and the one before that for the greatest
# double: so they stay in order, and come back as what they were. The one before is the price.
_MAX = sys.float_info.max
_BEFORE = math.nextafter(_MAX, 0.0)


def _written(value: float, mapping: Any) -> str:
    if abs(value) > _BEFORE:
        value = math.copysign(_MAX if math.isinf(value) else _BEFORE, value)
    return str(escape_float(value, mapping))


def _read(text: str) -> float:
    value = float(text)
    if abs(value) < _BEFORE:
        return value
    return math.copysign(_MAX if abs(value) == _BEFORE else math.inf, value)


_CONVERSIONS = {**conversions, float: _written, FIELD_TYPE.DOUBLE: _read}


def _configuring(idle_s: int | None) -> Callable[[Any, Any], None]:
    """What is done to each new connection."""

    def configure(connection: Any, _record: Any) -> None:
        is_mariadb = "mariadb" in connection.get_server_info().lower()
        collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        statements = [
            f"SET collation_connection = {collation}",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        ]
        if idle_s is not None:
            statements.append(f"SET SESSION wait_timeout = {idle_s}")
        if not is_mariadb:
            # The next id of a table is asked for; by default the answer may be a day old.
            statements.append("SET SESSION information_schema_stats_expiry = 0")
        socket_ = connection._sock
        if socket_.family != socket.AF_UNIX:
            for option, value in _PEER_IS_GONE.items():
                socket_.setsockopt(socket.IPPROTO_TCP, option, value)
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return configure
