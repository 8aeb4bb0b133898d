"""One process's appends to a log on a database server: each at most once, whatever happens to the
connection, and its fate known.

A connection that is lost while a commit is on its way leaves open whether it was made, and the
server may carry it out later still. So a process has a row of its own in the log, a count of its
appends, and each append counts it up in its own transaction, by one or not at all. Who wants to
know what became of an append counts the row up itself: either that fails, for the append is there,
or the append can never be made any more.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from events.errors import OutcomeUnknown, TemporarilyUnavailable
from events.event import Lane
from events.log import LogError

SETTLE_S = 10.0
"""How long a server that is away is waited for to learn what became of an append."""
SETTLE_EVERY_S = 0.1

Row = tuple[str, int, str, int, str | None, str | None, bool, Any]
"""Type, version, subject, time, actor, origin, whether it is scrubbed, data."""


class Heads(NamedTuple):
    """The positions of the last events."""

    journal: int
    points: int


@dataclass(frozen=True, slots=True)
class Append:
    """One transaction: the rows of each lane, as the so-many-th append of a writer."""

    writer: str
    sequence: int
    rows: Mapping[Lane, Sequence[Row]]


class Dialect(Protocol):
    """What differs from one kind of server to the other."""

    def prepare(self, connection: Any, new_meta: Mapping[str, bytes]) -> dict[str, bytes]:
        """What `log_meta` holds; where there is no log one is made with this in it, if it is
        anything."""

    def check(self, cursor: Any) -> None:
        """Raises LogError where what the server commits is not durable, or not as it was sent."""

    def cursor(self, connection: Any) -> Any:
        """A cursor on a driver's connection."""

    def append(self, cursor: Any, append: Append) -> Heads | None:
        """Makes the append, all or none, and durable; None where it was given up before."""

    def roll_back(self, cursor: Any) -> None:
        """Leaves nothing of an append that the server refused."""

    def is_lost(self, error: Exception, connection: Any) -> bool:
        """Whether the error leaves open what the server did, rather than being its refusal."""

    def socket_of(self, connection: Any) -> int:
        """The descriptor that a driver's connection reads from; -1 where it is closed."""

    def flush(self, cursor: Any) -> None:
        """Returns once all that other sessions can see by now is durable."""


class Session:
    """A connection of an engine's pool, and what its errors mean."""

    def __init__(self, engine: sa.Engine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect
        driver: Any = engine.dialect.loaded_dbapi
        self.error: type[Exception] = driver.Error

    def connect(self) -> Any:
        """A connection of the pool. Raises TemporarilyUnavailable."""
        try:
            return self._engine.raw_connection()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, self.error) as error:
            raise unreachable(error) from error

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        """A cursor on a connection that goes back to the pool. Raises TemporarilyUnavailable where
        the server is away or goes."""
        connection = self.connect()
        try:
            cursor = self._dialect.cursor(connection)
            try:
                yield cursor
            finally:
                with contextlib.suppress(self.error):
                    cursor.close()
        except self.error as error:
            if not self._dialect.is_lost(error, connection):
                raise
            connection.invalidate()
            # The others of the pool have most likely ended with it.
            self._engine.dispose()
            raise unreachable(error) from error
        finally:
            connection.close()


def unreachable(error: Exception) -> TemporarilyUnavailable:
    """What is said while the server is away."""
    reason = first_line(getattr(error, "orig", None) or error)
    return TemporarilyUnavailable(f"The log's database can't be reached: {reason}. Try again.")


def first_line(error: Exception) -> str:
    """What a server says of an error, without the lines below, which may show what was sent."""
    return str(error).partition("\n")[0]


