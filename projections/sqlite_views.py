"""The views' database as one SQLite file.

A new file always takes the old one's place at once (`put_file_in_place`). Every process sees by the
file's inode that it was replaced, and opens the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from events.errors import TemporarilyUnavailable
from events.sqlite import SqliteError, open_engine
from projections.database import (
    CHECKPOINT_COLUMNS,
    FINGERPRINT,
    MADE_AGAIN,
    NOT_THERE,
    PROJECTOR,
    AlreadyRunning,
    Replacing,
    Views,
    checkpoints_from,
    fingerprint,
    indexes_of,
)
from projections.folding import Checkpoints
from projections.schema import FOR_SEARCH, metadata, view_meta

_CHECKPOINTS = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints"
SIDE_FILES = ("-wal", "-shm")
WAL_PAGES = 8_000
"""32 MB: folding writes the same index pages over and over."""
PROJECTORS_WAL_PAGES = 48_000
"""The projector leaves the WAL to the sealer's commits, up to this size: who commits moves it, and
a fold that readers wait for would wait for the disk."""


@dataclass(frozen=True, slots=True)
class _Opened:
    inode: int
    writer: sa.Engine
    reader: sa.Engine
    watch: Any
    """A plain connection for the checkpoints, which are read at every request."""


class SqliteViews:
    """One SQLite file of views; see `projections.database.Views`."""

    is_on_server = False

    def __init__(self, path: Path, log_id: str, *, being_made: bool = False) -> None:
        """`being_made`: for views that nobody reads yet. A crash loses them, so that no commit
        needs to reach the disk before they are whole."""
        self.path = path
        self.folder = path.parent
        self.name = self.address = str(path)
        self._log_id = log_id
        self._being_made = being_made
        self.fingerprint = fingerprint(log_id)
        self._lock = threading.Lock()
        self._watch_lock = threading.Lock()
        self._opened: _Opened | None = None
        self._wal_pages = WAL_PAGES

    def create(self) -> bool:
        """See Views."""
        if self._is_current():
            return False
        self.close()
        new = self.path.with_name(f"{self.path.name}.new-{secrets.token_hex(4)}")
        make_empty(new, self.fingerprint)
        put_file_in_place(new, self.path)
        self.remove_replaced()
        return True

    def _is_current(self) -> bool:
        if not self.path.exists():
            return False
        try:
            self._current()
        except (sa.exc.DatabaseError, TemporarilyUnavailable):
            return False
        return True

    def _current(self) -> _Opened:
        """The engines of the file that is there now."""
        inode = self._inode()
        opened = self._opened
        if opened is not None and opened.inode == inode:
            return opened
        with self._lock:
            opened = self._opened
            if opened is not None and opened.inode == inode:
                return opened
            self._close_opened()
            reader = open_engine(self.path, synchronous="NORMAL", read_only=True, cache_mb=16)
            with reader.connect() as connection:
                made_with = _stored_fingerprint(connection)
            if made_with != self.fingerprint:
                # Rows of other folds must not be answered; the projector replaces the file.
                reader.dispose()
                raise TemporarilyUnavailable(MADE_AGAIN)
            writer = open_engine(
                self.path,
                synchronous="OFF" if self._being_made else "NORMAL",
                secure_delete=True,
                cache_mb=32 if self._being_made else 16,
                pool_size=2,
                wal_pages=self._wal_pages,
            )
            self._opened = _Opened(inode, writer, reader, reader.raw_connection())
            return self._opened

    def _inode(self) -> int:
        for wait_s in (0.0, 0.005, 0.05, None):
            try:
                return os.stat(self.path).st_ino  # noqa: PTH116 (hot: Path.stat is slower)
            except FileNotFoundError:
                # A new file may be about to take the old one's place.
                if wait_s is not None:
                    time.sleep(wait_s)
        raise TemporarilyUnavailable(NOT_THERE)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """See Views."""
        with self._current().reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, beside_others: bool = False) -> Iterator[sa.Connection]:  # noqa: ARG002
        """See Views. SQLite has one writer."""
        with self._current().writer.begin() as connection:
            yield connection

    def checkpoints(self) -> Checkpoints:
        """See Views."""
        opened = self._current()
        with self._watch_lock:
            try:
                with contextlib.closing(opened.watch.cursor()) as cursor:
                    cursor.execute(_CHECKPOINTS)
                    rows = cursor.fetchall()
            except SqliteError as error:
                raise TemporarilyUnavailable(f"The views can't be read: {error}") from error
        return checkpoints_from(rows)

    def require_current(self) -> None:
        """See Views."""
        self._current()

    def _close_opened(self) -> None:
        if self._opened is not None:
            with self._watch_lock, contextlib.suppress(SqliteError):
                self._opened.watch.close()
            self._opened.reader.dispose()
            self._opened.writer.dispose()
            self._opened = None

    def close(self) -> None:
        """See Views."""
        with self._lock:
            self._close_opened()

    @contextlib.contextmanager
    def lock(
        self,
        name: str,
        wait_s: float = 0.0,
        lost: Callable[[], None] = lambda: None,  # noqa: ARG002
    ) -> Iterator[None]:
        """See Views. The operating system frees the lock with the process, and not before."""
        deadline = time.monotonic() + wait_s
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with file_lock(self.path.with_name(self.path.name + _lock_suffix(name))) as held:
                if held:
                    if name == PROJECTOR:
                        self._wal_pages = PROJECTORS_WAL_PAGES
                    yield
                    return
            if time.monotonic() >= deadline:
                raise AlreadyRunning(
                    f"another process is folding {self.path}: a Runfold server runs on this folder "
                    "already. Stop it first, or give another --home."
                )
            time.sleep(LOCK_POLL_S)

    @contextlib.contextmanager
    def making(self) -> Iterator[SqliteViews]:
        """See Views."""
        with self._scratch() as path:
            make_empty(path, self.fingerprint, for_search=False)
            made = SqliteViews(path, self._log_id, being_made=True)
            try:
                yield made
            finally:
                made.close()

    @contextlib.contextmanager
    def copied(self) -> Iterator[SqliteViews]:
        """See Views."""
        with self._scratch() as path:
            with _plain_connection(self.path) as connection:
                cursor = connection.cursor()
                cursor.execute("VACUUM INTO ?", (str(path),))
                cursor.close()
            made = SqliteViews(path, self._log_id)
            try:
                yield made
            finally:
                made.close()

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A path beside these views for ones that are being made; what is left there goes.

        Files of makers that were killed go too: their locks are free.
        """
        live = self.path
        for lock in live.parent.glob(f"{live.name}.making-*.lock"):
            with file_lock(lock) as held:
                if held:
                    _remove(lock.with_suffix(""))
                    lock.unlink(missing_ok=True)
        path = live.with_name(f"{live.name}.making-{secrets.token_hex(4)}")
        lock = path.with_name(path.name + ".lock")
        with file_lock(lock):
            try:
                yield path
            finally:
                _remove(path)
                lock.unlink(missing_ok=True)

    def add_search_indexes(self) -> None:
        """See Views."""
        for table in metadata.sorted_tables:
            for index in indexes_of(table):
                if index.info == FOR_SEARCH:
                    with self.write() as connection:
                        connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))

    def put_in_place(self, made: Views, within: sa.Connection | None = None) -> None:  # noqa: ARG002
        """See Views. The transaction `within` is of the file that is replaced."""
        new = _file_of(made)
        _make_whole(made)
        put_file_in_place(new, self.path)

    def remove_replaced(self) -> None:
        """See Views."""
        live = self.path
        current = live.resolve().name
        replaced = re.compile(re.escape(live.name) + r"(\.([0-9a-f]{8}|link-[0-9a-f]{8}))?")
        for file in live.parent.glob(f"{glob.escape(live.name)}*"):
            name = file.name
            for suffix in SIDE_FILES:
                name = name.removesuffix(suffix)
            if replaced.fullmatch(name) and name != current and file != live:
                file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def replacing(self, made: Views) -> Iterator[Replacing]:
        """See Views."""
        inode = self.path.stat().st_ino
        engine = open_engine(self.path, synchronous="NORMAL", secure_delete=True, cache_mb=32)
        try:
            with engine.begin() as connection:
                if self.path.stat().st_ino != inode:
                    raise TemporarilyUnavailable(MADE_AGAIN)
                # Within the transaction: only the live file is locked, the other is folded into.
                connection.exec_driver_sql("ATTACH DATABASE ? AS made", (str(_file_of(made)),))
                yield Replacing(connection, "main.", "made.")
        finally:
            engine.dispose()


