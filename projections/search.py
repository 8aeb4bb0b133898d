"""Turns a parsed filter and order into SQL over an entity's tables, one page at a time.

An entity declares a `Searchable`: its main table, its attributes, and the tables beside it that
hold its metrics, params, tags and datasets. `search` answers with one page of rows. Pages are cut
by the sort keys of the last row, never by counting, and the entity's id is always the last key, so
that a row added or removed between two pages neither repeats nor hides another row.

Rows come in the order of MLflow's SQL store: rows without a value last whichever way the key is
sorted, NaN just before them, and ±Infinity compared as the greatest and smallest finite double.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from events.errors import InvalidParameterValue
from projections.filter_language import Clause, OrderBy
from projections.page_tokens import Position
from projections.search_conditions import condition, has_metric_on, metrics_of, on_datasets
from projections.search_plan import Plan, SortKey, plan_search
from projections.searchable import Dataset, MetricValues, Searchable, Values

__all__ = [
    "VIEW_TYPES",
    "Dataset",
    "MetricValues",
    "Page",
    "Searchable",
    "SortKey",
    "Values",
    "among",
    "in_view",
    "rows_after",
    "search",
]

VIEW_TYPES: Mapping[str, tuple[str, ...]] = {
    "ACTIVE_ONLY": ("active",),
    "DELETED_ONLY": ("deleted",),
    "ALL": ("active", "deleted"),
}

PARAMETERS_MAX = 1_000
"""A list of more values goes to SQLite as one parameter."""


@dataclass(frozen=True)
class Page:
    """One page: the main table's rows in order, their ids, and where to go on (None at the end)."""

    ids: list[str]
    rows: list[dict[str, Any]]
    next_after: Position | None


def search(
    connection: sa.Connection,
    searchable: Searchable,
    *,
    clauses: Sequence[Clause],
    order_by: Sequence[OrderBy] = (),
    scope: Sequence[ColumnElement[bool]] = (),
    datasets: Sequence[Dataset] = (),
    limit: int,
    after: Position | None = None,
) -> Page:
    """One page of the rows that fulfil every clause and every condition of `scope`.

    `after` is the `next_after` of the page before. `datasets` narrows the metrics of the clauses
    to those datasets or, if no clause is about a metric, the rows to those with a metric on one.
    """
    asked = _Asked(
        connection.dialect.name,
        searchable,
        tuple(clauses),
        tuple(order_by or searchable.default_order),
        tuple(scope),
        tuple(datasets),
    )
    plan = plan_search(connection, searchable, clauses, asked.order_by, scope, limit)
    if plan.walk is not None and (after is None or after[0] == _PRESENT):
        found = _fetch(connection, _query(asked, plan), limit, after)
        if len(found) > limit:
            return _page(searchable, found, limit)
        # The page reaches behind the rows that have a value; all rows are needed for it.
    found = _fetch(connection, _query(asked, Plan(plan.driver)), limit, after)
    return _page(searchable, found, limit)


def in_view(column: ColumnElement[Any], view_type: str) -> ColumnElement[bool]:
    """The condition that a lifecycle stage is in a view type (`ACTIVE_ONLY` if it is empty)."""
    stages = VIEW_TYPES.get(view_type or "ACTIVE_ONLY")
    if stages is None:
        raise InvalidParameterValue(
            f"Invalid view type '{view_type}'; it must be one of {', '.join(VIEW_TYPES)}"
        )
    return column == stages[0] if len(stages) == 1 else column.in_(stages)


