"""The log's interface: what every backend promises, and what the tests run over all of them.

A lane has one partition or more, the journal exactly one. Positions are whole numbers from 1, one
sequence a partition. They grow and may have gaps, and never become visible out of order: a reader
that has seen position n will never find a new event at or before n.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from events.event import Event, Lane, NewEvent, Partition

PURGED_TYPES = ("run.purged", "experiment.purged", "logged_model.purged")
"""The events after which the earlier data of their subject may be scrubbed."""


class LogError(Exception):
    """The log can't be used as it is; the message says why and what to do."""


class PartlyAppended(LogError):
    """Some events of an append are in the log, and some, for certain, are not."""

    def __init__(self, outcomes: Sequence[int | Exception]) -> None:
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        super().__init__(f"{len(failed)} of {len(outcomes)} events were not appended: {failed[:1]}")
        self.outcomes = outcomes
        """The position of each event, or why it was not appended."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What tells one log from another."""

    log_id: str
    """The log's id; views of another are not used."""
    secret: bytes
    """32 random bytes that sign what clients hand back to us, such as page tokens."""


class PointsShare(Protocol):
    """The partitions of points that are this process's to fold; see Log.share_points."""

    def mine(self) -> Collection[Partition]:
        """Which they are now. Who does not ask any more loses them to others.

        Raises TemporarilyUnavailable.
        """

    def close(self) -> None:
        """Gives them back at once."""


class Log(Protocol):
    """An append-only store of events in two lanes."""

    @property
    def generation(self) -> str | None:
        """What would be another if the log's store was lost and made again; None where its id says
        that already."""

    @property
    def has_gaps(self) -> bool:
        """Whether there may be positions that hold no event."""

    @property
    def can_scrub(self) -> bool:
        """Whether data can be taken out of it by `scrub`."""

    @property
    def identity(self) -> LogIdentity:
        """The log's own id and secret; the same for every process that opens it."""

    @property
    def is_near(self) -> bool:
        """Whether a head costs no more than a look into memory or a file: then it may be asked for
        on an event loop."""

    def partitions(self) -> Sequence[Partition]:
        """The partitions of both lanes, the journal first. Their number can grow."""

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """Adds events, all or none; returns their positions, in order.

        On return they are durable: they survive the loss of power. A log without transactions
        raises PartlyAppended where it has taken some.
        """

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """Up to `limit` events of a partition behind a position, in order of position; none only
        where that is its head. Where positions behind the last event hold nothing, an event of type
        GAP says how far they go."""

    def share_points(self) -> PointsShare | None:
        """Makes this process one of those among whom the partitions of points are shared out; None
        where the log does not do that."""

    def head(self, partition: Partition) -> int:
        """The last position of the partition; 0 where it has none."""

    def heads(self) -> dict[Partition, int]:
        """The head of each partition."""

    def has_grown(self, heads: Mapping[Partition, int], wait_s: float) -> bool:
        """Whether one of these partitions has another head than this.

        A log that is told of it waits for it, so long at most; any other looks once.
        """

    def about(self, lane: Lane, subject: str) -> Iterator[Event]:
        """The events of a lane with this subject, in order within each partition."""

    def unscrubbed(self, subjects: Collection[str]) -> set[str]:
        """Those of these subjects that have events with data that a scrub would empty."""

    def scrub(self, subjects: Collection[str], keep: Callable[[Event], bytes]) -> int:
        """Empties the data of the events of purged subjects; returns how many.

        `keep` says what little of a journal event's data must stay for a rebuild to give the same
        views; of points nothing stays. Only events whose subject has an event of PURGED_TYPES can
        be changed; positions, types and the rest stay. On return nobody reads the old bytes,
        and where the log has files of its own they are in none of them.
        """

    def close(self) -> None:
        """Frees what the log holds open."""


class CopyTarget(Log, Protocol):
    """A log into which the events of another can be copied."""

    def partition_of(self, lane: Lane, subject: str) -> Partition:
        """Where an event about this subject is appended."""

    def adopt(self, events: Sequence[Event]) -> list[int]:
        """Appends events of another log as they are, scrubbed ones too; returns their positions.

        Durable on return. What a crash leaves of them is in each partition the first so many.
        """

    @property
    def copy_note(self) -> bytes | None:
        """What `note_copy` was last told; None where nothing was ever copied into this log."""

    def note_copy(self, note: bytes, identity: LogIdentity | None = None) -> None:
        """Keeps a note of how a copy into this log goes, and gives the log an identity if one is
        named, both durable on return."""
