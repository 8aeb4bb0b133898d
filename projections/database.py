"""The views' database as readers, the projector and the maintenance commands use it.

Views can be deleted and made again from the log at any time. Whole new ones always take the old
ones' place at one instant, and every process sees by itself that they did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from events.event import Partition
from projections.catalog import VIEWS
from projections.folding import Checkpoint, Checkpoints
from projections.schema import metadata

CHECKPOINT_COLUMNS = "lane, partition_number, position, lifecycle, rejected, stopped"
FINGERPRINT = "fingerprint"
"""The name in `view_meta` of what views were made with."""

NOT_THERE = "The views are not there yet: they are being made from the log. Try again shortly."
MADE_AGAIN = "The views are being made from the log again. Try again shortly."

PROJECTOR, SEALER, GC, MAINTENANCE = "projector", "sealer", "gc", "maintenance"
"""The locks: of who folds, who seals and exports, who purges now and then, and who may replace the
views."""


class AlreadyRunning(Exception):
    """Another process folds these views already, or is replacing them."""


class Replacing(NamedTuple):
    """A write transaction on live views that also reads views that were made beside them."""

    connection: sa.Connection
    live: str
    """What stands before a table's name to mean the live one, with its dot,"""
    made: str
    """and the one beside it."""


class Views(Protocol):
    """One database of views; safe among threads.

    Everything raises TemporarilyUnavailable while there are no views, or none of this code, and
    while their server can't be reached.
    """

    @property
    def name(self) -> str:
        """Where they are, for messages."""

    @property
    def is_on_server(self) -> bool:
        """Whether they are reached over a network: asking them may take long, and processes on
        other machines use them too."""

    @property
    def folder(self) -> Path | None:
        """The folder that all processes have that use them; None: they are on a server."""

    @property
    def address(self) -> str:
        """What opens them in another process, which `projections.opened_views.made_views` does for
        ones that are being made. It may hold a password."""

    @property
    def fingerprint(self) -> str:
        """What they must have been made with to be used."""

    def create(self) -> bool:
        """Makes empty views, where there are none or ones that other code or another log made.

        Only for who holds the projector's lock. Returns whether the views start empty.
        """

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a read transaction: one snapshot throughout."""

    def write(self, *, beside_others: bool = False) -> AbstractContextManager[sa.Connection]:
        """A connection in a write transaction, committed at the end; one at a time has one.

        `beside_others`: others that say so too may have one at the same time, where the database
        can do that. What they write must not meet, or meet only in single statements.
        """

    def checkpoints(self) -> Checkpoints:
        """How far the log is folded."""

    def require_current(self) -> None:
        """Raises where there are no views, or ones of other code."""

    def close(self) -> None:
        """Closes what is open; the next use opens it again."""

    def lock(
        self, name: str, wait_s: float = 0.0, lost: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        """Holds one of the locks above. It ends with the process that has it.

        Raises AlreadyRunning where another has it for longer than `wait_s`. `lost` is called from
        another thread where the lock ends by itself, because its server went away.
        """

    def making(self) -> AbstractContextManager[Views]:
        """Empty views beside these, which nobody else uses and which a crash may lose; without the
        indexes for searches. They are removed in the end unless they took these ones' place."""

    def copied(self) -> AbstractContextManager[Views]:
        """The same with all rows of these, and no trace of what was deleted from them."""

    def add_search_indexes(self) -> None:
        """Gives views that were made without them the indexes for searches.

        Sorting all rows once is several times quicker than keeping an index in order row by row.
        """

    def put_in_place(self, made: Views, within: sa.Connection | None = None) -> None:
        """Puts views that were made beside these in their place, at one instant.

        `within`: a write transaction on these, which holds off the projector.
        """

    def remove_replaced(self) -> None:
        """Deletes what is the live views no more. Call it a moment after replacing them: a process
        may be about to open the old ones."""

    def replacing(self, made: Views) -> AbstractContextManager[Replacing]:
        """A write transaction on these, committed at the end, that reads the other views too."""


def fingerprint(log_id: str, of_server: Iterable[str] = ()) -> str:
    """What these views must have been made with to be used: this log, these tables, these folds.

    `of_server`: what else says how the tables are made.
    """
    digest = hashlib.sha256(log_id.encode())
    for view in VIEWS:
        digest.update(f"{view.name} {view.version}\n".encode())
    for table in metadata.sorted_tables:
        digest.update(str(sa.schema.CreateTable(table)).encode())
        for index in indexes_of(table):
            digest.update(str(sa.schema.CreateIndex(index)).encode())
    for statement in of_server:
        digest.update(statement.encode())
    return digest.hexdigest()


def indexes_of(table: sa.Table) -> list[sa.Index]:
    """The table's indexes, in an order that is always the same."""
    return sorted(table.indexes, key=lambda index: str(index.name))


def checkpoints_from(rows: Iterable[tuple[Any, ...]]) -> Checkpoints:
    """The checkpoints in rows of CHECKPOINT_COLUMNS."""
    return Checkpoints((Partition(row[0], row[1]), Checkpoint(*row[2:])) for row in rows)
