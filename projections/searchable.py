"""The declaration of what can be searched: which column answers for which name of the language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from projections.filter_language import OrderBy


@dataclass(frozen=True)
class Values:
    """A table (or a join) beside the main one that holds texts of an entity.

    `owner` is the entity's id in it. `key` is the column with the key that the user chose, None
    where each row is a value by itself, as for datasets. `where` narrows it to the rows that count.
    `by_value` says that each owner has one row for a key at most, and that an index on the key,
    the value and the owner finds those with a value.
    """

    source: sa.FromClause
    owner: ColumnElement[Any]
    value: ColumnElement[Any]
    key: ColumnElement[Any] | None = None
    where: tuple[ColumnElement[bool], ...] = ()
    by_value: bool = False


@dataclass(frozen=True)
class MetricValues:
    """The table that holds the metrics of an entity.

    With one row for each owner and key nothing more needs to be said. Where it has more, a filter
    asks whether any of them matches, and `newest_first` says which one counts when sorting. Where
    rows belong to datasets, their name and digest can narrow both. NaN is a row with `is_nan` and
    the same `value` as any other NaN. `by_value` says that there is one row for an owner and key,
    and an index on the key, `is_nan`, the value and the owner.
    """

    table: sa.Table
    owner: sa.Column[Any]
    key: sa.Column[Any]
    value: sa.Column[Any]
    is_nan: sa.Column[Any] | None = None
    newest_first: tuple[ColumnElement[Any], ...] = ()
    dataset_name: sa.Column[Any] | None = None
    dataset_digest: sa.Column[Any] | None = None
    by_value: bool = False


@dataclass(frozen=True, eq=False)
class Searchable:
    """How an entity can be searched: which column answers for which name of the filter language.

    `sort_by` gives another expression to sort an attribute by, such as a cast of a numeric id that
    is stored as text. `filtered_by_tag` names attributes that MLflow filters by a tag's value: the
    column has the same value for as long as the entity has the tag. `default_order` holds when none
    was asked for; `tail_order` is appended to every order, but for what it already names, and must
    end with the id. `ids_only` spares a page the columns of the table, for an entity whose rows are
    read in another way.
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
    ids_only: bool = False


@dataclass(frozen=True)
class Among:
    """The condition that a column of the main table is one of these values."""

    column: sa.Column[str]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A dataset that a metric of a logged model must belong to; without a digest, any digest."""

    name: str
    digest: str | None = None
