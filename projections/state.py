"""What a fold sees of the views: rows by primary key, read once and written back in batches.

A fold changes rows in memory. The projector writes all changed rows of a batch of events with one
statement a table, in the transaction that also moves the checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from projections.schema import metadata
from projections.statements import Insertion, among, native, upserting

Row = dict[str, Any]
Key = tuple[Any, ...]
_MISSING: Any = object()
READ_AHEAD_MAX = 500
"""Keys in one statement."""
_FIRST = itemgetter(0)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is the same for a table in every batch: its columns, and the statements for one row or
    group in the driver's own language."""

    names: list[str]
    keys: list[str]
    key_of: Callable[[Row], Key]
    values_of: Callable[[Row], Key]
    grouped: bool
    """Whether the primary key has several columns, so that its first one makes groups."""
    any: str
    one: str
    group: str
    groups: str
    """For the rows or groups of a list, which is one parameter; a server's statement."""
    upsert: Insertion
    remove: str


@lru_cache(maxsize=256)
def _layout(table: sa.Table, dialect: str) -> _Layout:
    names = [column.name for column in table.columns]
    keys = [column.name for column in table.primary_key.columns]

    def text(statement: str) -> str:
        return native(dialect, statement)

    selected = f"SELECT {', '.join(map(_quoted, names))} FROM {_quoted(table.name)}"
    by_key = " AND ".join(f"{_quoted(name)} = ?" for name in keys)
    return _Layout(
        names=names,
        keys=keys,
        key_of=_getter(keys),
        values_of=_getter(names),
        grouped=len(keys) > 1,
        any=f"SELECT 1 FROM {table.name} LIMIT 1",
        one=text(f"{selected} WHERE {by_key}"),
        group=text(f"{selected} WHERE {_quoted(keys[0])} = ?"),
        groups=f"{selected} WHERE {_quoted(keys[0])} {among(dialect)}",
        upsert=upserting(dialect, table),
        remove=text(f"DELETE FROM {_quoted(table.name)} WHERE {by_key}"),
    )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _getter(names: list[str]) -> Callable[[Row], Key]:
    """What takes the values of these names out of a row, as a tuple."""
    if len(names) == 1:
        name = names[0]
        return lambda row: (row[name],)
    return itemgetter(*names)


class Rows:
    """The rows of one table, by primary key.

    Rows are dicts with every column; they are replaced, never changed in place.
    """

    __slots__ = (
        "_any",
        "_complete",
        "_dirty",
        "_groups",
        "_key_of",
        "_layout",
        "_rows",
        "_state",
        "_touched",
        "_undo",
    )

    def __init__(self, state: State, table: sa.Table) -> None:
        self._state = state
        self._undo = state.undo
        self._layout = _layout(table, state.dialect)
        self._key_of = self._layout.key_of
        self._rows: dict[Key, Row | None] = {}
        self._groups: dict[Any, set[Key]] = {}
        self._complete: set[Any] = set()
        self._dirty: dict[Key, None] = {}
        self._any: bool | None = None
        self._touched: set[Any] = set()

    def touched(self) -> set[Any]:
        """What the keys of the rows begin with that the batch has changed so far."""
        return self._touched.union(map(_FIRST, self._dirty))

    def get(self, *key: Any) -> Row | None:
        """The row with this primary key, or None."""
        row = self._rows.get(key, _MISSING)
        if row is not _MISSING:
            return row  # type: ignore[no-any-return]
        if key[0] in self._complete:
            return None
        layout = self._layout
        if layout.grouped:
            self.group(key[0])
            return self._rows.get(key)
        found = self._state.fetch(layout.one, key)
        self._rows[key] = dict(zip(layout.names, found[0], strict=True)) if found else None
        return self._rows[key]

    def any(self) -> bool:
        """Whether the table has rows at all; asked of the database once a batch."""
        if self._any is None:
            self._any = bool(self._state.fetch(self._layout.any, ()))
        return self._any or bool(self._rows)

    def group(self, prefix: Any) -> list[Row]:
        """All rows whose first primary-key column has this value."""
        members = self._groups.setdefault(prefix, set())
        if prefix not in self._complete:
            layout = self._layout
            for found in self._state.fetch(layout.group, (prefix,)):
                row = dict(zip(layout.names, found, strict=True))
                key = self._key_of(row)
                if key not in self._rows:
                    self._rows[key] = row
                    members.add(key)
            self._complete.add(prefix)
        rows = (self._rows[key] for key in members)
        return [row for row in rows if row is not None]

    def read_ahead(self, prefixes: Sequence[Any]) -> None:
        """Reads the rows whose keys begin with these at once; only of a server."""
        layout = self._layout
        for start in range(0, len(prefixes), READ_AHEAD_MAX):
            chunk = prefixes[start : start + READ_AHEAD_MAX]
            for found in self._state.fetch(layout.groups, (chunk,)):
                row = dict(zip(layout.names, found, strict=True))
                key = self._key_of(row)
                if key not in self._rows:
                    self._rows[key] = row
                    self._groups.setdefault(key[0], set()).add(key)
            for prefix in chunk:
                self.begin_group(prefix)
                if not layout.grouped:
                    self._rows.setdefault((prefix,), None)

    def begin_group(self, prefix: Any) -> None:
        """Says that no row with this prefix is stored: spares the look for a new run's rows."""
        self._groups.setdefault(prefix, set())
        self._complete.add(prefix)

    def put(self, row: Row) -> None:
        """Adds or replaces the row with this primary key; every column must be given."""
        self._set(self._key_of(row), row)

    def write(self, rows: list[Key], insertion: Insertion | None = None) -> None:
        """Writes rows at once and past the cache, by a view's `finish`: for tables in which every
        column is part of the key, where rows that are there already stay, or by an insertion of
        the view's own, in which the key comes first. Of such a table no fold reads a row."""
        self._state.insert_many(insertion or self._layout.upsert, rows)
        self._touched.update(map(_FIRST, rows))

    def delete(self, *key: Any) -> None:
        """Removes the row with this primary key, where there is one."""
        self._set(key, None)

    def _set(self, key: Key, row: Row | None) -> None:
        rows, dirty = self._rows, self._dirty
        before = rows.get(key, _MISSING)
        self._undo.append((self, key, before, key in dirty))
        rows[key] = row
        dirty[key] = None
        if before is _MISSING and self._layout.grouped:
            members = self._groups.get(key[0])
            if members is None:
                members = self._groups[key[0]] = set()
            members.add(key)

    def restore(self, key: Key, before: Row | None, was_dirty: bool) -> None:
        """Takes back one change."""
        if before is _MISSING:
            self._rows.pop(key, None)
            if self._layout.grouped:
                self._groups[key[0]].discard(key)
        else:
            self._rows[key] = before
        if not was_dirty:
            self._dirty.pop(key, None)

    def flush(self) -> None:
        """Writes the changed rows: one upsert and one delete statement for all of them."""
        if not self._dirty:
            return
        rows, layout = self._rows, self._layout
        values_of = layout.values_of
        kept = [values_of(row) for key in self._dirty if (row := rows[key]) is not None]
        if len(kept) < len(self._dirty):
            gone = [key for key in self._dirty if rows[key] is None]
            self._state.write_many(layout.remove, gone)
        self._state.insert_many(layout.upsert, kept)
        self._touched.update(map(_FIRST, self._dirty))
        self._dirty.clear()

    def forget(self) -> None:
        """Drops what was read or changed, so that it is read again."""
        self._dirty.clear()
        self._any = None
        self._rows.clear()
        self._groups.clear()
        self._complete.clear()


