"""The views on PostgreSQL: what is said to the server in its own language."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors
from psycopg.abc import RV, PQGen
from psycopg.types.string import (
    StrBinaryDumper,
    StrDumper,
    StrDumperUnknown,
    TextBinaryLoader,
    TextLoader,
)

from events.sql_servers import Pool, echo
from projections.database import CHECKPOINT_COLUMNS, FINGERPRINT, Views
from projections.server_pulse import GREETING_S, SILENCE_S, Pulse
from projections.server_views import ServerViews
from projections.stored_texts import escaped, unescaped

SCHEMA = "runfold_views"
"""Beside the generations: the pointer. A generation's schema is named after it."""
_POINTER = f"{SCHEMA}.live"
_LIVE = f"(SELECT generation FROM {_POINTER})"
_MADE_WITH = f"(SELECT value FROM view_meta WHERE name = '{FINGERPRINT}')"
_BEGIN_READ = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
    # Reads the generation's table too, so that a lock on it keeps the generation from removal.
    f"SELECT {_LIVE}, {_MADE_WITH}"
)
_BEGIN_WRITE = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"
    # Whoever writes holds this row; the pointer is looked at by a statement of its own, which sees
    # what was committed while this one waited.
    f"SELECT value FROM view_meta WHERE name = '{FINGERPRINT}' FOR UPDATE;"
    f"SELECT {_LIVE}, {_MADE_WITH}"
)
# The views are made from the log: what a crash of the server undoes is folded again.
_UNHURRIED = "SET synchronous_commit TO off;"
_SESSION = (
    # Compiling a statement takes longer than any of these takes to run.
    "SET jit TO off;"
    # A lock's connection whose machine is gone must not hold the others up.
    "SET tcp_keepalives_idle TO 3; SET tcp_keepalives_interval TO 2; SET tcp_keepalives_count TO 2"
)

_PEER_IS_GONE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A server that has gone without a word is noticed within about ten seconds."""
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError)
_GONE = (errors.UndefinedTable, errors.InvalidSchemaName)


class Postgres:
    """A database of PostgreSQL's; see `projections.database_server.Server`."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)
    begin_copy: str | None = "BEGIN ISOLATION LEVEL REPEATABLE READ"
    checkpoints = (
        f"SELECT {_LIVE}, {_MADE_WITH}, {CHECKPOINT_COLUMNS}"
        " FROM (SELECT 1) AS always LEFT JOIN checkpoints ON true"
    )

    def __init__(self, uri: str) -> None:
        """`uri`: as SQLAlchemy takes it, with `postgresql` for its scheme."""
        self.uri = uri
        self._url = sa.make_url(uri).set(drivername="postgresql+psycopg")
        self.name = self._url.set(drivername="postgresql").render_as_string(hide_password=True)
        self.pulse = Pulse(self._greet)
        self._connection = _connection_class(self.pulse)

    def engine(self, generation: str | None, pool: Pool) -> sa.Engine:
        """See Server."""
        engine = sa.create_engine(
            self._url,
            paramstyle="format",
            connect_args={"autocommit": True, "connect_timeout": GREETING_S, **_PEER_IS_GONE},
            **pool.arguments(),
        )
        sa.event.listen(engine, "do_connect", self._connect)
        sa.event.listen(engine, "connect", _configuring(generation))
        if pool.echo:
            echo(engine)
        return engine

    def _connect(self, _dialect: Any, _record: Any, args: Any, kwargs: Any) -> Any:
        with self.pulse.greeting():
            return self._connection.connect(*args, **kwargs)

    def _greet(self) -> None:
        args, kwargs = self._url.get_dialect()().create_connect_args(self._url)
        psycopg.connect(*args, **{**kwargs, "connect_timeout": GREETING_S}).close()

    def begin_read(self, cursor: Any) -> tuple[str | None, str | None]:
        """See Server."""
        return _last_row(cursor, _BEGIN_READ)

    def begin_write(self, cursor: Any) -> tuple[str | None, str | None]:
        """See Server."""
        return _last_row(cursor, _BEGIN_WRITE)

    def is_away(self, error: BaseException) -> bool:
        """See Server."""
        return isinstance(error, _AWAY)

    def is_gone(self, error: BaseException) -> bool:
        """See Server."""
        return isinstance(error, _GONE)

    def prepare(self, connection: sa.Connection) -> None:
        """See Server."""
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_POINTER}"
            " (one boolean PRIMARY KEY CHECK (one), generation text NOT NULL)"
        )

    def live(self, connection: sa.Connection) -> str | None:
        """See Server."""
        found = connection.exec_driver_sql(f"SELECT generation FROM {_POINTER}").scalar()
        return None if found is None else str(found)

    def point_to(self, connection: sa.Connection, generation: str) -> None:
        """See Server."""
        # It waits for the disk, and with it for all that was written before: nobody would make
        # again views that a crash takes away while the projector runs.
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO on")
        connection.exec_driver_sql(
            f"INSERT INTO {_POINTER} VALUES (true, %s)"
            " ON CONFLICT (one) DO UPDATE SET generation = excluded.generation",
            (generation,),
        )

    def generations(self, connection: sa.Connection) -> list[str]:
        """See Server."""
        found = connection.exec_driver_sql(
            "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", (f"{SCHEMA}_",)
        )
        return [name.removeprefix(f"{SCHEMA}_") for name in found.scalars()]

    def create(self, connection: sa.Connection, generation: str) -> None:
        """See Server."""
        connection.exec_driver_sql(f"CREATE SCHEMA {_schema(generation)}")

    def remove(self, connection: sa.Connection, generation: str) -> bool:
        """See Server."""
        schema = _schema(generation)
        driver: Any = connection.connection.driver_connection
        try:
            with driver.transaction(), driver.cursor() as cursor:
                # Without a wait: who reads the generation would be in a circle with who waits.
                cursor.execute(f"LOCK TABLE {schema}.view_meta IN ACCESS EXCLUSIVE MODE NOWAIT")
                cursor.execute(f"DROP SCHEMA {schema} CASCADE")
        except errors.LockNotAvailable:
            return False
        except _GONE:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        return True

    def prefix(self, generation: str) -> str:
        """See Server."""
        return f"{_schema(generation)}."

    def lock(self, connection: sa.Connection, name: str) -> bool:
        """See Server."""
        digest = hashlib.sha256(f"{SCHEMA} {name}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        found = connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s::bigint)", (key,))
        return bool(found.scalar())

    def analyze(self, table: str) -> str:
        """See Server."""
        return f"ANALYZE {table}"

    def continue_ids(self, connection: sa.Connection, source: str, target: str) -> None:
        """See Server."""
        connection.exec_driver_sql(
            f"SELECT setval('{_schema(target)}.blocks_block_id_seq',"
            f" last_value, is_called) FROM {_schema(source)}.blocks_block_id_seq"
        )


