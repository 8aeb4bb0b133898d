"""How texts are stored on a server: in keys and indexes, which hold no long ones, and without the
character 0."""

from __future__ import annotations

import sqlalchemy as sa

INDEXED_CHARACTERS = 100
"""Of a long text so much is in an index: neither server's index holds 6,000 characters."""

UNBOUNDED = {
    "model_inputs": "model_id",
    "model_outputs": "model_id",
    "logged_model_metrics": "model_id",
}
"""Tables whose key holds a text of any length: what a client named a model, known or not."""
HASHED = {
    **{table: (column,) for table, column in UNBOUNDED.items()},
    "logged_model_metrics": ("model_id", "key", "dataset_name", "dataset_digest"),
}
"""The columns that a key has as a digest, because together they are too long for an index."""


def indexed_start(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """What PostgreSQL's index holds of a long text."""
    return sa.func.left(column, sa.literal_column(str(INDEXED_CHARACTERS)), type_=sa.Text())


def key_of(table: sa.Table, dialect: str) -> str:
    """What tells two rows of a table apart, as an upsert names it."""
    hashed = HASHED.get(table.name, ()) if dialect == "postgresql" else ()
    columns = [column.name for column in table.primary_key.columns]
    return ", ".join(f'md5("{name}")' if name in hashed else f'"{name}"' for name in columns)


# PostgreSQL's texts can't hold the character 0. It is stored as 1 and 1, and 1 as 1 and 2: texts
# so written are in the same order as the texts themselves.


def escaped(text: str) -> str:
    """A text as it is stored."""
    if "\x00" in text or "\x01" in text:
        return text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    return text


def unescaped(text: str) -> str:
    """A text from how it is stored."""
    if "\x01" in text:
        return text.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01")
    return text
