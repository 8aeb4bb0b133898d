"""What views need of a database server, in the words of each server's own language."""

from __future__ import annotations

from typing import Any, Protocol

import sqlalchemy as sa

from events.sql_servers import Pool
from projections.server_pulse import Pulse


class Server(Protocol):
    """What PostgreSQL and MySQL do differently. `connection` is one beside the generations, whose
    every statement is a transaction, unless said otherwise."""

    name: str
    """Which server and database it is, without a password."""
    uri: str
    """The same with it, as SQLAlchemy takes it."""
    errors: tuple[type[Exception], ...]
    """What the driver raises."""
    pulse: Pulse
    """Whether it is there; its connections use it too, so that none waits for ever."""
    begin_copy: str | None
    """Begins a transaction that copies one snapshot of other tables; None where none does."""
    checkpoints: str
    """Finds the live generation, what that of the connection was made with, and its checkpoints:
    nulls where there are none of these."""

    def engine(self, generation: str | None, pool: Pool) -> sa.Engine:
        """Connections to a generation's tables, or to what is beside the generations. They commit
        each statement until one of the two methods below begins a transaction."""

    def begin_read(self, cursor: Any) -> tuple[str | None, str | None]:
        """Begins a transaction that reads one snapshot, and tells which generation is live and
        what that of the connection was made with. While it lasts the generation is not removed."""

    def begin_write(self, cursor: Any) -> tuple[str | None, str | None]:
        """Begins a transaction that writes, and tells the same. It waits for those that write to
        the same generation, and sees what they committed."""

    def is_away(self, error: BaseException) -> bool:
        """Whether an error means that the server can't be reached, or asks to try again."""

    def is_gone(self, error: BaseException) -> bool:
        """Whether an error means that a table is not there."""

    def prepare(self, connection: sa.Connection) -> None:
        """Makes what is beside the generations, where it is not there yet."""

    def live(self, connection: sa.Connection) -> str | None:
        """The generation that the pointer names."""

    def point_to(self, connection: sa.Connection, generation: str) -> None:
        """Makes a generation the live one, in the connection's transaction."""

    def generations(self, connection: sa.Connection) -> list[str]:
        """All that there are, the live one too."""

    def create(self, connection: sa.Connection, generation: str) -> None:
        """Makes room for a generation's tables."""

    def remove(self, connection: sa.Connection, generation: str) -> bool:
        """Removes a generation; False while somebody reads it."""

    def prefix(self, generation: str) -> str:
        """What stands before the name of a generation's table in any of its connections."""

    def lock(self, connection: sa.Connection, name: str) -> bool:
        """Takes a lock that the connection holds until it ends; False where another has it."""

    def analyze(self, table: str) -> str:
        """The statement that counts a table's rows and values, for the server's planner."""

    def continue_ids(self, connection: sa.Connection, source: str, target: str) -> None:
        """Has a generation that was copied go on with the other's ids of blocks."""
