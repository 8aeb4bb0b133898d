"""Turns a parsed filter and order into SQL over an entity's tables, one page at a time.

An entity declares a `Searchable`: its main table, its attributes, and the tables beside it that
hold its metrics, params, tags and datasets. `search` answers with one page of rows. Pages are cut
by the sort keys of the last row, never by counting, and the entity's id is always the last key, so
that a row added or removed between two pages neither repeats nor hides another row.

Rows come in the order of MLflow's SQL store: rows without a value last whichever way the key is
sorted, NaN just before them, and ±Infinity compared as the greatest and smallest finite double.
"""

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from events.errors import InvalidParameterValue
from projections.filter_language import Clause, OrderBy
from projections.page_tokens import Position

DOUBLE_MAX = sys.float_info.max
"""What MLflow stores for Infinity, and therefore what a filter that says so must find."""

VIEW_TYPES: Mapping[str, tuple[str, ...]] = {
    "ACTIVE_ONLY": ("active",),
    "DELETED_ONLY": ("deleted",),
    "ALL": ("active", "deleted"),
}


@dataclass(frozen=True)
class Values:
    """A table (or a join) beside the main one that holds texts of an entity.

    `owner` is the entity's id in it. `key` is the column with the key that the user chose, None
    where each row is a value by itself, as for datasets. `where` narrows it to the rows that count.
    """

    source: sa.FromClause
    owner: ColumnElement[Any]
    value: ColumnElement[Any]
    key: ColumnElement[Any] | None = None
    where: tuple[ColumnElement[bool], ...] = ()


@dataclass(frozen=True)
class MetricValues:
    """The table that holds the metrics of an entity.

    With one row for each owner and key nothing more needs to be said. Where it has more, a filter
    asks whether any of them matches, and `newest_first` says which one counts when sorting. Where
    rows belong to datasets, their name and digest can narrow both.
    """

    table: sa.Table
    owner: sa.Column[Any]
    key: sa.Column[Any]
    value: sa.Column[Any]
    is_nan: sa.Column[Any] | None = None
    newest_first: tuple[ColumnElement[Any], ...] = ()
    dataset_name: sa.Column[Any] | None = None
    dataset_digest: sa.Column[Any] | None = None


@dataclass(frozen=True)
class Searchable:
    """How an entity can be searched: which column answers for which name of the filter language.

    `sort_by` gives another expression to sort an attribute by, such as a cast of a numeric id that
    is stored as text. `filtered_by_tag` names attributes that MLflow filters by a tag's value
    instead of their column. `default_order` holds when none was asked for; `tail_order` is
    appended to every order, but for what it already names, and must end with the id.
    """

    table: sa.Table
    id: sa.Column[Any]
    attributes: Mapping[str, ColumnElement[Any]]
    tail_order: tuple[OrderBy, ...]
    default_order: tuple[OrderBy, ...] = ()
    metrics: MetricValues | None = None
    params: Values | None = None
    tags: Values | None = None
    datasets: Mapping[str, Values] = field(default_factory=dict)
    sort_by: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    filtered_by_tag: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A dataset that a metric of a logged model must belong to; without a digest, any digest."""

    name: str
    digest: str | None = None


@dataclass(frozen=True)
class Page:
    """One page: the main table's rows in order, their ids, and where to go on (None at the end)."""

    ids: list[str]
    rows: list[dict[str, Any]]
    next_after: Position | None


@dataclass(frozen=True)
class SortKey:
    """One expression that rows are sorted by. It must be NULL in no row."""

    expression: ColumnElement[Any]
    ascending: bool = True


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
    query = _query(connection.dialect.name, searchable, clauses, order_by, scope, datasets)
    statement = query.statement.limit(limit + 1)
    if after is not None:
        statement = statement.where(rows_after(query.keys, after))
    found = connection.execute(statement).fetchall()
    names = [column.name for column in searchable.table.columns]
    page = found[:limit]
    rows = [dict(zip(names, row, strict=False)) for row in page]
    next_after = tuple(page[-1][len(names) :]) if len(found) > limit and page else None
    return Page([row[searchable.id.name] for row in rows], rows, next_after)


def in_view(column: ColumnElement[Any], view_type: str) -> ColumnElement[bool]:
    """The condition that a lifecycle stage is in a view type (`ACTIVE_ONLY` if it is empty)."""
    stages = VIEW_TYPES.get(view_type or "ACTIVE_ONLY")
    if stages is None:
        raise InvalidParameterValue(
            f"Invalid view type '{view_type}'; it must be one of {', '.join(VIEW_TYPES)}"
        )
    return column == stages[0] if len(stages) == 1 else column.in_(stages)


