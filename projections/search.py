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
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from events.errors import InvalidParameterValue
from projections.filter_language import Clause, OrderBy
from projections.page_tokens import Position
from projections.prepared import Prepared, prepare
from projections.search_conditions import (
    ClauseForm,
    cheapest_first,
    condition,
    form_of,
    has_metric_on,
    metrics_of,
    on_datasets,
    padded,
)
from projections.search_plan import Choices, Plan, SortKey, choices
from projections.searchable import Among, Dataset, MetricValues, Searchable, Values
from projections.statements import MYSQL, POSTGRESQL

__all__ = [
    "VIEW_TYPES",
    "Among",
    "Dataset",
    "MetricValues",
    "Page",
    "Searchable",
    "SortKey",
    "Values",
    "in_view",
    "plan_of",
    "search",
]

VIEW_TYPES: Mapping[str, tuple[str, ...]] = {
    "ACTIVE_ONLY": ("active",),
    "DELETED_ONLY": ("deleted",),
    "ALL": ("active", "deleted"),
}

PARAMETERS_MAX = 1_000
"""A list of more values is one parameter: a statement takes a limited number of them (SQLite
250,000, PostgreSQL 65,535), and a client may name as many experiments as its request can hold."""

FORMS_MAX = 128
"""Searches differ in their values more than in their form. One with two clauses takes 56 kB."""


@dataclass(frozen=True)
class Page:
    """One page: the ids in order, the main table's rows unless it is searched for ids only, and
    where to go on (None at the end)."""

    ids: list[str]
    rows: list[dict[str, Any]]
    next_after: Position | None


def search(
    connection: sa.Connection,
    searchable: Searchable,
    *,
    clauses: Sequence[Clause],
    order_by: Sequence[OrderBy] = (),
    scope: Sequence[Among] = (),
    datasets: Sequence[Dataset] = (),
    limit: int,
    after: Position | None = None,
) -> Page:
    """One page of the rows that fulfil every clause and every condition of `scope`.

    `after` is the `next_after` of the page before. `datasets` narrows the metrics of the clauses
    to those datasets or, if no clause is about a metric, the rows to those with a metric on one.
    """
    asked, values = _asked(connection, searchable, clauses, order_by, scope, datasets)
    statements = _statements(asked)
    plan = statements.choices.best(connection, values, limit)
    values["limit"] = limit + 1
    if after is not None:
        values.update((f"after_{place}", value) for place, value in enumerate(after))
    if plan.walk is not None and (after is None or after[0] == _PRESENT):
        found = statements.page(plan, after).rows(connection, values)
        if len(found) > limit:
            return _page(searchable, found, limit)
        # The page reaches behind the rows that have a value; all rows are needed for it.
    found = statements.page(Plan(plan.driver), after).rows(connection, values)
    return _page(searchable, found, limit)


def plan_of(
    connection: sa.Connection,
    searchable: Searchable,
    *,
    clauses: Sequence[Clause],
    order_by: Sequence[OrderBy] = (),
    scope: Sequence[Among] = (),
    limit: int,
) -> Plan:
    """The plan that `search` would take."""
    asked, values = _asked(connection, searchable, clauses, order_by, scope, ())
    return _statements(asked).choices.best(connection, values, limit)


def in_view(column: sa.Column[str], view_type: str) -> Among:
    """The condition that a lifecycle stage is in a view type (`ACTIVE_ONLY` if it is empty)."""
    stages = VIEW_TYPES.get(view_type or "ACTIVE_ONLY")
    if stages is None:
        raise InvalidParameterValue(
            f"Invalid view type '{view_type}'; it must be one of {', '.join(VIEW_TYPES)}"
        )
    return Among(column, stages)


@dataclass(frozen=True)
class _ScopeForm:
    """An `Among` without its values, which are one JSON list where they are many."""

    column: sa.Column[str]
    parameters: tuple[str, ...]
    is_listed: bool

    def condition(self, dialect: str) -> ColumnElement[bool]:
        """The condition, with parameters for the values."""
        bound = [sa.bindparam(name, type_=sa.Text()) for name in self.parameters]
        if self.is_listed:
            return self.column.in_(_elements(dialect, self.parameters[0]))
        if not bound:
            return sa.false()
        # Only with one value can an index give what is asked for in the order of its next column.
        return self.column == bound[0] if len(bound) == 1 else self.column.in_(bound)


def _elements(dialect: str, parameter: str) -> sa.Select[tuple[str]]:
    """The texts of a list that is one parameter."""
    if dialect == POSTGRESQL:
        array = sa.bindparam(parameter, type_=sa.ARRAY(sa.Text()))
        return sa.select(sa.func.unnest(array))
    listed = sa.bindparam(parameter, type_=sa.Text())
    return sa.select(sa.func.json_each(listed).table_valued("value").c.value)


def _scope_form(dialect: str, among: Among, number: int) -> tuple[_ScopeForm, dict[str, Any]]:
    distinct = sorted(set(among.values))
    # MySQL's driver puts the values into the statement, which takes any number of them.
    is_listed = len(distinct) > PARAMETERS_MAX and dialect != MYSQL
    values: list[Any] = padded(distinct)
    if is_listed:
        values = [distinct if dialect == POSTGRESQL else json.dumps(distinct)]
    named = {f"scope_{number}_{place}": value for place, value in enumerate(values)}
    return _ScopeForm(among.column, tuple(named), is_listed), named


@dataclass(frozen=True)
class _Asked:
    """The form of a search: all that decides which statements it takes, but for the plan."""

    dialect: sa.Dialect
    searchable: Searchable
    clauses: tuple[ClauseForm, ...]
    order_by: tuple[OrderBy, ...]
    scope: tuple[_ScopeForm, ...]
    datasets: tuple[Dataset, ...]