def among(
    connection: sa.Connection, column: ColumnElement[Any], values: Sequence[str]
) -> ColumnElement[bool]:
    """The condition that a column is one of these values, however many they are.

    A database takes a limited number of parameters in one statement (SQLite 250,000), and a client
    may name as many experiments as its request can hold.
    """
    distinct = sorted(set(values))
    if len(distinct) <= PARAMETERS_MAX or connection.dialect.name != "sqlite":
        return column.in_(distinct)
    listed = sa.func.json_each(json.dumps(distinct)).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def rows_after(
    keys: Sequence[SortKey], position: Position, *, bounded: bool = True
) -> ColumnElement[bool]:
    """The condition that a row comes after a position in the order of `keys`.

    A None in the position is a NULL, which all rows have that are equal in the keys before it.
    `bounded` says the same once more in a way that lets an index on the first key start there.
    """
    if len(keys) != len(position):
        raise InvalidParameterValue("Invalid page token: it belongs to another order")
    pairs = [
        (key, value)
        for key, value in zip(keys, position, strict=True)
        if value is not None and not key.fixed
    ]
    condition: ColumnElement[bool] = sa.false()
    for key, value in reversed(pairs):
        beyond = key.expression > value if key.ascending else key.expression < value
        condition = sa.or_(beyond, sa.and_(key.expression == value, condition))
    if not bounded:
        return condition
    first, value = pairs[0]
    bound = first.expression >= value if first.ascending else first.expression <= value
    return sa.and_(bound, condition)


# How rows are classed when sorted by something that not all have. The class sorts ascending,
# whichever way the value does.
_PRESENT, _NANS, _NOTHING = 0, 1, 2


@dataclass(frozen=True)
class _Asked:
    """All that decides which rows there are, and in what order."""

    dialect: str
    searchable: Searchable
    clauses: tuple[Clause, ...]
    order_by: tuple[OrderBy, ...]
    scope: tuple[ColumnElement[bool], ...]
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True)
class _Query:
    """A statement without its page, and the keys that it is sorted by and that it selects."""

    statement: sa.Select[Any]
    keys: list[SortKey]
    bounded: bool


@dataclass(frozen=True)
class _Sorted:
    """What one order adds: keys, and the table that is joined for them where a row has one."""

    keys: list[SortKey]
    joined: sa.FromClause | None = None
    on: ColumnElement[bool] | None = None


def _fetch(
    connection: sa.Connection, query: _Query, limit: int, after: Position | None
) -> Sequence[sa.Row[Any]]:
    """The page's rows and one more, if there is one."""
    statement = query.statement.limit(limit + 1)
    if after is not None:
        statement = statement.where(rows_after(query.keys, after, bounded=query.bounded))
    return connection.execute(statement).fetchall()


def _page(searchable: Searchable, found: Sequence[sa.Row[Any]], limit: int) -> Page:
    names = [column.name for column in searchable.table.columns]
    page = found[:limit]
    rows = [dict(zip(names, row, strict=False)) for row in page]
    next_after = tuple(page[-1][len(names) :]) if len(found) > limit and page else None
    return Page([row[searchable.id.name] for row in rows], rows, next_after)


def _query(asked: _Asked, plan: Plan) -> _Query:
    searchable = asked.searchable
    source: sa.FromClause = searchable.table
    conditions = list(asked.scope)
    if plan.driver is not None:
        source = plan.driver.table.join(source, plan.driver.owner == searchable.id)
        conditions.extend(plan.driver.conditions)
    keys: list[SortKey] = []
    order_by = _whole_order(searchable, asked.order_by)
    if plan.walk is not None:
        source = plan.walk.table.join(source, plan.walk.owner == searchable.id)
        conditions.extend(plan.walk.conditions)
        keys = [SortKey(sa.literal_column(str(_PRESENT), sa.Integer), fixed=True), plan.walk.key]
        order_by = order_by[1:]
    for number, order in enumerate(order_by):
        by = _sorted_by(searchable, order, number)
        keys.extend(by.keys)
        if by.joined is not None:
            source = source.outerjoin(by.joined, by.on)
    for clause in asked.clauses:
        if not plan.holds(clause):
            conditions.append(condition(asked.dialect, searchable, clause, asked.datasets))
    if asked.datasets and not any(clause.kind == "metric" for clause in asked.clauses):
        conditions.append(has_metric_on(searchable, asked.datasets))
    selected = [key.expression.label(f"sort_key_{n}") for n, key in enumerate(keys)]
    sorting = [key for key in keys if not key.fixed]
    statement = (
        sa.select(*searchable.table.columns, *selected)
        .select_from(source)
        .where(*conditions)
        .order_by(*(k.expression.asc() if k.ascending else k.expression.desc() for k in sorting))
    )
    # Where a driver is to be read first, an index on the first key must not look the better one.
    return _Query(statement, keys, bounded=plan.driver is None)