class SqlWriter:
    """Appends one after the other; of any number of threads, one at a time."""

    def __init__(self, engine: sa.Engine, dialect: Dialect, recycle_s: int = -1) -> None:
        """`recycle_s`: after so many seconds the connection is replaced; -1: never."""
        self._engine = engine
        self._session = Session(engine, dialect)
        self._dialect = dialect
        self._recycle_s = recycle_s
        self._lock = threading.Lock()
        self._connection: Any = None
        self._connected = 0.0
        self._name = ""
        self._sequence = 0
        """The last append of which it is known what became."""
        self._unsettled = False
        """Whether there is one behind it of which it is not."""

    def append(self, rows: Mapping[Lane, Sequence[Row]]) -> Heads:
        """Appends, all or none; returns the heads behind it, when it is durable.

        Raises TemporarilyUnavailable or LogError where nothing was appended, OutcomeUnknown where
        the server went and did not come back to say.
        """
        with self._lock:
            if self._unsettled:
                self._settle()
            for _ in range(2):
                heads = self._append(rows) or self._settle_in_time()
                if heads is not None:
                    return heads
            raise TemporarilyUnavailable(
                "The log's database ended the connection twice; nothing was written. Try again."
            )

    def _append(self, rows: Mapping[Lane, Sequence[Row]]) -> Heads | None:
        """None where the connection was lost."""
        cursor = self._cursor()
        if not self._name:
            self._register(cursor)
        self._unsettled = True
        try:
            heads = self._dialect.append(cursor, Append(self._name, self._sequence + 1, rows))
        except self._session.error as error:
            if self._was_refused(error, cursor):
                self._unsettled = False
                raise LogError(
                    f"the log's database refused an append: {first_line(error)}"
                ) from error
            self._disconnect()
            return None
        self._sequence += 1
        self._unsettled = False
        if heads is None:
            raise LogError(f"the log's row of this process, {self._name}, is in use by another")
        return heads

    def _was_refused(self, error: Exception, cursor: Any) -> bool:
        if self._dialect.is_lost(error, self._connection):
            return False
        try:
            self._dialect.roll_back(cursor)
        except self._session.error:
            return False
        return True

    def _settle_in_time(self) -> Heads | None:
        """What became of the last append, waiting for the server for a while."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                return self._settle()
            except TemporarilyUnavailable as error:
                if time.monotonic() >= deadline:
                    raise OutcomeUnknown(
                        "The log's database went away during a commit and has not come back to "
                        "say whether it was made: this write may be there or not."
                    ) from error
            time.sleep(SETTLE_EVERY_S)

    def _settle(self) -> Heads | None:
        """The heads behind the append in question, or None, and then it will never be made.

        Raises TemporarilyUnavailable where the server can't be asked.
        """
        number = self._sequence + 1
        cursor = self._cursor()
        try:
            # Waits for a transaction that is still at it.
            cursor.execute(
                "UPDATE log_writers SET sequence = %s, fenced = %s WHERE writer = %s "
                "AND sequence = %s",
                (number, number, self._name, number - 1),
            )
            cursor.execute(
                "SELECT sequence, fenced, journal, points FROM log_writers WHERE writer = %s",
                (self._name,),
            )
            row = cursor.fetchone()
            if row is None or row[0] != number:
                raise LogError(f"the log's row of this process, {self._name}, was changed")
            self._dialect.flush(cursor)
        except self._session.error as error:
            self._disconnect()
            raise unreachable(error) from error
        self._sequence = number
        self._unsettled = False
        if row[1] == number:
            # If it arrives yet it is refused, but it may hold this row locked for a while then.
            self._name, self._sequence = "", 0
            return None
        return Heads(row[2], row[3])

    def _cursor(self) -> Any:
        """A cursor on the writer's own connection, which is opened again after it was lost.

        Raises TemporarilyUnavailable, LogError.
        """
        if self._connection is not None and (self._is_old() or self._has_ended()):
            self._disconnect()
        if self._connection is None:
            self._connection = self._session.connect()
            self._connected = time.monotonic()
            try:
                cursor = self._dialect.cursor(self._connection)
                self._dialect.check(cursor)
            except self._session.error as error:
                self._disconnect()
                raise unreachable(error) from error
            except LogError:
                self._disconnect()
                raise
        return self._dialect.cursor(self._connection)

    def _is_old(self) -> bool:
        return 0 <= self._recycle_s < time.monotonic() - self._connected

    def _has_ended(self) -> bool:
        """Whether the server has ended the connection since it was last used: it has said
        something unasked. Better known before an append is sent, for nothing is in doubt then."""
        socket = self._dialect.socket_of(self._connection)
        return socket < 0 or bool(select.select([socket], [], [], 0)[0])

    def _register(self, cursor: Any) -> None:
        """Makes this writer's row. Raises TemporarilyUnavailable."""
        name = secrets.token_hex(16)
        try:
            cursor.execute(
                "INSERT INTO log_writers (writer, sequence, fenced, journal, points) "
                "VALUES (%s, 0, 0, 0, 0)",
                (name,),
            )
        except self._session.error as error:
            self._disconnect()
            raise unreachable(error) from error
        self._name = name

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        connection.invalidate()
        connection.close()

    def close(self) -> None:
        """Frees the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._engine.dispose()
