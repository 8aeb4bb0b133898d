"""The views' tables that belong to no entity: checkpoints, verdicts, what was purged."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

FOR_SEARCH = {"for": "search"}
"""Marks an index that only searches use, no fold: views that are being made get it at the end."""

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("lane", sa.Text, primary_key=True),
    sa.Column("partition_number", sa.Integer, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("lifecycle", sa.BigInteger, nullable=False),
    sa.Column("rejected", sa.BigInteger, nullable=False),
    sa.Column("stopped", sa.Text),
)
"""One row a partition of the log. `position`: the last event folded. `lifecycle`: the last accepted
event that decides who may be written to. `rejected`: the last rejected event. `stopped`: why
folding stopped at the event behind `position`, null while all is well."""

rejections = sa.Table(
    "rejections",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("error_code", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
)
"""The journal's events whose verdict was a refusal. Every other folded event was accepted."""

purged = sa.Table("purged", metadata, sa.Column("subject", sa.Text, primary_key=True))
"""The subjects that gc purged: whatever the log still says of them is not folded."""

view_meta = sa.Table(
    "view_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""The log that these views were folded from, and the fingerprint of their tables and folds."""
