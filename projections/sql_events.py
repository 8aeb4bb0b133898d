"""The journal as rows of the table `events`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from events.event import GAP, JOURNAL, Event
from events.log import Log
from projections.folding import read_checkpoint
from projections.sql_rows import fetch_by_ids
from projections.statements import fetch_rows

READ_EVENTS = 5_000
NAMES = (
    *("position", "type", "version", "subject", "experiment_id", "time", "actor", "origin"),
    *("verdict", "error_code", "error_message", "data"),
)
_SUBJECTS = (
    "SELECT run_id, experiment_id FROM runs WHERE run_id IN ({ids})",
    "SELECT experiment_id, experiment_id FROM experiments WHERE experiment_id IN ({ids})",
    "SELECT model_id, experiment_id FROM logged_models WHERE model_id IN ({ids})",
)
Rows = dict[str, list[tuple[Any, ...]]]


def read_events(connection: sa.Connection, log: Log, after: int, limit: int) -> tuple[Rows, int]:
    """The journal's events behind a position, as far as the views have folded it, without those of
    purged subjects: by experiment ('' where the subject never came to be), and the position of the
    last one looked at."""
    head = read_checkpoint(connection, JOURNAL).position
    events = [event for event in log.read(JOURNAL, after, limit) if event.position <= head]
    if not events:
        return {}, after
    subjects = sorted({event.subject for event in events})
    experiment_of: dict[str, str] = {}
    for statement in _SUBJECTS:
        experiment_of.update(dict(fetch_by_ids(connection, statement, subjects)))
    gone = fetch_by_ids(connection, "SELECT subject FROM purged WHERE subject IN ({ids})", subjects)
    refusals = fetch_rows(
        connection,
        "SELECT position, error_code, message FROM rejections WHERE position > ? AND position <= ?",
        (after, events[-1].position),
    )
    refused = {row[0]: (row[1], row[2]) for row in refusals}
    purged = {subject for (subject,) in gone}
    found: Rows = {}
    for event in events:
        if event.subject not in purged and event.type != GAP:
            experiment_id = experiment_of.get(event.subject, "")
            row = _row(event, experiment_id, refused.get(event.position))
            found.setdefault(experiment_id, []).append(row)
    return found, events[-1].position


def _row(event: Event, experiment_id: str, refusal: tuple[str, str] | None) -> tuple[Any, ...]:
    verdict = ("rejected", *refusal) if refusal else ("accepted", None, None)
    return (
        event.position,
        event.type,
        event.version,
        event.subject,
        experiment_id or None,
        event.time,
        event.actor,
        event.origin,
        *verdict,
        event.data.decode(),
    )


def event_columns(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Rows as columns."""
    by_column = list(zip(*rows, strict=True)) if rows else [()] * len(NAMES)
    return dict(zip(NAMES, by_column, strict=True))


def events_behind(
    connection: sa.Connection, log: Log, after: int, experiments: Collection[str] | None
) -> list[tuple[Any, ...]]:
    """The rows of all events behind a position, of these experiments (None: of all)."""
    found: list[tuple[Any, ...]] = []
    while True:
        by_experiment, reached = read_events(connection, log, after, READ_EVENTS)
        if reached == after:
            return found
        after = reached
        for experiment_id, rows in by_experiment.items():
            if experiments is None or experiment_id in experiments:
                found += rows
