"""SQLite as everything here opens it: the one home of pysqlite3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pysqlite3.dbapi2 as sqlite
import sqlalchemy as sa

SQLITE_VERSION_MIN = (3, 51, 3)
"""Before it two connections that write and checkpoint can corrupt a WAL database."""
BUSY_TIMEOUT_MS = 30_000

SqliteError = sqlite.Error
OperationalError = sqlite.OperationalError


class SqliteTooOld(Exception):
    """The SQLite library has the WAL-reset bug; install pysqlite3 0.6.1 or later from PyPI."""


def check_version() -> None:
    """Raises SqliteTooOld where the linked SQLite can corrupt a WAL database."""
    if sqlite.sqlite_version_info < SQLITE_VERSION_MIN:
        wanted = ".".join(map(str, SQLITE_VERSION_MIN))
        raise SqliteTooOld(
            f"SQLite {sqlite.sqlite_version} has the WAL-reset bug, {wanted} is needed: "
            "install pysqlite3>=0.6.1 from PyPI"
        )


def open_engine(
    path: Path,
    *,
    synchronous: Literal["FULL", "NORMAL", "OFF"],
    read_only: bool = False,
    secure_delete: bool = False,
    cache_mb: int = 8,
    pool_size: int = 8,
    wal_pages: int = 1_000,
) -> sa.Engine:
    """An engine over a file in WAL mode.

    A writer's transactions begin IMMEDIATE, so that two of them queue rather than fail; a
    `read_only` engine's begin DEFERRED and see one snapshot throughout. `secure_delete`
    overwrites what is deleted with zeros. The WAL is moved into the file at about `wal_pages`
    pages: each time costs two fsyncs, and a page that was written often is moved once.
    """
    check_version()
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        module=sqlite,
        pool_size=pool_size,
        max_overflow=64,
        # The connection that was used last has its pages at hand.
        pool_use_lifo=True,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )

    pragmas = [
        "journal_mode=WAL",
        f"synchronous={synchronous}",
        f"cache_size=-{cache_mb * 1024}",
        "foreign_keys=OFF",
        f"wal_autocheckpoint={wal_pages}",
        *(["secure_delete=ON"] if secure_delete else []),
        *(["query_only=ON"] if read_only else []),
    ]
    sa.event.listen(engine, "connect", _configuring(pragmas))
    sa.event.listen(engine, "begin", _beginning("BEGIN" if read_only else "BEGIN IMMEDIATE"))
    return engine


def _configuring(pragmas: Sequence[str]) -> Callable[[Any, Any], None]:
    """What is done to each new connection."""

    def configure(connection: Any, _record: Any) -> None:
        # Transactions begin where we say, not where the driver guesses.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return configure


def _beginning(statement: str) -> Callable[[sa.Connection], None]:
    """What begins each transaction."""

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin
