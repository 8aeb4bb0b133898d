"""Decides where a search begins: at the searched table, or at an index that has fewer rows.

Databases decide this from statistics that a view which was just rebuilt does not have. So a few
index entries are counted instead, never more than a fixed number: that costs a fraction of a
millisecond and is true at this moment. Every plan gives the same rows in the same order; only the
time differs, from 0.3 ms to 90 ms for one page of 100,000 runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from projections.filter_language import OrderBy
from projections.prepared import Prepared, prepare
from projections.search_conditions import (
    ClauseForm,
    cheapest_first,
    compare,
    condition,
    metric_matches,
    metrics_of,
    unindexed,
    values_of,
)
from projections.searchable import Searchable
from projections.statements import SQLITE

COUNTED_MAX = 2_000
"""So many rows are read within a few milliseconds, so that more need not be counted."""

CLAUSES_COUNTED_MAX = 8
"""A filter with more clauses is rare, and one of the first is good enough to start from."""

WALKED_MAX = 200
"""So many of a metric's rows are tried, to see how many of them a search would find."""

WALK_ROWS_MAX = 20_000
"""A walk that would be longer than this is no better than reading every row."""


@dataclass(frozen=True)
class Driver:
    """A clause that few rows fulfil, the table to start from, and what holds for its rows there."""

    clause: ClauseForm
    table: sa.FromClause
    owner: ColumnElement[str]
    conditions: tuple[ColumnElement[bool], ...]


@dataclass(frozen=True)
class SortKey:
    """One expression that rows are sorted by.

    Rows for which it is NULL must be told from the others by a key before it. A `fixed` key has
    one value in all rows: a position holds it, and nothing is sorted by it.
    """

    expression: ColumnElement[Any]
    ascending: bool = True
    fixed: bool = False


@dataclass(frozen=True)
class Walk:
    """The index of what is sorted by: rows in order, but only those that have a value.

    `clauses` are those about the same metric, which `conditions` hold already.
    """

    table: sa.FromClause
    owner: ColumnElement[str]
    key: SortKey
    conditions: tuple[ColumnElement[bool], ...]
    clauses: tuple[ClauseForm, ...]


@dataclass(frozen=True)
class Plan:
    """Start at a driver, or walk along an index, or neither: start at the searched table."""

    driver: Driver | None = None
    walk: Walk | None = None

    def holds(self, clause: ClauseForm) -> bool:
        """Whether the plan's own conditions hold this clause already."""
        if self.driver is not None and clause == self.driver.clause:
            return True
        return self.walk is not None and clause in self.walk.clauses


@dataclass(frozen=True)
class Choices:
    """The plans that a form of search has, and the statements that tell which is the best."""

    in_scope: Prepared
    drivers: Sequence[tuple[Driver, Prepared]]
    walk: Walk | None
    first_walked: Prepared | None

    def best(self, connection: sa.Connection, values: Mapping[str, Any], limit: int) -> Plan:
        """The plan that reads the fewest rows, as far as a few counts tell."""
        if not self.drivers and self.walk is None:
            return Plan()
        fewest, best = _counted(connection, self.in_scope, values), None
        for driver, its_rows in self.drivers:
            rows = _counted(connection, its_rows, values)
            if rows < fewest:
                fewest, best = rows, driver
        if self.first_walked is not None and fewest > WALKED_MAX:
            found = _number(connection, self.first_walked, {**values, "walked": WALKED_MAX})
            length = WALKED_MAX * limit / found if found else float("inf")
            if length < (fewest if fewest <= COUNTED_MAX else WALK_ROWS_MAX):
                return Plan(walk=self.walk)
        return Plan(driver=best)


def choices(
    dialect: sa.Dialect,
    searchable: Searchable,
    clauses: Sequence[ClauseForm],
    order_by: Sequence[OrderBy],
    scope: Sequence[ColumnElement[bool]],
) -> Choices:
    """The plans for searches of this form."""
    in_scope = prepare(_counting(searchable.table, scope), dialect)
    if dialect.name != SQLITE:
        # These databases keep statistics, and choose by them.
        return Choices(in_scope, [], None, None)
    drivers = _drivers(dialect.name, searchable, clauses)[:CLAUSES_COUNTED_MAX]
    walk = _walk(dialect.name, searchable, clauses, order_by)
    probe = None if walk is None else _first_walked(dialect.name, searchable, walk, clauses, scope)
    return Choices(
        in_scope,
        [(d, prepare(_counting(d.table, d.conditions), dialect)) for d in drivers],
        walk,
        None if probe is None else prepare(probe, dialect),
    )


def _drivers(dialect: str, searchable: Searchable, clauses: Sequence[ClauseForm]) -> list[Driver]:
    found: list[Driver] = []
    for number, clause in enumerate(clauses):
        driver: Driver | None = None
        if clause.kind == "metric" and clause.comparator != "!=":
            driver = _metric_driver(dialect, searchable, clause, number)
        elif clause.comparator == "=" and clause.kind != "dataset":
            driver = _text_driver(dialect, searchable, clause, number)
        if driver is not None:
            found.append(driver)
    return found


