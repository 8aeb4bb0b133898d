"""What the tests of logs on database servers share."""

from __future__ import annotations

from events.event import JOURNAL, NewEvent
from events.sql_log import SqlLog


def event(subject: str, lane: str = "journal") -> NewEvent:
    """An event about a subject."""
    if lane == "points":
        return NewEvent("points", "points.logged", 1, subject, 1, b"\x00")
    return NewEvent("journal", "run.updated", 1, subject, 1, b"{}")


def subjects(log: SqlLog, after: int = 0) -> list[str]:
    """The journal's events behind a position."""
    return [one.subject for one in log.read(JOURNAL, after, 10_000)]