class State:
    """All tables as the folds of one batch see and change them."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.dialect = connection.dialect.name
        self.undo: list[tuple[Rows, Key, Any, bool]] = []
        # Folding is many small statements: a plain cursor costs a fifth of SQLAlchemy's way.
        self._cursor: Any = connection.connection.cursor()
        self._tables: dict[sa.Table | str, Rows] = {}
        self._is_set_based = False
        self._collected: dict[str, list[Any]] = {}

    def rows(self, table: sa.Table | str) -> Rows:
        """The rows of a table; by its name where it belongs to another entity."""
        rows = self._tables.get(table)
        if rows is None:
            if isinstance(table, str):
                rows = self.rows(metadata.tables[table])
            else:
                rows = Rows(self, table)
            self._tables[table] = rows
        return rows

    def touched(self, name: str) -> set[Any]:
        """What the keys of a table's rows begin with that the batch has changed so far; for a
        view's `finish`."""
        rows = self._tables.get(metadata.tables[name])
        return set() if rows is None else rows.touched()

    def close(self) -> None:
        """Ends the use of the connection.

        Left to the garbage collector, the cursor would be closed in whichever thread that runs,
        and reset a statement that another cursor of the connection may be in the middle of.
        """
        self._cursor.close()
        # Each table's rows know the state: without this only the collector would free a batch.
        self.forget()
        self._tables.clear()
        self._collected.clear()

    def fetch(self, statement: str, parameters: Key) -> list[Any]:
        """The rows that a statement in the driver's own language finds."""
        self._cursor.execute(statement, parameters)
        return list(self._cursor.fetchall())

    def write_many(self, statement: str, rows: Iterable[Key]) -> None:
        """Runs a statement in the driver's own language for each of these rows."""
        self._cursor.executemany(statement, rows)

    def insert_many(self, insertion: Insertion, rows: Sequence[Key]) -> None:
        """Writes rows in the order of the insertion's columns."""
        insertion.write(self._cursor, rows)

    def collect(self, name: str) -> list[Any]:
        """A list that folds of this batch add to, for a view that writes it all at once in its
        `finish` (see EntityView). Only folds that never reject may use it."""
        return self._collected.setdefault(name, [])

    def execute(self, statement: sa.Executable) -> None:
        """Runs a set-based statement on the stored rows, for what concerns many of them.

        Everything changed so far is written first and everything read is forgotten, so a fold
        calls it only after all its checks. Only for the events that folding.py names set-based.
        """
        if not self._is_set_based:
            raise RuntimeError("name the event among the set-based ones of folding.py")
        self.flush()
        self.connection.execute(statement)
        self.forget()

    @contextlib.contextmanager
    def set_based(self) -> Iterator[None]:
        """Allows `execute` for as long as a savepoint can take it back."""
        self._is_set_based = True
        try:
            yield
        finally:
            self._is_set_based = False

    def forget(self) -> None:
        """Drops all that was read or changed and not written."""
        for rows in self._tables.values():
            rows.forget()
        self.undo.clear()

    def exists(self, query: sa.Select[Any]) -> bool:
        """Whether a query finds a row, for rules that no primary key answers; asked before the
        event changes anything, for what is written can't be undone."""
        if self.undo:
            raise RuntimeError("ask `exists` before the event changes anything")
        self.flush()
        return self.connection.execute(query.limit(1)).first() is not None

    def flush(self) -> None:
        """Writes all changed rows."""
        for rows in self._tables.values():
            rows.flush()

    def undo_event(self) -> None:
        """Takes back what was put since the last `keep_event`."""
        while self.undo:
            rows, key, before, was_dirty = self.undo.pop()
            rows.restore(key, before, was_dirty)

    def keep_event(self) -> None:
        """Lets stand what was put."""
        self.undo.clear()
