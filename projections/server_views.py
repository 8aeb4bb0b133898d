"""The views' database on a server: PostgreSQL, MySQL or MariaDB.

Views that are made anew are a generation of their own (a schema of PostgreSQL's, a database of
MySQL's) beside the live one. A row, the pointer, names the live generation: changing it puts one
in the other's place at one instant. Each transaction begins with a look at the pointer, so that
none sees rows of two generations, nor of views that are the live ones no more.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from events.errors import TemporarilyUnavailable
from events.sql_servers import DEFAULT_POOL, Pool
from projections.database import (
    FINGERPRINT,
    MADE_AGAIN,
    NOT_THERE,
    AlreadyRunning,
    Replacing,
    Views,
    checkpoints_from,
    fingerprint,
)
from projections.database_server import Server
from projections.folding import Checkpoints
from projections.schema import metadata, view_meta
from projections.server_tables import LAYOUT, statements

Role = Literal["reader", "writer"]
TRIES = 5
"""A transaction that finds its generation replaced begins again in the new one."""
REMOVE_WAIT_S = 5.0
"""How long to wait for the readers of a generation that is to be removed. Those that read longer
keep it, and the next maintenance removes it."""
LOCK_POLL_S = 0.25
HEARTBEAT_S = 2.0


class _MadeByOthers(TemporarilyUnavailable):
    """The views are of another log, or of other code."""


class _Busy(TemporarilyUnavailable):
    """The pool has no connection."""


@dataclass(slots=True)
class _Opened:
    generation: str
    writer: sa.Engine
    reader: sa.Engine
    watch: Any = None
    """A plain connection for the checkpoints, which are read at every request."""

    def dispose(self) -> None:
        """Closes what is not in use, and the rest when it is given back."""
        if self.watch is not None:
            self.watch.invalidate()
            self.watch = None
        self.writer.dispose()
        self.reader.dispose()


class ServerViews:
    """The views on a server; see `projections.database.Views`."""

    is_on_server = True
    folder = None

    def __init__(
        self,
        server: Server,
        log_id: str,
        pool: Pool = DEFAULT_POOL,
        *,
        generation: str | None = None,
    ) -> None:
        """`pool`: how many connections readers may have.
        `generation`: for views that are made beside the live ones, which nobody else uses."""
        self.name = server.name
        self.address = f"{server.uri}#{generation}" if generation else server.uri
        self._server = server
        self._log_id = log_id
        self._pool = pool
        self._own = generation
        self._beside = server.engine(None, replace(pool, kind="NullPool"))
        self.fingerprint = fingerprint(log_id, _made_by(self._beside.dialect.name))
        self._lock = threading.Lock()
        self._watch_lock = threading.Lock()
        self._opened: _Opened | None = None

    def _current(self) -> _Opened:
        """The engines of the generation that was live when last looked at."""
        opened = self._opened
        if opened is not None:
            return opened
        generation = self._own or self._look()
        if generation is None:
            raise TemporarilyUnavailable(NOT_THERE)
        with self._lock:
            if self._opened is None:
                self._opened = _Opened(
                    generation,
                    # The projector, the sealer and the exporter of one process; one at a time
                    # writes.
                    self._server.engine(generation, replace(self._pool, size=3, max_overflow=10)),
                    self._server.engine(generation, self._pool),
                )
            return self._opened

    def _look(self) -> str | None:
        """The live generation, where there is one."""
        with self._beside_all() as connection:
            try:
                return self._server.live(connection)
            except sa.exc.DBAPIError as error:
                if error.orig is not None and self._server.is_gone(error.orig):
                    return None
                raise

    @contextlib.contextmanager
    def _beside_all(self) -> Iterator[sa.Connection]:
        """A connection to what is beside the generations, each statement for itself."""
        self._require_pulse()
        with self._told(), self._beside.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _told(self, connection: sa.Connection | None = None) -> Iterator[None]:
        """Tells a server that is away, and tables that are, from what else can go wrong."""
        try:
            yield
        except Exception as error:
            cause: BaseException = getattr(error, "orig", None) or error
            if not isinstance(cause, self._server.errors) or not (
                self._server.is_away(cause) or self._server.is_gone(cause)
            ):
                raise
            if connection is not None and not connection.invalidated:
                connection.invalidate()
            raise TemporarilyUnavailable(
                f"The views' database can't be used: {str(cause).strip()}"
            ) from error

    def _require_pulse(self) -> None:
        """Raises at once while the server is known to be away: nobody waits to find out again."""
        why = self._server.pulse.away()
        if why is not None:
            raise TemporarilyUnavailable(f"The views' database is away: {why}")

    def _begun(self, role: Role) -> sa.Connection:
        """A connection to the live generation, in a transaction."""
        self._require_pulse()
        tried = False
        for _ in range(TRIES):
            opened = self._current()
            try:
                connection = self._begun_in(opened, role)
            except (_MadeByOthers, _Busy):
                raise
            except TemporarilyUnavailable:
                # The generation is gone, or the server was restarted and has closed what the pool
                # has; or it is away.
                self._forget(opened)
                if tried:
                    raise
                tried = True
                continue
            if connection is not None:
                return connection
            self._forget(opened)
        raise TemporarilyUnavailable(MADE_AGAIN)

    def _begun_in(self, opened: _Opened, role: Role) -> sa.Connection | None:
        """The same in a generation; None where it is not the live one any more."""
        begin = self._server.begin_write if role == "writer" else self._server.begin_read
        with self._told():
            try:
                connection = (opened.writer if role == "writer" else opened.reader).connect()
            except sa.exc.TimeoutError as error:
                raise _Busy("All connections to the views' database are in use.") from error
        try:
            with self._told(connection):
                connection.begin()
                with contextlib.closing(connection.connection.cursor()) as cursor:
                    live, made_with = begin(cursor)
            if self._own is None and live != opened.generation:
                connection.close()
                return None
            if made_with != self.fingerprint:
                # Rows of other folds must not be answered; the projector replaces them.
                raise _MadeByOthers(MADE_AGAIN)
        except BaseException:
            connection.close()
            raise
        return connection

    def _forget(self, opened: _Opened) -> None:
        """Has the next use look which generation is live."""
        with self._lock:
            if self._opened is opened:
                self._opened = None
        with self._watch_lock:
            opened.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """See Views."""
        connection = self._begun("reader")
        try:
            with self._told(connection):
                yield connection
        finally:
            self._give_back(connection)

    @contextlib.contextmanager
    def write(self, *, beside_others: bool = False) -> Iterator[sa.Connection]:  # noqa: ARG002
        """See Views."""
        connection = self._begun("writer")
        try:
            with self._told(connection):
                yield connection
                connection.commit()
        finally:
            self._give_back(connection)

    def _give_back(self, connection: sa.Connection) -> None:
        """Ends the use of a connection; for good where its generation was replaced meanwhile, for
        nobody would close what comes back to its pool."""
        opened = self._opened
        if opened is None or connection.engine not in (opened.reader, opened.writer):
            connection.invalidate()
        connection.close()

    def checkpoints(self) -> Checkpoints:
        """See Views. One statement on a connection of its own: it is asked at every request."""
        self._require_pulse()
        for _ in range(TRIES):
            opened = self._current()
            rows = self._watched(opened)
            if rows is None or (self._own is None and rows[0][0] != opened.generation):
                self._forget(opened)
            elif rows[0][1] != self.fingerprint:
                raise _MadeByOthers(MADE_AGAIN)
            else:
                return checkpoints_from(row[2:] for row in rows if row[2] is not None)
        raise TemporarilyUnavailable(MADE_AGAIN)

    def _watched(self, opened: _Opened) -> list[Any] | None:
        """What the server's statement finds; None where the connection was of no use any more."""
        with self._watch_lock, self._told():
            is_new = opened.watch is None
            if is_new:
                opened.watch = opened.writer.raw_connection()
            try:
                with contextlib.closing(opened.watch.cursor()) as cursor:
                    cursor.execute(self._server.checkpoints)
                    return list(cursor.fetchall())
            except self._server.errors as error:
                opened.watch.invalidate()
                opened.watch = None
                if is_new and not self._server.is_gone(error):
                    raise
                return None

    def require_current(self) -> None:
        """See Views."""
        with self.read():
            pass

    def close(self) -> None:
        """See Views."""
        opened = self._opened
        if opened is not None:
            self._forget(opened)
        self._beside.dispose()

    # Views that are made beside the live ones, and take their place.

    def create(self) -> bool:
        """See Views."""
        with self._beside_all() as connection:
            self._server.prepare(connection)
            live = self._server.live(connection)
        if live is not None:
            try:
                self.require_current()
            except _MadeByOthers:
                pass
            else:
                return False
        with self.making() as made:
            made.add_search_indexes()
            self.put_in_place(made)
        self.remove_replaced()
        return True

    @contextlib.contextmanager
    def making(self) -> Iterator[ServerViews]:
        """See Views."""
        with self._beside_all() as connection:
            self._server.prepare(connection)
        self._remove_all_but_live(0.0)
        generation = secrets.token_hex(4)
        with self.lock(_making(generation)):
            with self._beside_all() as connection:
                self._server.create(connection, generation)
            made = ServerViews(self._server, self._log_id, self._pool, generation=generation)
            try:
                made._fill()
                yield made
            finally:
                made.close()
                with contextlib.suppress(TemporarilyUnavailable), self._beside_all() as connection:
                    if self._server.live(connection) != generation:
                        self._server.remove(connection, generation)

    def _fill(self) -> None:
        """Makes the empty tables, without the indexes that no fold uses."""
        with self._told(), self._current().writer.connect() as connection:
            for statement in statements(connection.dialect, for_search=False):
                connection.exec_driver_sql(statement)
            made_with = sa.insert(view_meta).values(name=FINGERPRINT, value=self.fingerprint)
            connection.execute(made_with)

    def add_search_indexes(self) -> None:
        """See Views."""
        with self._told(), self._current().writer.connect() as connection:
            for statement in statements(connection.dialect, for_search=None):
                connection.exec_driver_sql(statement)
            for table in metadata.sorted_tables:
                # What was filled at once has no statistics yet.
                connection.exec_driver_sql(self._server.analyze(table.name))

    @contextlib.contextmanager
    def copied(self) -> Iterator[ServerViews]:
        """See Views. A table that is written anew has none of the old one's deleted rows."""
        with self.making() as made:
            target = made._current().generation
            with self._copying(made) as (connection, source):
                for table in metadata.sorted_tables:
                    to = f"{self._server.prefix(target)}{table.name}"
                    names = ", ".join(f'"{column.name}"' for column in table.columns)
                    connection.exec_driver_sql(f"DELETE FROM {to}")
                    connection.exec_driver_sql(
                        f"INSERT INTO {to} ({names})"
                        f" SELECT {names} FROM {self._server.prefix(source)}{table.name}"
                    )
                self._server.continue_ids(connection, source, target)
            made.add_search_indexes()
            yield made

    @contextlib.contextmanager
    def _copying(self, made: ServerViews) -> Iterator[tuple[sa.Connection, str]]:
        """A connection whose statements see one state of the live generation, and which that is."""
        if self._server.begin_copy is None:
            # Nobody else writes meanwhile.
            with self.write() as connection:
                yield connection, self._current().generation
            return
        with self.read(), self._told(), made._current().writer.connect() as connection:
            source = self._current().generation
            connection.begin()
            connection.exec_driver_sql(self._server.begin_copy)
            yield connection, source
            connection.commit()

    def put_in_place(self, made: Views, within: sa.Connection | None = None) -> None:
        """See Views."""
        generation = _generation_of(made)
        if within is not None:
            self._server.point_to(within, generation)
            return
        with self._beside_all() as connection:
            self._server.point_to(connection, generation)

    def remove_replaced(self) -> None:
        """See Views."""
        self._remove_all_but_live(REMOVE_WAIT_S)

    def _remove_all_but_live(self, wait_s: float) -> None:
        with self._beside_all() as connection:
            live = self._server.live(connection)
            for generation in self._server.generations(connection):
                if generation == live:
                    continue
                # Where somebody is making it, it is not removed.
                with contextlib.suppress(AlreadyRunning), self.lock(_making(generation)):
                    until = time.monotonic() + wait_s
                    while not self._server.remove(connection, generation):
                        if time.monotonic() >= until:
                            break
                        time.sleep(LOCK_POLL_S)

    @contextlib.contextmanager
    def replacing(self, made: Views) -> Iterator[Replacing]:
        """See Views."""
        with self.write() as connection:
            yield Replacing(connection, "", self._server.prefix(_generation_of(made)))

    # Locks, which end with the process that holds them.

    @contextlib.contextmanager
    def lock(
        self, name: str, wait_s: float = 0.0, lost: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """See Views."""
        until = time.monotonic() + wait_s
        with self._beside_all() as connection:
            while not self._server.lock(connection, name):
                if time.monotonic() >= until:
                    raise AlreadyRunning(
                        f"another process folds or replaces the views on {self.name} already"
                    )
                time.sleep(LOCK_POLL_S)
            ended = threading.Event()
            beat = threading.Thread(
                target=self._beat, args=(connection, ended, lost), name=f"{name} lock", daemon=True
            )
            beat.start()
            try:
                yield
            finally:
                ended.set()
                beat.join()

    def _beat(
        self, connection: sa.Connection, ended: threading.Event, lost: Callable[[], None]
    ) -> None:
        """Keeps the server from ending a lock's connection for its silence, and sees its end."""
        while not ended.wait(HEARTBEAT_S):
            try:
                connection.exec_driver_sql("SELECT 1")
            except Exception:
                lost()
                return


def _making(generation: str) -> str:
    """The lock of who makes a generation."""
    return f"making {generation}"


def _made_by(dialect: str) -> Iterator[str]:
    """What says how the tables are made on a server."""
    yield f"{dialect} {LAYOUT}"


def _generation_of(views: Views) -> str:
    if not isinstance(views, ServerViews):
        raise TypeError("views on a server are replaced by ones on the same server")
    return views._current().generation
