"""What each clause of a filter is in SQL: a condition on one row of the searched table.

Statements are kept by the forms of their clauses, so a condition has a parameter where a clause
has a value.
"""

from __future__ import annotations

import operator
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement, UnaryExpression
from sqlalchemy.sql.operators import custom_op

from events.errors import InvalidParameterValue
from projections.filter_language import Clause, Kind
from projections.searchable import Dataset, MetricValues, Searchable, Values
from projections.statements import MYSQL, POSTGRESQL
from projections.stored_texts import indexed_start

DOUBLE_MAX = sys.float_info.max
"""What MLflow stores for Infinity, and therefore what a filter that says so must find."""

_NUMERIC_OPERATORS: Mapping[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TYPES: Mapping[type, sa.types.TypeEngine[Any]] = {
    # As a double, also where the column holds integers: 0.5 must not become 0 or 1.
    float: sa.Double(),
    int: sa.BigInteger(),
    str: sa.Text(),
}


@dataclass(frozen=True)
class ClauseForm:
    """A clause without its value: searches whose clauses have the same forms share statements.

    `parameters` name its values in a statement: none for IS NULL, several for IN, else one.
    `is_extreme` says that the number is so great that Infinity may count as it.
    """

    kind: Kind
    key: str
    comparator: str
    parameters: tuple[str, ...] = ()
    value_type: type = str
    is_extreme: bool = False

    def bound(self) -> list[sa.BindParameter[Any]]:
        """The parameters, to be put into a statement."""
        return [sa.bindparam(name, type_=_TYPES[self.value_type]) for name in self.parameters]


def form_of(dialect: str, clause: Clause, number: int) -> tuple[ClauseForm, dict[str, Any]]:
    """A clause's form, and its values by the names of its parameters, which hold its number."""
    value = clause.value
    if clause.kind == "metric":
        if not isinstance(value, int | float):
            raise InvalidParameterValue(f"Expected a number for metric '{clause.key}'")
        value = float(value)
    values: list[Any] = [] if value is None else [value]
    if isinstance(value, tuple):
        values = padded(value)
    elif clause.comparator in ("LIKE", "ILIKE"):
        values = [_pattern(dialect, clause.comparator, str(value))]
    named = {f"clause_{number}_{place}": each for place, each in enumerate(values)}
    is_extreme = clause.kind == "metric" and abs(values[0]) >= DOUBLE_MAX
    value_type = type(values[0]) if values else str
    names = tuple(named)
    form = ClauseForm(clause.kind, clause.key, clause.comparator, names, value_type, is_extreme)
    return form, named


def cheapest_first(clauses: Sequence[ClauseForm]) -> list[ClauseForm]:
    """The clauses in the order in which they are best looked at: equality leaves fewest rows."""
    return sorted(clauses, key=lambda clause: _COST.get(clause.comparator, 2))


_COST = {"=": 0, "IN": 1}


def padded(values: Sequence[str]) -> list[str]:
    """The values, the last repeated until there are 1, 2, 4, 8, ...: lists of few lengths need few
    statements, and a value that is listed twice is found once."""
    found = list(values)
    length = 1 << (len(found) - 1).bit_length() if found else 0
    return found + found[-1:] * (length - len(found))


def condition(
    dialect: str,
    searchable: Searchable,
    clause: ClauseForm,
    owner: ColumnElement[str],
    datasets: Sequence[Dataset] = (),
) -> ColumnElement[bool]:
    """The condition that a clause sets. `datasets` narrows the metrics that it may be about.

    `owner` is the entity's id, in whichever table of the statement is read first: what lies
    beside the main table is then looked at before the main table is.
    """
    if clause.kind == "metric":
        metrics = metrics_of(searchable)
        conditions = [
            metrics.owner == owner,
            metrics.key == clause.key,
            # The index by value would have SQLite read all that fulfil it, for each owner.
            metric_matches(
                unindexed(dialect, metrics.value),
                None if metrics.is_nan is None else unindexed(dialect, metrics.is_nan),
                clause,
            ),
        ]
        if datasets:
            conditions.append(on_datasets(metrics, datasets))
        return _exists(metrics.table, conditions)
    if clause.kind == "attribute" and clause.key not in searchable.filtered_by_tag:
        return compare(dialect, searchable.attributes[clause.key], clause)
    values, key = values_of(searchable, clause)
    conditions = [values.owner == owner, *values.where]
    if values.key is not None:
        conditions.append(values.key == key)
    if clause.comparator == "IS NULL":
        return ~_exists(values.source, conditions)
    if clause.comparator != "IS NOT NULL":
        conditions += _text_matches(dialect, values, clause)
        if clause.kind == "attribute":
            # The column has the tag's value and is at hand: few tags are then looked for.
            column = searchable.attributes[clause.key]
            return sa.and_(compare(dialect, column, clause), _exists(values.source, conditions))
    return _exists(values.source, conditions)


def _text_matches(
    dialect: str, values: Values, clause: ClauseForm
) -> Iterator[ColumnElement[bool]]:
    """The conditions that a text is what a clause asks for."""
    value = values.value if values.key is None else unindexed(dialect, values.value)
    yield compare(dialect, value, clause)
    if dialect == POSTGRESQL and values.by_value and clause.comparator == "=":
        # So that the index can lead to the rows, which has but the start of a text.
        yield indexed_start(values.value) == indexed_start(clause.bound()[0])


def unindexed(dialect: str, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column, such that SQLite can't find rows by it: another column must lead to them."""
    if dialect != "sqlite":
        return column
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


def values_of(searchable: Searchable, clause: ClauseForm) -> tuple[Values, str]:
    """The texts that a clause is about, and the key that they have there."""
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


def metrics_of(searchable: Searchable) -> MetricValues:
    """Where its metrics are; raises if it has none."""
    if searchable.metrics is None:
        raise InvalidParameterValue("Can't search by metrics here")
    return searchable.metrics


def metric_matches(
    value: ColumnElement[Any], is_nan: ColumnElement[Any] | None, clause: ClauseForm
) -> ColumnElement[bool]:
    """The condition that a metric's value is what a clause asks for."""
    (number,) = clause.bound()
    if clause.is_extreme:
        # Only here can it matter that Infinity counts as the greatest finite double.
        value = sa.case(
            (value > DOUBLE_MAX, DOUBLE_MAX), (value < -DOUBLE_MAX, -DOUBLE_MAX), else_=value
        )
    matches = _NUMERIC_OPERATORS[clause.comparator](value, number)
    if is_nan is None:
        return matches
    # NaN differs from every number, and compares with none.
    if clause.comparator == "!=":
        return sa.or_(matches, is_nan == sa.true())
    return sa.and_(is_nan == sa.false(), matches)


def has_metric_on(searchable: Searchable, datasets: Sequence[Dataset]) -> ColumnElement[bool]:
    """The condition that there is any metric on one of these datasets."""
    metrics = metrics_of(searchable)
    on = on_datasets(metrics, datasets)
    return _exists(metrics.table, [metrics.owner == searchable.id, on])


def on_datasets(metrics: MetricValues, datasets: Sequence[Dataset]) -> ColumnElement[bool]:
    """The condition that a metric belongs to one of these datasets."""
    if metrics.dataset_name is None or metrics.dataset_digest is None:
        raise InvalidParameterValue("These metrics belong to no datasets")
    alternatives: list[ColumnElement[bool]] = []
    for dataset in datasets:
        same: ColumnElement[bool] = metrics.dataset_name == dataset.name
        if dataset.digest is not None:
            same = sa.and_(same, metrics.dataset_digest == dataset.digest)
        alternatives.append(same)
    return sa.or_(*alternatives)


def compare(dialect: str, column: ColumnElement[Any], clause: ClauseForm) -> ColumnElement[bool]:
    """The condition that a column, which is no metric, is what a clause asks for."""
    parameters = clause.bound()
    if clause.comparator in _NUMERIC_OPERATORS:
        return _NUMERIC_OPERATORS[clause.comparator](column, parameters[0])
    if clause.comparator in ("IN", "NOT IN"):
        among = column.in_(parameters)
        return among if clause.comparator == "IN" else ~among
    if clause.comparator == "ILIKE":
        matches: ColumnElement[bool] = column.ilike(parameters[0])
        if dialect == MYSQL:
            # It knows the capitals of every alphabet; what it finds by them is looked at again.
            matches = sa.and_(matches, _ascii_lower(column).like(_ascii_lower(parameters[0])))
        return matches
    if dialect != "sqlite":
        return column.like(parameters[0])
    # SQLite's LIKE does not tell capitals apart, unless a PRAGMA says so; GLOB does.
    return column.op("GLOB", is_comparison=True, return_type=sa.Boolean())(parameters[0])


def _ascii_lower(text: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text with small letters for the capitals of ASCII, as SQLite and PostgreSQL compare."""
    for letter in string.ascii_uppercase:
        capital: ColumnElement[str] = sa.literal_column(f"'{letter}'")
        small: ColumnElement[str] = sa.literal_column(f"'{letter.lower()}'")
        text = sa.func.replace(text, capital, small, type_=sa.Text())
    return text


def _pattern(dialect: str, comparator: str, pattern: str) -> str:
    if dialect != "sqlite":
        # A backslash is an ordinary character in a pattern, as it is in SQLite.
        return pattern.replace("\\", "\\\\")
    if comparator == "ILIKE":
        return pattern
    return "".join(_GLOB.get(character, character) for character in pattern)


_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}


def _exists(
    source: sa.FromClause, conditions: Sequence[ColumnElement[bool]]
) -> ColumnElement[bool]:
    return sa.exists(sa.select(sa.literal_column("1")).select_from(source).where(*conditions))
