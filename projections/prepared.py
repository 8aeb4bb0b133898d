"""Statements whose text is made once and which the driver runs: making a search's statement anew
costs more than running it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement in the driver's own language, the names of its parameters in their order, and
    the values of those that are always the same."""

    text: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]

    def rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows that it finds, as the driver gives them: a Boolean is 0 or 1 in SQLite."""
        if not connection.in_transaction():
            connection.begin()
        given = [values[name] if name in values else self.fixed[name] for name in self.names]
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(self.text, given)
            return list(cursor.fetchall())


def prepare(statement: sa.Select[Any], dialect: sa.Dialect) -> Prepared:
    """The statement for a dialect whose driver takes parameters by place, such as SQLite's."""
    compiled = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    names: list[str] = compiled.positiontup or []
    return Prepared(str(compiled), tuple(names), dict(compiled.params))
