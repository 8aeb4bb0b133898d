"""Statements in the language of the driver that runs them, where SQLAlchemy's way costs too much.

They are written with `?` for parameters and `"…"` around names that a database may keep for
itself. What else differs among the databases is made here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import sqlalchemy as sa

from projections.stored_texts import key_of

SQLITE, POSTGRESQL, MYSQL = "sqlite", "postgresql", "mysql"
ROWS_A_STATEMENT = 64
"""To SQLite every step of a statement costs more than a row: an insertion writes so many a step."""
Row = tuple[Any, ...]

_ARRAYS: Mapping[type, str] = {
    sa.Text: "text[]",
    sa.Double: "float8[]",
    sa.Boolean: "bool[]",
    sa.LargeBinary: "bytea[]",
    sa.BigInteger: "int8[]",
    sa.Integer: "int8[]",
}


@lru_cache(maxsize=1_024)
def native(dialect: str, statement: str) -> str:
    """A statement with `?` for parameters as the driver takes it."""
    if dialect == SQLITE:
        return statement
    return statement.replace("%", "%%").replace("?", "%s")


def among(dialect: str) -> str:
    """What stands behind a column that is one of a list, which is one parameter; on a server."""
    return "IN %s" if dialect == MYSQL else "= ANY(%s)"


def fetch_rows(connection: sa.Connection, statement: str, values: Sequence[Any] = ()) -> list[Row]:
    """All rows that a statement finds, by a plain cursor."""
    if not connection.in_transaction():
        connection.begin()
    with contextlib.closing(connection.connection.cursor()) as cursor:
        cursor.execute(native(connection.dialect.name, statement), values)
        return list(cursor.fetchall())


def run(connection: sa.Connection, statement: str, values: Sequence[Any] = ()) -> int:
    """Runs a statement that finds no rows; returns how many it changed."""
    if not connection.in_transaction():
        connection.begin()
    with contextlib.closing(connection.connection.cursor()) as cursor:
        cursor.execute(native(connection.dialect.name, statement), values)
        return int(cursor.rowcount)


@dataclass(frozen=True, slots=True)
class Insertion:
    """A statement that writes rows, any number at once; see the functions that make one."""

    dialect: str
    one: str
    """For one row or, in PostgreSQL, for the columns of any number."""
    many: str = ""
    """For ROWS_A_STATEMENT rows."""

    def write(self, cursor: Any, rows: Sequence[Row]) -> None:
        """Writes rows, with their values in the order of the insertion's columns."""
        if not rows:
            return
        if self.dialect == POSTGRESQL:
            # Each column is one value, an array: so it is one message, however many rows there are.
            cursor.execute(self.one, [list(column) for column in zip(*rows, strict=True)])
            return
        whole = 0
        if self.many:
            whole = len(rows) - len(rows) % ROWS_A_STATEMENT
            for start in range(0, whole, ROWS_A_STATEMENT):
                values = list(chain.from_iterable(rows[start : start + ROWS_A_STATEMENT]))
                cursor.execute(self.many, values)
        # MySQL's driver makes few statements of many.
        cursor.executemany(self.one, rows[whole:])


@lru_cache(maxsize=64)
def inserting(dialect: str, table: sa.Table, names: tuple[str, ...]) -> Insertion:
    """Adds rows with values for these columns; none of them is there yet."""
    return _insertion(dialect, table, names, "")


@lru_cache(maxsize=256)
def upserting(dialect: str, table: sa.Table) -> Insertion:
    """Adds rows with all columns in the table's order, or puts them in the place of those with the
    same key. Where all columns are the key a row that is there stays."""
    keys = {column.name for column in table.primary_key.columns}
    names = tuple(column.name for column in table.columns)
    return _upsert(dialect, table, names, {name: "{new}" for name in names if name not in keys})


@lru_cache(maxsize=16)
def marking(dialect: str, table: sa.Table, kinds: str, changes: str) -> Insertion:
    """Adds rows with the table's columns; where there is one with the same key `kinds` gets more
    bits and `changes` is counted up."""
    names = tuple(column.name for column in table.columns)
    return _upsert(dialect, table, names, {kinds: "{old} | {new}", changes: "{old} + 1"})


@lru_cache(maxsize=16)
def keeping_greatest(dialect: str, table: sa.Table, compared: tuple[str, ...]) -> Insertion:
    """Adds rows, the key's columns first and then these; where there is one with the same key the
    one with the greater values, compared in their order, stays. No row is read for that."""
    keys = tuple(column.name for column in table.primary_key.columns)
    if dialect != MYSQL:
        greater = f"({_listed('excluded', compared)}) > ({_listed(table.name, compared)})"
        changes = {name: "{new}" for name in compared}
        return _upsert(dialect, table, keys + compared, changes, f" WHERE {greater}")
    # MySQL sets one column after the other, and what is set is seen by what follows. So the last
    # column comes first, and each looks at those before it alone and at itself: where these are
    # equal there is nothing to change.
    changes = {}
    for count in range(len(compared), 0, -1):
        new = ", ".join(f'VALUES("{name}")' for name in compared[:count])
        greater = f"({new}) > ({_listed(table.name, compared[:count])})"
        changes[compared[count - 1]] = f"IF({greater}, {{new}}, {{old}})"
    return _upsert(dialect, table, keys + compared, changes)


def _listed(owner: str, names: Sequence[str]) -> str:
    return ", ".join(f'"{owner}"."{name}"' for name in names)


def _upsert(
    dialect: str,
    table: sa.Table,
    names: tuple[str, ...],
    changes: Mapping[str, str],
    only: str = "",
) -> Insertion:
    """`changes`: what a row that is there gets, in terms of `{old}` and `{new}`."""
    new = 'VALUES("{}")' if dialect == MYSQL else 'excluded."{}"'
    set_to = ", ".join(
        f'"{name}" = ' + change.format(old=f'"{table.name}"."{name}"', new=new.format(name))
        for name, change in changes.items()
    )
    if dialect == MYSQL:
        key = next(iter(table.primary_key.columns)).name
        then = set_to or f'"{key}" = "{table.name}"."{key}"'
        return _insertion(dialect, table, names, f" ON DUPLICATE KEY UPDATE {then}")
    then = f"DO UPDATE SET {set_to}{only}" if set_to else "DO NOTHING"
    return _insertion(dialect, table, names, f" ON CONFLICT ({key_of(table, dialect)}) {then}")


def _insertion(dialect: str, table: sa.Table, names: tuple[str, ...], conflict: str) -> Insertion:
    listed = ", ".join(f'"{name}"' for name in names)
    into = f'INSERT INTO "{table.name}" ({listed})'
    if dialect == POSTGRESQL:
        arrays = ", ".join(f"%b::{_ARRAYS[type(table.c[name].type)]}" for name in names)
        return Insertion(dialect, f"{into} SELECT * FROM unnest({arrays}){conflict}")
    marks = "(" + ", ".join(["?" if dialect == SQLITE else "%s"] * len(names)) + ")"
    one = f"{into} VALUES {marks}{conflict}"
    if dialect == MYSQL:
        return Insertion(dialect, one)
    many = f"{into} VALUES {', '.join([marks] * ROWS_A_STATEMENT)}{conflict}"
    return Insertion(dialect, one, many)
