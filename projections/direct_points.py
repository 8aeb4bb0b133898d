"""Points that somebody wrote into the log past the API: they are checked where they are folded.

What can't be taken is set aside: counted by its reason, with where it was last, and skipped. So who
writes nonsense holds up nobody else. Nothing here asks what other partitions hold: points may be
folded before the run that they belong to.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from events.codec import Block, Series, body_bytes, decode_block
from events.event import Event
from events.keys import RUN_ID, is_key
from events.metrics import POINTS_LOGGED
from projections.schema import metadata
from projections.state import State

RECORD_POINTS_MAX = 100_000
RECORD_BYTES_MAX = 16 << 20
"""Of a record's points, unpacked."""
NAME_LENGTH_MAX = 500
"""Of the id of a model, and of the name and digest of a dataset."""

NO_POINTS = "the headers `type` and `version` are not `points.logged` and `1`"
NO_RUN = "the key is no run id"
NO_BLOCK = "the value is no block of points"
TOO_MUCH = f"more than {RECORD_POINTS_MAX:,} points or {RECORD_BYTES_MAX:,} bytes of them"
NO_KEY = "a metric's name is not one that the API would take"
NO_DATASET = "a model's id, or a dataset's name or digest, is empty, too long, or without the other"
NEGATIVE_TIME = "a timestamp is negative"

set_aside = sa.Table(
    "set_aside",
    metadata,
    sa.Column("reason", sa.Text, primary_key=True),
    sa.Column("partition_number", sa.Integer, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
)
"""Events of the points lane that were not folded: how many for a reason, and the last of them."""


class NotTaken(Exception):
    """The event can't be folded; the message is one of the reasons above."""


def checked(event: Event) -> Block:
    """The points of such an event. Raises NotTaken."""
    if (event.type, event.version) != (POINTS_LOGGED.name, POINTS_LOGGED.version):
        raise NotTaken(NO_POINTS)
    if not RUN_ID.fullmatch(event.subject):
        raise NotTaken(NO_RUN)
    try:
        if body_bytes(event.data) > RECORD_BYTES_MAX:
            raise NotTaken(TOO_MUCH)
        block = decode_block(event.data)
    except ValueError:
        raise NotTaken(NO_BLOCK) from None
    if len(block) > RECORD_POINTS_MAX:
        raise NotTaken(TOO_MUCH)
    if not len(block):
        raise NotTaken(NO_BLOCK)
    for series in block.series:
        _check_series(series)
    if int(block.timestamps.min()) < 0:
        raise NotTaken(NEGATIVE_TIME)
    return block


def _check_series(series: Series) -> None:
    if not is_key(series.key):
        raise NotTaken(NO_KEY)
    about = (series.model_id, series.dataset_name, series.dataset_digest)
    if any(name is not None and not 0 < len(name) <= NAME_LENGTH_MAX for name in about):
        raise NotTaken(NO_DATASET)
    if (series.dataset_name is None) != (series.dataset_digest is None):
        raise NotTaken(NO_DATASET)


def put_aside(state: State, event: Event, reason: str) -> None:
    """Counts an event that was not taken."""
    rows = state.rows(set_aside)
    before = rows.get(reason, event.partition)
    rows.put(
        {
            "reason": reason,
            "partition_number": event.partition,
            "count": (before["count"] if before else 0) + 1,
            "position": event.position,
            "subject": event.subject[:256],
            "time": event.time,
        }
    )


def set_aside_in_all(connection: sa.Connection) -> dict[str, Any]:
    """How many events were set aside, and the last of them."""
    found = connection.execute(sa.select(set_aside)).all()
    last = max(found, key=lambda row: (row.time, row.position), default=None)
    return {
        "count": sum(row.count for row in found),
        "last": None
        if last is None
        else {
            "reason": last.reason,
            "partition": last.partition_number,
            "position": last.position,
            "subject": last.subject,
            "time": last.time,
        },
    }