def rows_after(keys: Sequence[SortKey], position: Position) -> ColumnElement[bool]:
    """The condition that a row comes after a position in the order of `keys`.

    A None in the position stands for a key that was the same for every row of that kind.
    """
    if len(keys) != len(position):
        raise InvalidParameterValue("Invalid page token: it belongs to another order")
    pairs = [pair for pair in zip(keys, position, strict=True) if pair[1] is not None]
    condition: ColumnElement[bool] = sa.false()
    for key, value in reversed(pairs):
        beyond = key.expression > value if key.ascending else key.expression < value
        condition = sa.or_(beyond, sa.and_(key.expression == value, condition))
    first, value = pairs[0]
    # Says nothing new, but lets an index on the first key start where the page starts.
    bound = first.expression >= value if first.ascending else first.expression <= value
    return sa.and_(bound, condition)


@dataclass(frozen=True)
class _Query:
    """A statement without its page, and the keys that it is sorted by and that it selects."""

    statement: sa.Select[Any]
    keys: list[SortKey]


def _query(
    dialect: str,
    searchable: Searchable,
    clauses: Sequence[Clause],
    order_by: Sequence[OrderBy],
    scope: Sequence[ColumnElement[bool]],
    datasets: Sequence[Dataset],
) -> _Query:
    source: sa.FromClause = searchable.table
    keys: list[SortKey] = []
    for number, order in enumerate(_whole_order(searchable, order_by)):
        source, added = _sort_keys(searchable, source, order, number)
        keys.extend(added)
    conditions = [_condition(dialect, searchable, clause, datasets) for clause in clauses]
    if datasets and not any(clause.kind == "metric" for clause in clauses):
        conditions.append(_has_metric_on(searchable, datasets))
    selected = [key.expression.label(f"sort_key_{n}") for n, key in enumerate(keys)]
    ordered = [key.expression.asc() if key.ascending else key.expression.desc() for key in keys]
    statement = (
        sa.select(*searchable.table.columns, *selected)
        .select_from(source)
        .where(*scope, *conditions)
        .order_by(*ordered)
    )
    return _Query(statement, keys)


def _whole_order(searchable: Searchable, order_by: Sequence[OrderBy]) -> list[OrderBy]:
    whole = list(order_by or searchable.default_order)
    named = {(order.kind, order.key) for order in whole}
    whole.extend(o for o in searchable.tail_order if (o.kind, o.key) not in named)
    return whole


def _sort_keys(
    searchable: Searchable, source: sa.FromClause, order: OrderBy, number: int
) -> tuple[sa.FromClause, list[SortKey]]:
    """The keys of one order, and the source with the table joined to it that they need."""
    if order.kind == "attribute":
        expression = searchable.attributes[order.key]
        sorted_by = searchable.sort_by.get(order.key, expression)
        if isinstance(expression, sa.Column) and not expression.nullable:
            return source, [SortKey(sorted_by, order.ascending)]
        return source, _nulls_last(sorted_by, order.ascending)
    if order.kind == "metric":
        return _sort_by_metric(searchable, source, order, number)
    values = searchable.params if order.kind == "param" else searchable.tags
    if values is None or values.key is None or not isinstance(values.source, sa.Table):
        raise InvalidParameterValue(f"Can't sort by {order.kind} '{order.key}'")
    joined = values.source.alias(f"sorted_{number}")
    on = sa.and_(
        joined.c[_name(values.owner)] == searchable.id, joined.c[_name(values.key)] == order.key
    )
    value = joined.c[_name(values.value)]
    return source.outerjoin(joined, on), _nulls_last(value, order.ascending)


def _sort_by_metric(
    searchable: Searchable, source: sa.FromClause, order: OrderBy, number: int
) -> tuple[sa.FromClause, list[SortKey]]:
    metrics = _metrics_of(searchable)
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
    value: ColumnElement[Any] = joined.c[metrics.value.name]
    absent = joined.c[metrics.owner.name].is_(None)
    # The class sorts numbers, then NaN, then what has no such metric, in both directions.
    if metrics.is_nan is None:
        klass: ColumnElement[Any] = sa.case((absent, 2), (value.is_(None), 1), else_=0)
    else:
        is_nan = joined.c[metrics.is_nan.name]
        klass = sa.case((absent, 2), (is_nan == sa.true(), 1), else_=0)
        value = sa.case((is_nan == sa.true(), sa.null()), else_=value)
    return source.outerjoin(joined, on), [SortKey(klass), SortKey(value, order.ascending)]


def _newest_metric(metrics: MetricValues, order: OrderBy) -> sa.Select[Any]:
    place = sa.func.row_number().over(
        partition_by=metrics.owner, order_by=list(metrics.newest_first)
    )
    statement = sa.select(
        metrics.owner, metrics.value, *([] if metrics.is_nan is None else [metrics.is_nan])
    ).add_columns(place.label("place"))
    statement = statement.where(metrics.key == order.key)
    if order.dataset_name is not None:
        dataset = Dataset(order.dataset_name, order.dataset_digest)
        statement = statement.where(_on_datasets(metrics, [dataset]))
    return statement


def _nulls_last(expression: ColumnElement[Any], ascending: bool) -> list[SortKey]:
    missing = sa.case((expression.is_(None), 1), else_=0)
    return [SortKey(missing), SortKey(expression, ascending)]