def _asked(
    connection: sa.Connection,
    searchable: Searchable,
    clauses: Sequence[Clause],
    order_by: Sequence[OrderBy],
    scope: Sequence[Among],
    datasets: Sequence[Dataset],
) -> tuple[_Asked, dict[str, Any]]:
    """A search's form, and its values by the names of the statements' parameters."""
    dialect = connection.dialect
    values: dict[str, Any] = {}
    clause_forms: list[ClauseForm] = []
    for number, clause in enumerate(clauses):
        form, named = form_of(dialect.name, clause, number)
        clause_forms.append(form)
        values.update(named)
    scope_forms: list[_ScopeForm] = []
    for number, among in enumerate(scope):
        scope_form, named = _scope_form(dialect.name, among, number)
        scope_forms.append(scope_form)
        values.update(named)
    asked = _Asked(
        dialect,
        searchable,
        tuple(clause_forms),
        tuple(order_by or searchable.default_order),
        tuple(scope_forms),
        tuple(datasets),
    )
    return asked, values


class _Statements:
    """The statements for searches of one form, each made when it is first needed."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._scope = [form.condition(asked.dialect.name) for form in asked.scope]
        self._pages: dict[tuple[ClauseForm | None, bool, tuple[bool, ...] | None], Prepared] = {}
        self.choices: Choices = choices(
            asked.dialect, asked.searchable, asked.clauses, asked.order_by, self._scope
        )

    def page(self, plan: Plan, after: Position | None) -> Prepared:
        """The statement for a page by this plan, after a position with NULLs at these places."""
        nulls = None if after is None else tuple(value is None for value in after)
        driven_by = None if plan.driver is None else plan.driver.clause
        key = (driven_by, plan.walk is not None, nulls)
        found = self._pages.get(key)
        if found is None:
            query = _query(self._asked, self._scope, plan)
            statement = query.statement.limit(sa.bindparam("limit", type_=sa.Integer))
            if nulls is not None:
                statement = statement.where(_after(query, nulls))
            found = self._pages[key] = prepare(statement, self._asked.dialect)
        return found


@lru_cache(maxsize=FORMS_MAX)
def _statements(asked: _Asked) -> _Statements:
    return _Statements(asked)


def _after(query: _Query, nulls: Sequence[bool]) -> ColumnElement[bool]:
    """The condition that a row comes after a position, whose values are parameters.

    A NULL in the position is one that all rows have that are equal in the keys before it. Where
    the query says so, the same is said once more in a way that lets an index on the first key
    start there.
    """
    if len(query.keys) != len(nulls):
        raise InvalidParameterValue("Invalid page token: it belongs to another order")
    pairs = [
        (key, sa.bindparam(f"after_{place}", type_=key.expression.type))
        for place, (key, is_null) in enumerate(zip(query.keys, nulls, strict=True))
        if not is_null and not key.fixed
    ]
    condition: ColumnElement[bool] = sa.false()
    for key, value in reversed(pairs):
        beyond = key.expression > value if key.ascending else key.expression < value
        condition = sa.or_(beyond, sa.and_(key.expression == value, condition))
    if not query.bounded:
        return condition
    first, value = pairs[0]
    bound = first.expression >= value if first.ascending else first.expression <= value
    return sa.and_(bound, condition)


# How rows are classed when sorted by something that not all have. The class sorts ascending,
# whichever way the value does.
_PRESENT, _NANS, _NOTHING = 0, 1, 2


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


def _page(searchable: Searchable, found: Sequence[tuple[Any, ...]], limit: int) -> Page:
    names = [column.name for column in _selected(searchable)]
    page = found[:limit]
    next_after = page[-1][len(names) :] if len(found) > limit and page else None
    if searchable.ids_only:
        return Page([row[0] for row in page], [], next_after)
    rows = [dict(zip(names, row, strict=False)) for row in page]
    return Page([row[searchable.id.name] for row in rows], rows, next_after)


def _selected(searchable: Searchable) -> Sequence[sa.Column[Any]]:
    return [searchable.id] if searchable.ids_only else list(searchable.table.columns)


def _query(asked: _Asked, scope: Sequence[ColumnElement[bool]], plan: Plan) -> _Query:
    searchable = asked.searchable
    source: sa.FromClause = searchable.table
    conditions = list(scope)
    owner: ColumnElement[str] = searchable.id
    if plan.driver is not None:
        source = plan.driver.table.join(source, plan.driver.owner == searchable.id)
        conditions.extend(plan.driver.conditions)
        owner = plan.driver.owner
    keys: list[SortKey] = []
    order_by = _whole_order(searchable, asked.order_by)
    if plan.walk is not None:
        source = plan.walk.table.join(source, plan.walk.owner == searchable.id)
        conditions.extend(plan.walk.conditions)
        owner = plan.walk.owner
        keys = [SortKey(sa.literal_column(str(_PRESENT), sa.Integer), fixed=True), plan.walk.key]
        order_by = order_by[1:]
    for number, order in enumerate(order_by):
        by = _sorted_by(searchable, order, number)
        keys.extend(by.keys)
        if by.joined is not None:
            source = source.outerjoin(by.joined, by.on)
    dialect = asked.dialect.name
    for clause in cheapest_first(asked.clauses):
        if not plan.holds(clause):
            conditions.append(condition(dialect, searchable, clause, owner, asked.datasets))
    if asked.datasets and not any(clause.kind == "metric" for clause in asked.clauses):
        conditions.append(has_metric_on(searchable, asked.datasets))
    selected = [key.expression.label(f"sort_key_{n}") for n, key in enumerate(keys)]
    sorting = [key for key in keys if not key.fixed]
    statement = (
        sa.select(*_selected(searchable), *selected)
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
