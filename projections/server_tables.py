"""The views' tables as a PostgreSQL or MySQL server has them.

Queries and folds know one set of tables (`projections.schema.metadata`). What is made of it here
differs in nothing that they can see: texts compare by their bytes, whole numbers have 64 bits, and
no index refuses a text for its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from projections.schema import FOR_SEARCH, metadata
from projections.stored_texts import HASHED, INDEXED_CHARACTERS, UNBOUNDED, indexed_start, key_of

LAYOUT = 3
"""Counted up when this file makes something else of the same tables: views are then made again."""

_LONG = {"value"}
"""Texts that are indexed but for their end."""
_IN_ROWS_ALONE = {"runs.name"}
"""Texts of any length that SQLite has in an index too, so that no row is read for them: one of a
server's would have to hold them whole."""
_LENGTHS = {
    "experiments.name": 500,
    "datasets.name": 500,
    "export_files.name": 32,
    "lifecycle_stage": 32,
    "experiment_id": 128,
    "segment_id": 128,
    "part": 64,
    "dataset_id": 64,
    "digest": 64,
    "content_id": 64,
    "name_sha256": 64,
    "lane": 32,
    "path": 700,
}
_LENGTH = 256
"""The characters of all other texts in an index of MySQL's, which takes 3,072 bytes in all."""


def statements(dialect: sa.Dialect, *, for_search: bool | None) -> Iterator[str]:
    """What makes the tables, with the indexes for searches (True), without (False), or (None) what
    makes those indexes alone."""
    for table in _tables(dialect):
        if for_search is not None:
            yield str(sa.schema.CreateTable(table).compile(dialect=dialect))
            if dialect.name == "postgresql" and table.name in HASHED:
                yield from _hashed_key(table.name)
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            wanted = index.info == FOR_SEARCH if for_search is None else for_search
            if wanted or (for_search is False and index.info != FOR_SEARCH):
                yield str(sa.schema.CreateIndex(index).compile(dialect=dialect))


def _hashed_key(name: str) -> Iterator[str]:
    yield (
        f'CREATE UNIQUE INDEX "{name}_key" ON "{name}"'
        f" ({key_of(metadata.tables[name], 'postgresql')})"
    )
    # An index of digests takes a text of any length.
    yield f'CREATE INDEX "{name}_by_model" ON "{name}" USING hash (model_id)'


@lru_cache(maxsize=4)
def _tables(dialect: sa.Dialect) -> list[sa.Table]:
    made = sa.MetaData()
    return [_table(table, made, dialect) for table in metadata.sorted_tables]


def _table(table: sa.Table, made: sa.MetaData, dialect: sa.Dialect) -> sa.Table:
    is_mysql = dialect.name == "mysql"
    indexed = {
        column.name
        for index in table.indexes
        for column in index.columns
        if str(column) not in _IN_ROWS_ALONE
    }
    indexed.update(column.name for column in table.primary_key.columns)
    hashed = table.name in HASHED
    columns: list[Any] = []
    for column in table.columns:
        columns.append(
            sa.Column(
                column.name,
                _mysql_type(column, column.name in indexed, dialect)
                if is_mysql
                else _postgresql_type(column),
                primary_key=column.primary_key and not hashed,
                nullable=column.nullable and not column.primary_key,
                autoincrement=column.name == "block_id",
            )
        )
    if hashed and is_mysql:
        columns.append(_digest(table))
    same = sa.Table(
        table.name,
        made,
        *columns,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate=collation(dialect) if is_mysql else None,
        mysql_row_format="DYNAMIC",
    )
    for index in table.indexes:
        _copy_index(index, same, is_mysql)
    if hashed and is_mysql:
        sa.Index(f"{table.name}_by_model", same.c.model_id, mysql_length={"model_id": 64})
    return same


def _digest(table: sa.Table) -> sa.Column[bytes]:
    """A key made of a digest of all columns that are the key elsewhere."""
    parts = ", char(0), ".join(f'"{column.name}"' for column in table.primary_key.columns)
    return sa.Column(
        "identity",
        mysql.BINARY(32),
        sa.Computed(f"unhex(sha2(concat({parts}), 256))", persisted=True),
        unique=True,
    )


def _copy_index(index: sa.Index, same: sa.Table, is_mysql: bool) -> None:
    expressions: list[Any] = []
    for expression in index.expressions:
        if not isinstance(expression, sa.Column):
            expressions.append(sa.text(str(expression)))
        elif str(expression) in _IN_ROWS_ALONE:
            continue
        elif expression.name in _LONG and isinstance(expression.type, sa.Text) and not is_mysql:
            expressions.append(indexed_start(same.c[expression.name]))
        else:
            expressions.append(same.c[expression.name])
    long = [c.name for c in index.columns if c.name in _LONG and isinstance(c.type, sa.Text)]
    lengths: dict[str, Any] = {}
    if long:
        lengths["mysql_length"] = dict.fromkeys(long, INDEXED_CHARACTERS)
    sa.Index(index.name, *expressions, info=index.info, _table=same, **lengths)


def _postgresql_type(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    if isinstance(column.type, sa.Text):
        return sa.Text(collation="C")
    if isinstance(column.type, sa.Integer) and not isinstance(column.type, sa.BigInteger):
        return sa.BigInteger()
    return column.type


def _mysql_type(
    column: sa.Column[Any], is_indexed: bool, dialect: sa.Dialect
) -> sa.types.TypeEngine[Any]:
    if isinstance(column.type, sa.LargeBinary):
        return mysql.LONGBLOB()
    if isinstance(column.type, sa.Integer) and not isinstance(column.type, sa.BigInteger):
        return sa.BigInteger()
    if not isinstance(column.type, sa.Text):
        return column.type
    table = column.table.name
    if column.name in _LONG or column.name == UNBOUNDED.get(table) or not is_indexed:
        return mysql.LONGTEXT(collation=collation(dialect))
    length = _LENGTHS.get(f"{table}.{column.name}", _LENGTHS.get(column.name, _LENGTH))
    if table == "logged_model_metrics":
        length = 500
    return mysql.VARCHAR(length, collation=collation(dialect))


def collation(dialect: sa.Dialect) -> str:
    """The collation by which texts compare as their bytes, spaces at the end too. MySQL and MariaDB
    name it differently; both have one more, `utf8mb4_bin`, which takes `a` and `a ` for the same.
    """
    return "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
