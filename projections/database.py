"""The views' database: one SQLite file that can be deleted and made again at any time.

A new file always takes the old one's place at once (`put_in_place`). Every process sees by the
file's inode that it was replaced, and opens the new one.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from events.errors import TemporarilyUnavailable
from events.event import Partition
from events.sqlite import SqliteError, open_engine
from projections.catalog import VIEWS
from projections.folding import Checkpoint, Checkpoints
from projections.schema import FOR_SEARCH, metadata, view_meta

_CHECKPOINTS = (
    "SELECT lane, partition_number, position, lifecycle, rejected, stopped FROM checkpoints"
)
SIDE_FILES = ("-wal", "-shm")
WAL_PAGES = 8_000
"""32 MB: folding writes the same index pages over and over."""


def fingerprint(log_id: str) -> str:
    """What these views must have been made with to be used: this log, these tables, these folds."""
    digest = hashlib.sha256(log_id.encode())
    for view in VIEWS:
        digest.update(f"{view.name} {view.version}\n".encode())
    for table in metadata.sorted_tables:
        digest.update(str(sa.schema.CreateTable(table)).encode())
        for index in _indexes(table):
            digest.update(str(sa.schema.CreateIndex(index)).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Opened:
    inode: int
    writer: sa.Engine
    reader: sa.Engine
    watch: Any
    """A plain connection for the checkpoints, which are read at every request."""


class Views:
    """The views' database as readers and the projector use it; safe among threads."""

    def __init__(self, path: Path, log_id: str, *, being_made: bool = False) -> None:
        """`being_made`: for views that nobody reads yet. A crash loses them, so that no commit
        needs to reach the disk before they are whole."""
        self.path = path
        self._being_made = being_made
        self.fingerprint = fingerprint(log_id)
        self._lock = threading.Lock()
        self._watch_lock = threading.Lock()
        self._opened: _Opened | None = None

    def create(self) -> bool:
        """Makes the file, where there is none or one that other code or another log made.

        Only for who holds the projector's lock. Returns whether the views start empty.
        """
        if self._is_current():
            return False
        self.close()
        new = self.path.with_name(f"{self.path.name}.new-{secrets.token_hex(4)}")
        make_empty(new, self.fingerprint)
        put_in_place(new, self.path)
        remove_replaced(self.path)
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
                raise TemporarilyUnavailable(
                    "The views are being made from the log again. Try again shortly."
                )
            writer = open_engine(
                self.path,
                synchronous="OFF" if self._being_made else "NORMAL",
                secure_delete=True,
                cache_mb=32 if self._being_made else 16,
                pool_size=2,
                wal_pages=WAL_PAGES,
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
        raise TemporarilyUnavailable(
            "The views are not there yet: they are being made from the log. Try again shortly."
        )

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in a read transaction: one snapshot throughout."""
        with self._current().reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection in a write transaction, committed at the end."""
        with self._current().writer.begin() as connection:
            yield connection

    def checkpoints(self) -> Checkpoints:
        """How far the log is folded. Raises TemporarilyUnavailable while there are no views."""
        opened = self._current()
        with self._watch_lock:
            try:
                with contextlib.closing(opened.watch.cursor()) as cursor:
                    cursor.execute(_CHECKPOINTS)
                    rows = cursor.fetchall()
            except SqliteError as error:
                raise TemporarilyUnavailable(f"The views can't be read: {error}") from error
        return Checkpoints((Partition(row[0], row[1]), Checkpoint(*row[2:])) for row in rows)

    def require_current(self) -> None:
        """Raises TemporarilyUnavailable where there are no views, or ones of other code."""
        self._current()

    def _close_opened(self) -> None:
        if self._opened is not None:
            with self._watch_lock, contextlib.suppress(SqliteError):
                self._opened.watch.close()
            self._opened.reader.dispose()
            self._opened.writer.dispose()
            self._opened = None

    def close(self) -> None:
        """Closes what is open; the next use opens it again."""
        with self._lock:
            self._close_opened()


def make_empty(path: Path, made_with: str, *, for_search: bool = True) -> None:
    """A file of empty views at this path, whole and without side files.

    Without `for_search` it lacks the indexes that no fold uses; see `add_search_indexes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = open_engine(path, synchronous="NORMAL")
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(sa.schema.CreateTable(table))
            for index in _indexes(table):
                if for_search or index.info != FOR_SEARCH:
                    connection.execute(sa.schema.CreateIndex(index))
        connection.execute(sa.insert(view_meta).values(name="fingerprint", value=made_with))
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    engine.dispose()


def add_search_indexes(views: Views) -> None:
    """Gives views that were made without them the indexes for searches.

    Sorting all rows once is several times quicker than keeping an index in order row by row.
    """
    for table in metadata.sorted_tables:
        for index in _indexes(table):
            if index.info == FOR_SEARCH:
                with views.write() as connection:
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def put_in_place(new: Path, live: Path) -> None:
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


def remove_replaced(live: Path) -> None:
    """Deletes the files that are the live views no more.

    A process that was just opening one when it was replaced needs a moment; callers give it.
    """
    current = live.resolve().name
    replaced = re.compile(re.escape(live.name) + r"(\.([0-9a-f]{8}|link-[0-9a-f]{8}))?")
    for file in live.parent.glob(f"{glob.escape(live.name)}*"):
        name = file.name
        for suffix in SIDE_FILES:
            name = name.removesuffix(suffix)
        if replaced.fullmatch(name) and name != current and file != live:
            file.unlink(missing_ok=True)


def _stored_fingerprint(connection: sa.Connection) -> str | None:
    found = connection.execute(
        sa.select(view_meta.c.value).where(view_meta.c.name == "fingerprint")
    ).scalar()
    return None if found is None else str(found)