def _metric_driver(
    dialect: str, searchable: Searchable, clause: ClauseForm, number: int
) -> Driver | None:
    metrics = metrics_of(searchable)
    if not metrics.by_value or metrics.is_nan is None:
        return None
    table = metrics.table.alias(f"driver_{number}")
    column = table.c
    matches = metric_matches(column[metrics.value.name], column[metrics.is_nan.name], clause)
    conditions = (column[metrics.key.name] == clause.key, matches)
    return Driver(clause, table, unindexed(dialect, column[metrics.owner.name]), conditions)


def _text_driver(
    dialect: str, searchable: Searchable, clause: ClauseForm, number: int
) -> Driver | None:
    if clause.kind == "attribute" and clause.key not in searchable.filtered_by_tag:
        return None
    values, key = values_of(searchable, clause)
    if not values.by_value or not isinstance(values.source, sa.Table) or values.key is None:
        return None
    table = values.source.alias(f"driver_{number}")
    column = table.c
    matches = compare(dialect, column[str(values.value.key)], clause)
    conditions = (column[str(values.key.key)] == key, matches)
    return Driver(clause, table, unindexed(dialect, column[str(values.owner.key)]), conditions)


def _walk(
    dialect: str,
    searchable: Searchable,
    clauses: Sequence[ClauseForm],
    order_by: Sequence[OrderBy],
) -> Walk | None:
    """The walk along what is sorted by first, if it has an index."""
    if not order_by or order_by[0].kind == "attribute":
        return None
    if order_by[0].kind == "metric":
        return _metric_walk(dialect, searchable, clauses, order_by[0])
    return _text_walk(dialect, searchable, order_by[0])


def _metric_walk(
    dialect: str, searchable: Searchable, clauses: Sequence[ClauseForm], order: OrderBy
) -> Walk | None:
    metrics = metrics_of(searchable)
    if not metrics.by_value or metrics.is_nan is None:
        return None
    table = metrics.table.alias("walked")
    column = table.c
    is_nan, value = column[metrics.is_nan.name], column[metrics.value.name]
    about = [c for c in clauses if c.kind == "metric" and c.key == order.key]
    conditions = [metric_matches(value, is_nan, c) for c in about if c.comparator != "!="]
    return Walk(
        table,
        unindexed(dialect, column[metrics.owner.name]),
        SortKey(value, order.ascending),
        (column[metrics.key.name] == order.key, is_nan == sa.false(), *conditions),
        tuple(clause for clause in about if clause.comparator != "!="),
    )


def _text_walk(dialect: str, searchable: Searchable, order: OrderBy) -> Walk | None:
    values = searchable.params if order.kind == "param" else searchable.tags
    if values is None or not values.by_value or not isinstance(values.source, sa.Table):
        return None
    if values.key is None:
        return None
    table = values.source.alias("walked")
    column = table.c
    return Walk(
        table,
        unindexed(dialect, column[str(values.owner.key)]),
        SortKey(column[str(values.value.key)], order.ascending),
        (column[str(values.key.key)] == order.key,),
        (),
    )


def _counting(table: sa.FromClause, conditions: Sequence[ColumnElement[bool]]) -> sa.Select[Any]:
    """How many rows fulfil the conditions, or the parameter `counted` if they are more."""
    rows = sa.select(sa.literal_column("1", sa.Integer)).select_from(table).where(*conditions)
    few = rows.limit(sa.bindparam("counted", type_=sa.Integer)).subquery()
    return sa.select(sa.func.count()).select_from(few)


def _counted(connection: sa.Connection, rows: Prepared, values: Mapping[str, Any]) -> int:
    return _number(connection, rows, {**values, "counted": COUNTED_MAX + 1})


def _number(connection: sa.Connection, statement: Prepared, values: Mapping[str, Any]) -> int:
    return int(statement.rows(connection, values)[0][0])


def _first_walked(
    dialect: str,
    searchable: Searchable,
    walk: Walk,
    clauses: Sequence[ClauseForm],
    scope: Sequence[ColumnElement[bool]],
) -> sa.Select[Any]:
    """How many of the first rows of a walk, so many as the parameter `walked`, would be found."""
    value = walk.key.expression
    first = (
        sa.select(walk.owner.label("owner"))
        .select_from(walk.table)
        .where(*walk.conditions)
        .order_by(value.asc() if walk.key.ascending else value.desc())
        .limit(sa.bindparam("walked", type_=sa.Integer))
        .subquery("first")
    )
    others = [
        condition(dialect, searchable, clause, first.c.owner)
        for clause in cheapest_first(clauses)
        if clause not in walk.clauses
    ]
    return (
        sa.select(sa.func.count())
        .select_from(first.join(searchable.table, searchable.id == first.c.owner))
        .where(*scope, *others)
    )