def _whole_order(searchable: Searchable, order_by: Sequence[OrderBy]) -> list[OrderBy]:
    named = {(order.kind, order.key) for order in order_by}
    tail = (order for order in searchable.tail_order if (order.kind, order.key) not in named)
    return [*order_by, *tail]


def _sorted_by(searchable: Searchable, order: OrderBy, number: int) -> _Sorted:
    if order.kind == "attribute":
        expression = searchable.attributes[order.key]
        sorted_by = searchable.sort_by.get(order.key, expression)
        if isinstance(expression, sa.Column) and not expression.nullable:
            return _Sorted([SortKey(sorted_by, order.ascending)])
        return _Sorted(_nulls_last(sorted_by, order.ascending))
    if order.kind == "metric":
        return _sorted_by_metric(searchable, order, number)
    values = searchable.params if order.kind == "param" else searchable.tags
    if values is None or values.key is None or not isinstance(values.source, sa.Table):
        raise InvalidParameterValue(f"Can't sort by {order.kind} '{order.key}'")
    joined = values.source.alias(f"sorted_{number}")
    on = sa.and_(
        joined.c[str(values.owner.key)] == searchable.id,
        joined.c[str(values.key.key)] == order.key,
    )
    return _Sorted(_nulls_last(joined.c[str(values.value.key)], order.ascending), joined, on)


def _sorted_by_metric(searchable: Searchable, order: OrderBy, number: int) -> _Sorted:
    metrics = metrics_of(searchable)
    joined: sa.FromClause
    if metrics.newest_first:
        joined = _newest_metric(metrics, order).subquery(f"sorted_{number}")
        on = sa.and_(joined.c[metrics.owner.name] == searchable.id, joined.c["place"] == 1)
    else:
        joined = metrics.table.alias(f"sorted_{number}")
        on = sa.and_(
            joined.c[metrics.owner.name] == searchable.id,
            joined.c[metrics.key.name] == order.key,
        )
    value = SortKey(joined.c[metrics.value.name], order.ascending)
    whens: list[tuple[ColumnElement[bool], int]] = [
        (joined.c[metrics.owner.name].is_(None), _NOTHING)
    ]
    if metrics.is_nan is not None:
        whens.append((joined.c[metrics.is_nan.name] == sa.true(), _NANS))
    return _Sorted([SortKey(sa.case(*whens, else_=_PRESENT)), value], joined, on)


def _newest_metric(metrics: MetricValues, order: OrderBy) -> sa.Select[Any]:
    """Each owner's values of one metric, with their place from the newest."""
    place = sa.func.row_number().over(
        partition_by=metrics.owner, order_by=list(metrics.newest_first)
    )
    columns = [metrics.owner, metrics.value]
    if metrics.is_nan is not None:
        columns.append(metrics.is_nan)
    statement = sa.select(*columns, place.label("place")).where(metrics.key == order.key)
    if order.dataset_name is not None:
        dataset = Dataset(order.dataset_name, order.dataset_digest)
        statement = statement.where(on_datasets(metrics, [dataset]))
    return statement


def _nulls_last(expression: ColumnElement[Any], ascending: bool) -> list[SortKey]:
    missing = sa.case((expression.is_(None), _NOTHING), else_=_PRESENT)
    return [SortKey(missing), SortKey(expression, ascending)]