LOCK_POLL_S = 0.02


def _lock_suffix(name: str) -> str:
    return ".lock" if name == PROJECTOR else f".{name}.lock"


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Holds a file's lock, which ends with the process; tells whether it was free."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except BlockingIOError:
            is_free = False
        yield is_free
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _file_of(views: Views) -> Path:
    if not isinstance(views, SqliteViews):
        raise TypeError("a SQLite file of views is replaced by another one")
    return views.path


@contextlib.contextmanager
def _plain_connection(path: Path) -> Iterator[Any]:
    engine = open_engine(path, synchronous="NORMAL")
    connection = engine.raw_connection()
    try:
        yield connection
    finally:
        connection.close()
        engine.dispose()


def _make_whole(views: Views) -> None:
    """Closes views so that their one file has everything, on the disk."""
    views.close()
    path = _file_of(views)
    with _plain_connection(path) as connection:
        cursor = connection.cursor()
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        busy = (cursor.fetchone() or (1,))[0]
        cursor.close()
    if busy:
        raise AlreadyRunning(f"{path} is in use by another process")
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_empty(path: Path, made_with: str, *, for_search: bool = True) -> None:
    """A file of empty views at this path, whole and without side files.

    Without `for_search` it lacks the indexes that no fold uses; see `add_search_indexes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = open_engine(path, synchronous="NORMAL")
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(sa.schema.CreateTable(table))
            for index in indexes_of(table):
                if for_search or index.info != FOR_SEARCH:
                    connection.execute(sa.schema.CreateIndex(index))
        connection.execute(sa.insert(view_meta).values(name=FINGERPRINT, value=made_with))
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    engine.dispose()


def put_file_in_place(new: Path, live: Path) -> None:
    """Puts a whole, closed file of views in the live one's place, at one instant.

    `live` is a symbolic link to the file: SQLite names a file's WAL after what a link leads to, so
    no process can ever read one file's pages with another file's WAL, which replacing the file
    itself would allow for a moment. Who has the old file open keeps reading it until it looks at
    the inode again; `remove_replaced` deletes it.
    """
    token = secrets.token_hex(4)
    target = live.with_name(f"{live.name}.{token}")
    for suffix in SIDE_FILES:
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    new.rename(target)
    link = live.with_name(f"{live.name}.link-{token}")
    link.symlink_to(target.name)
    link.replace(live)
    folder = os.open(live.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stored_fingerprint(connection: sa.Connection) -> str | None:
    found = connection.execute(
        sa.select(view_meta.c.value).where(view_meta.c.name == FINGERPRINT)
    ).scalar()
    return None if found is None else str(found)