def _condition(
    dialect: str, searchable: Searchable, clause: Clause, datasets: Sequence[Dataset]
) -> ColumnElement[bool]:
    if clause.kind == "metric":
        return _metric_condition(searchable, clause, datasets)
    if clause.kind == "attribute" and clause.key not in searchable.filtered_by_tag:
        return _compare(dialect, searchable.attributes[clause.key], clause)
    values, key = _values_of(searchable, clause)
    conditions = [values.owner == searchable.id, *values.where]
    if values.key is not None:
        conditions.append(values.key == key)
    if clause.comparator == "IS NULL":
        return ~_exists(values.source, conditions)
    if clause.comparator != "IS NOT NULL":
        conditions.append(_compare(dialect, values.value, clause))
    return _exists(values.source, conditions)


def _values_of(searchable: Searchable, clause: Clause) -> tuple[Values, str]:
    values: Values | None
    if clause.kind == "dataset":
        values, key = searchable.datasets.get(clause.key), clause.key
    elif clause.kind == "param":
        values, key = searchable.params, clause.key
    else:
        values = searchable.tags
        key = searchable.filtered_by_tag[clause.key] if clause.kind == "attribute" else clause.key
    if values is None:
        raise InvalidParameterValue(f"Can't filter by {clause.kind} '{clause.key}'")
    return values, key


def _metric_condition(
    searchable: Searchable, clause: Clause, datasets: Sequence[Dataset]
) -> ColumnElement[bool]:
    metrics = _metrics_of(searchable)
    if not isinstance(clause.value, int | float):
        raise InvalidParameterValue(f"Expected a number for metric '{clause.key}'")
    number = float(clause.value)
    value: ColumnElement[Any] = metrics.value
    if abs(number) >= DOUBLE_MAX:
        # Only here can it matter that Infinity counts as the greatest finite double.
        value = sa.case(
            (value > DOUBLE_MAX, DOUBLE_MAX), (value < -DOUBLE_MAX, -DOUBLE_MAX), else_=value
        )
    matches = _NUMERIC_OPERATORS[clause.comparator](value, number)
    if metrics.is_nan is not None:
        is_nan = metrics.is_nan == sa.true()
        # NaN differs from every number, and compares with none.
        matches = (
            sa.or_(matches, is_nan) if clause.comparator == "!=" else sa.and_(matches, ~is_nan)
        )
    conditions = [metrics.owner == searchable.id, metrics.key == clause.key, matches]
    if datasets:
        conditions.append(_on_datasets(metrics, datasets))
    return _exists(metrics.table, conditions)


def _has_metric_on(searchable: Searchable, datasets: Sequence[Dataset]) -> ColumnElement[bool]:
    metrics = _metrics_of(searchable)
    return _exists(metrics.table, [metrics.owner == searchable.id, _on_datasets(metrics, datasets)])


def _on_datasets(metrics: MetricValues, datasets: Sequence[Dataset]) -> ColumnElement[bool]:
    if metrics.dataset_name is None or metrics.dataset_digest is None:
        raise InvalidParameterValue("These metrics belong to no datasets")
    alternatives: list[ColumnElement[bool]] = []
    for dataset in datasets:
        same: ColumnElement[bool] = metrics.dataset_name == dataset.name
        if dataset.digest is not None:
            same = sa.and_(same, metrics.dataset_digest == dataset.digest)
        alternatives.append(same)
    return sa.or_(*alternatives)


def _metrics_of(searchable: Searchable) -> MetricValues:
    if searchable.metrics is None:
        raise InvalidParameterValue("Can't search by metrics here")
    return searchable.metrics


def _exists(
    source: sa.FromClause, conditions: Sequence[ColumnElement[bool]]
) -> ColumnElement[bool]:
    return sa.exists(sa.select(sa.literal_column("1")).select_from(source).where(*conditions))


_NUMERIC_OPERATORS: Mapping[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _compare(dialect: str, column: ColumnElement[Any], clause: Clause) -> ColumnElement[bool]:
    if clause.comparator in _NUMERIC_OPERATORS:
        return _NUMERIC_OPERATORS[clause.comparator](column, clause.value)
    if isinstance(clause.value, tuple):
        among = column.in_(clause.value)
        return among if clause.comparator == "IN" else ~among
    pattern = str(clause.value)
    if dialect != "sqlite":
        # A backslash is an ordinary character in a pattern, as it is in SQLite.
        pattern = pattern.replace("\\", "\\\\")
    if clause.comparator == "ILIKE":
        return column.ilike(pattern)
    return _like(dialect, column, pattern)


def _like(dialect: str, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """LIKE that tells capitals apart. SQLite's LIKE doesn't, unless a PRAGMA says so; GLOB does."""
    if dialect != "sqlite":
        return column.like(pattern)
    glob = "".join(_GLOB.get(character, character) for character in pattern)
    return column.op("GLOB", is_comparison=True, return_type=sa.Boolean())(glob)


_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}


def _name(column: ColumnElement[Any]) -> str:
    name = getattr(column, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"{column} must be a column of a table")
    return name