def open_views(uri: str, log_id: str, pool: Pool, generation: str | None) -> Views:
    """The views of this log in a database; see ServerViews."""
    return ServerViews(Postgres(uri), log_id, pool, generation=generation)


def _connection_class(pulse: Pulse) -> type[psycopg.Connection[Any]]:
    """Connections that wait no longer than their server lives."""

    class Connection(psycopg.Connection[Any]):
        def wait(
            self, gen: PQGen[RV], interval: float = SILENCE_S, timeout: float | None = None
        ) -> RV:
            return super().wait(self._patient(gen), min(interval, SILENCE_S), timeout)

        def _patient(self, gen: PQGen[RV]) -> PQGen[RV]:
            """The same steps; psycopg says at each, and after each interval, what is ready."""
            heard = time.monotonic()
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if ready:
                        heard = time.monotonic()
                    elif time.monotonic() >= heard + SILENCE_S:
                        self._require_pulse()
                        heard = time.monotonic()
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

        def _require_pulse(self) -> None:
            why = pulse.lost()
            if why is not None:
                # Its server is in the midst of a statement: the connection is of no use any more.
                self.pgconn.finish()
                raise psycopg.OperationalError(f"no answer: {why}")

    return Connection


def _schema(generation: str) -> str:
    return f"{SCHEMA}_{generation}"


def _last_row(cursor: Any, batch: str) -> tuple[str | None, str | None]:
    """The row that the last statement of a batch, which is one message, finds."""
    cursor.execute(batch)
    while cursor.nextset():
        pass
    live, made_with = cursor.fetchone()
    return live, made_with


def _configuring(generation: str | None) -> Callable[[Any, Any], None]:
    """What is done to each new connection."""
    path = "" if generation is None else f"SET search_path TO {_schema(generation)};{_UNHURRIED}"

    def configure(connection: Any, _record: Any) -> None:
        connection.execute(path + _SESSION)
        adapters = connection.adapters
        for dumper in (EscapingBinaryDumper, EscapingDumper, EscapingUnknownDumper):
            adapters.register_dumper(str, dumper)
        for loader in (UnescapingLoader, UnescapingBinaryLoader):
            for name in ("text", "varchar"):
                adapters.register_loader(name, loader)

    return configure


class EscapingDumper(StrDumper):
    """Writes texts."""

    def dump(self, obj: str) -> Any:
        """The bytes of a text."""
        return super().dump(escaped(obj))


class EscapingUnknownDumper(StrDumperUnknown):
    """Writes texts of which the server is to find out the type."""

    def dump(self, obj: str) -> Any:
        """The bytes of a text."""
        return super().dump(escaped(obj))


class EscapingBinaryDumper(StrBinaryDumper):
    """Writes the texts in an array."""

    def dump(self, obj: str) -> Any:
        """The bytes of a text."""
        return super().dump(escaped(obj))


class UnescapingLoader(TextLoader):
    """Reads texts."""

    def load(self, data: Any) -> Any:
        """The text of some bytes."""
        text = super().load(data)
        return unescaped(text) if isinstance(text, str) else text


class UnescapingBinaryLoader(TextBinaryLoader):
    """Reads texts that come in the binary format."""

    def load(self, data: Any) -> Any:
        """The text of some bytes."""
        text = super().load(data)
        return unescaped(text) if isinstance(text, str) else text
