"""The rows of many runs at once, by the shortest way from the database: a page of a search reads
thousands of small rows, and each layer in between costs more than the row.

What only goes into an answer the database makes JSON of (`json_list`), so that those rows never
become Python's. Its functions are named differently elsewhere: this is the one place for that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from projections.statements import POSTGRESQL
from projections.stored_texts import unescaped

IDS_MAX = 512
"""Ids in one IN list: few enough for every backend."""


def owned_rows(
    connection: sa.Connection,
    query: sa.Select[Any],
    owner: sa.Column[str],
    ids: Sequence[str],
    values: Sequence[Any] = (),
) -> Iterator[tuple[Any, ...]]:
    """The query's rows whose owner is one of the ids, as the driver gives them.

    In the query's order within IDS_MAX owners. `values` are those of the parameters of its own
    conditions. `query` must be one that lives as long as its module: its text is kept.
    """
    if not connection.in_transaction():
        connection.begin()
    for start in range(0, len(ids), IDS_MAX):
        chunk = list(ids[start : start + IDS_MAX])
        # Lists of few lengths need few texts; an id that stands twice is found once.
        length = 1 << (len(chunk) - 1).bit_length()
        chunk += chunk[-1:] * (length - len(chunk))
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(_text(query, owner, length, connection.dialect), [*values, *chunk])
            rows = cursor.fetchall()
        yield from rows


@lru_cache(maxsize=256)
def _text(query: sa.Select[Any], owner: sa.Column[str], length: int, dialect: sa.Dialect) -> str:
    ids: sa.BindParameter[list[str]] = sa.bindparam("ids", [""] * length, expanding=True)
    compiled = query.where(owner.in_(ids)).compile(
        dialect=dialect, compile_kwargs={"render_postcompile": True}
    )
    return str(compiled)


def json_list(
    dialect: str,
    owner: sa.Column[str],
    owned_by: sa.Column[str],
    fields: Mapping[str, ColumnElement[Any]],
) -> sa.ScalarSelect[str]:
    """A column that holds, for each row with an `owner`, what it owns in another table: a JSON list
    of objects with these fields, `[]` where there is nothing, in order of that table's primary key,
    which begins with `owned_by`.

    Doubles have 17 digits, or as many as they need, which is the value exactly; they must be
    finite. SQLite puts the elements in the order in which it reads them, and it reads by the
    primary key, for no other index begins with the owner; to have them sorted again would take a
    quarter more time. MySQL has no such order, so there the rows are read.
    """
    parts: list[ColumnElement[Any]] = []
    for name, expression in fields.items():
        is_double = dialect == POSTGRESQL and isinstance(expression.type, sa.Double)
        parts += [
            sa.literal_column(f"'{name}'"),
            _with_point(expression) if is_double else expression,
        ]
    listed: ColumnElement[Any]
    if dialect == POSTGRESQL:
        keys = owned_by.table.primary_key
        one = sa.func.json_build_object(*parts)
        listed = sa.func.json_agg(one).aggregate_order_by(*keys)
        # As text: the driver would make objects of it.
        listed = sa.func.coalesce(sa.cast(listed, sa.Text), sa.literal_column("'[]'"))
    else:
        listed = sa.func.json_group_array(sa.func.json_object(*parts))
    return sa.select(listed).where(owned_by == owner).correlate(owner.table).scalar_subquery()


def _with_point(double: ColumnElement[Any]) -> ColumnElement[Any]:
    """JSON of a double, with a point or an exponent: PostgreSQL writes whole ones without, below
    10^15, and who reads them would have integers."""
    is_whole = sa.and_(
        double == sa.func.trunc(double), sa.func.abs(double) < sa.literal_column("1e15")
    )
    text = sa.cast(double, sa.Text).concat(sa.literal_column("'.0'"))
    return sa.case((is_whole, sa.cast(text, sa.JSON)), else_=sa.func.to_json(double))


def sent_json(dialect: str, text: str) -> str:
    """The JSON that PostgreSQL made, whose texts are as they are stored there."""
    if dialect != POSTGRESQL or "\\u0001" not in text:
        return text
    return json.dumps(_unescaped(json.loads(text)))


def _unescaped(value: Any) -> Any:
    if isinstance(value, str):
        return unescaped(value)
    if isinstance(value, list):
        return [_unescaped(one) for one in value]
    if isinstance(value, dict):
        return {key: _unescaped(one) for key, one in value.items()}
    return value
