"""The log in memory: for tests, and the plainest reading of the contract."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from events.event import JOURNAL, Event, Lane, NewEvent, Partition
from events.log import PURGED_TYPES, LogIdentity


class MemoryLog:
    """A Log that lives as long as its process."""

    is_near = True
    generation: str | None = None
    has_gaps = False
    can_scrub = True

    def __init__(self, points_partitions: int = 1) -> None:
        self.identity = LogIdentity("memory", b"0" * 32)
        self.copy_note: bytes | None = None
        points = (Partition("points", number) for number in range(points_partitions))
        self._events: dict[Partition, list[Event]] = {p: [] for p in (JOURNAL, *points)}
        self._lock = threading.Lock()

    def partitions(self) -> Sequence[Partition]:
        """See Log.partitions."""
        return tuple(self._events)

    def partition_of(self, lane: Lane, subject: str) -> Partition:
        """See CopyTarget.partition_of."""
        if lane == "journal":
            return JOURNAL
        return Partition("points", zlib.crc32(subject.encode()) % (len(self._events) - 1))

    def adopt(self, events: Sequence[Event]) -> list[int]:
        """See CopyTarget.adopt."""
        positions = []
        with self._lock:
            for event in events:
                partition = self.partition_of(event.lane, event.subject)
                there = self._events[partition]
                positions.append(len(there) + 1)
                there.append(
                    msgspec.structs.replace(
                        event, position=positions[-1], partition=partition.number
                    )
                )
        return positions

    def note_copy(self, note: bytes, identity: LogIdentity | None = None) -> None:
        """See CopyTarget.note_copy."""
        self.copy_note = note
        self.identity = identity or self.identity

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append."""
        positions = []
        with self._lock:
            for new in events:
                partition = self.partition_of(new.lane, new.subject)
                events_there = self._events[partition]
                events_there.append(
                    Event(
                        new.lane,
                        len(events_there) + 1,
                        new.type,
                        new.version,
                        new.subject,
                        new.time,
                        new.data,
                        new.actor,
                        new.origin,
                        partition=partition.number,
                    )
                )
                positions.append(len(events_there))
        return positions

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """See Log.read."""
        with self._lock:
            return self._events[partition][after : after + limit]

    def head(self, partition: Partition) -> int:
        """See Log.head."""
        with self._lock:
            return len(self._events[partition])

    def heads(self) -> dict[Partition, int]:
        """See Log.heads."""
        with self._lock:
            return {partition: len(events) for partition, events in self._events.items()}

    def share_points(self) -> None:
        """See Log.share_points: there is one partition, and so one process at a time."""

    def has_grown(self, heads: Mapping[Partition, int], wait_s: float) -> bool:  # noqa: ARG002
        """See Log.has_grown."""
        now = self.heads()
        return any(now[partition] != head for partition, head in heads.items())

    def about(self, lane: Lane, subject: str) -> Iterator[Event]:
        """See Log.about."""
        with self._lock:
            events = [
                event
                for partition, there in self._events.items()
                for event in there
                if partition.lane == lane and event.subject == subject
            ]
        return iter(events)

    def unscrubbed(self, subjects: Collection[str]) -> set[str]:
        """See Log.unscrubbed."""
        with self._lock:
            return {
                event.subject
                for there in self._events.values()
                for event in there
                if event.subject in subjects
                and not event.scrubbed
                and event.type not in PURGED_TYPES
            }

    def scrub(self, subjects: Collection[str], keep: Callable[[Event], bytes]) -> int:
        """See Log.scrub."""
        with self._lock:
            purged = {e.subject for e in self._events[JOURNAL] if e.type in PURGED_TYPES}
            if not purged.issuperset(subjects):
                raise PermissionError("the log is append-only: only a purged subject is scrubbed")
            count = 0
            for there in self._events.values():
                for place, event in enumerate(there):
                    due = event.subject in subjects and event.type not in PURGED_TYPES
                    if due and not event.scrubbed:
                        kept = keep(event) if event.lane == "journal" else b""
                        there[place] = msgspec.structs.replace(event, data=kept, scrubbed=True)
                        count += 1
        return count

    def close(self) -> None:
        """See Log.close."""
