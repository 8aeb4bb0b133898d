"""The log in memory: for tests, and the plainest reading of the contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from events.event import Event, Lane, NewEvent
from events.log import PURGED_TYPES, LogIdentity


class MemoryLog:
    """A Log that lives as long as its process."""

    def __init__(self) -> None:
        self.identity = LogIdentity("memory", b"0" * 32)
        self._lanes: dict[Lane, list[Event]] = {"journal": [], "points": []}
        self._lock = threading.Lock()

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append."""
        positions = []
        with self._lock:
            for new in events:
                lane = self._lanes[new.lane]
                lane.append(
                    Event(
                        new.lane,
                        len(lane) + 1,
                        new.type,
                        new.version,
                        new.subject,
                        new.time,
                        new.data,
                        new.actor,
                        new.origin,
                    )
                )
                positions.append(len(lane))
        return positions

    def read(self, lane: Lane, after: int, limit: int) -> list[Event]:
        """See Log.read."""
        with self._lock:
            return self._lanes[lane][after : after + limit]

    def head(self, lane: Lane) -> int:
        """See Log.head."""
        with self._lock:
            return len(self._lanes[lane])

    def about(self, lane: Lane, subject: str) -> Iterator[Event]:
        """See Log.about."""
        with self._lock:
            events = [event for event in self._lanes[lane] if event.subject == subject]
        return iter(events)

    def unscrubbed(self, subjects: Collection[str]) -> set[str]:
        """See Log.unscrubbed."""
        with self._lock:
            return {
                event.subject
                for lane in self._lanes.values()
                for event in lane
                if event.subject in subjects
                and not event.scrubbed
                and event.type not in PURGED_TYPES
            }

    def scrub(self, subjects: Collection[str], keep: Callable[[Event], bytes]) -> int:
        """See Log.scrub."""
        with self._lock:
            purged = {e.subject for e in self._lanes["journal"] if e.type in PURGED_TYPES}
            if not purged.issuperset(subjects):
                raise PermissionError("the log is append-only: only a purged subject is scrubbed")
            count = 0
            for lane in self._lanes.values():
                for place, event in enumerate(lane):
                    due = event.subject in subjects and event.type not in PURGED_TYPES
                    if due and not event.scrubbed:
                        kept = keep(event) if event.lane == "journal" else b""
                        lane[place] = replace(event, data=kept, scrubbed=True)
                        count += 1
        return count

    def close(self) -> None:
        """See Log.close."""
