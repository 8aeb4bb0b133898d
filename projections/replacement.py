"""Puts one view's rows of a database of views in the place of those of another."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from events.event import LANES, Lane, Partition
from events.log import Log
from projections.catalog import VIEWS
from projections.database import Views
from projections.folding import fold_batch, read_checkpoint
from projections.lake_changes import forget_exports
from projections.schema import view_meta
from projections.segments import GENERATION, LAYOUT_TABLES

BATCH_EVENTS = 256

_STORAGE = ("segments", "lake changes", "lake changes by purges")
NAMES = tuple(view.name for view in VIEWS if view.name not in _STORAGE)
"""The views that can be replaced alone. How points are stored goes with the metrics."""


def lanes_of(view: str) -> tuple[Lane, ...]:
    """The lanes that the view's rows come from."""
    found = {event_type.lane for one in VIEWS if one.name == view for event_type in one.folds}
    return tuple(lane for lane in LANES if lane in found)


class NotReplaced(Exception):
    """Nothing was replaced; the message says why."""


def _tables_of(view: str) -> list[sa.Table]:
    tables = [table for one in VIEWS if one.name == view for table in one.tables]
    if view == "metrics":
        tables += [table for table in LAYOUT_TABLES if table not in tables]
    return tables


def replace_view(log: Log, made: Views, live: Views, view: str) -> None:
    """Replaces a view's rows in one transaction, which holds off the live projector while the last
    events are folded into the new rows too."""
    lanes = lanes_of(view)
    with live.replacing(made) as (connection, to, source):
        reached = {
            partition: read_checkpoint(connection, partition).position
            for partition in log.partitions()
            if partition.lane in lanes
        }
        _fold_rest(log, made, reached)
        for table in _tables_of(view):
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            connection.exec_driver_sql(f"DELETE FROM {to}{table.name}")
            connection.exec_driver_sql(
                f"INSERT INTO {to}{table.name} ({names}) SELECT {names} FROM {source}{table.name}"
            )
        if view == "metrics":
            _take_generation(connection, to, source)
        forget_exports(connection, to)


def _fold_rest(log: Log, made: Views, targets: Mapping[Partition, int]) -> None:
    for partition, target in targets.items():
        with made.write() as connection:
            while (position := read_checkpoint(connection, partition).position) < target:
                read = log.read(partition, position, min(target - position, BATCH_EVENTS))
                events = [event for event in read if event.position <= target]
                if not events:
                    break
                stopped = fold_batch(connection, partition, events).stopped
                if stopped is not None:
                    raise NotReplaced(f"folding has stopped at {stopped}")


def _take_generation(connection: sa.Connection, to: str, source: str) -> None:
    """The files of the lake that are now the live views' are named after their maker; those of
    before are nobody's, and the sealer deletes them."""
    named = f"WHERE name = '{GENERATION}'"
    connection.exec_driver_sql(f"DELETE FROM {to}{view_meta.name} {named}")
    connection.exec_driver_sql(
        f"INSERT INTO {to}{view_meta.name} (name, value) "
        f"SELECT name, value FROM {source}{view_meta.name} {named}"
    )
