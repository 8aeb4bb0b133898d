"""The log in topics of Kafka: one partition for the journal, many for the points.

A position is an offset and one: they grow, and those of transaction marks hold no event. What the
log knows of itself, its id and secret, is in a third topic (events/kafka_about.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.partitioner.default import murmur2

from events.errors import InvalidParameterValue, TemporarilyUnavailable
from events.event import JOURNAL, Event, Lane, NewEvent, Partition
from events.kafka_about import About, Known, new_producer
from events.kafka_group import PointsGroup
from events.kafka_reader import Ends, RecordReader, Watcher, patiently, unreachable
from events.kafka_records import Headers, event_of, gap, headers_of, mark_of, marks
from events.kafka_settings import KafkaAccess
from events.kafka_topics import (
    check_topics,
    client_options,
    location,
    make_topics,
)
from events.log import LogError, LogIdentity, PartlyAppended, PointsShare

logger = structlog.get_logger(__name__)

_REFUSED = (
    AuthorizationError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
"""After these it is certain that the record is not in the log."""
_SETTLE_S = 1.0
"""After so long a request of a connection that is closed has been processed or never will be."""
_PAGE = 1_000


class _Record(NamedTuple):
    """A record on its way."""

    place: TopicPartition
    mark: bytes
    key: bytes
    value: bytes
    headers: Headers
    time_ms: int


class _Sent(NamedTuple):
    """Where a record was sent, and its future or the error that kept it from being sent."""

    place: TopicPartition
    mark: bytes
    future: Any


def init_log(uri: str, access: KafkaAccess, partitions: int, replication: int = -1) -> list[str]:
    """Makes what a log at this URI needs and lacks; returns the names of what was made.

    `partitions` is the number of the points topic's. Can be repeated. Raises LogError.
    """
    servers, topics = location(uri)
    client = client_options(servers, access)
    made = make_topics(client, topics, partitions, replication)
    check_topics(client, topics)
    About(client, topics).begin()
    return made


class KafkaLog:
    """A Log in Kafka; any number of processes may open it."""

    is_near = False
    has_gaps = True
    can_scrub = False

    def __init__(self, uri: str, access: KafkaAccess) -> None:
        servers, self._topics = location(uri)
        self._client = client_options(servers, access)
        found = check_topics(self._client, self._topics)
        self._topic_ids = found.generation
        self._partitions = _all_partitions(found.points_partitions)
        self._ends = Ends(self._client)
        self._reader = RecordReader(self._client)
        self._watcher = Watcher(self._client)
        self._producer: KafkaProducer | None = None
        self._about = About(self._client, self._topics)
        try:
            self._check_beginnings()
            self._know(self._about.read())
        except BaseException:
            self.close()
            raise
        self._append_lock = threading.Lock()
        self._marks = marks()
        self._known: dict[TopicPartition, int] = {}
        """Offsets before which there is none of the records whose fate is not known."""

    def _check_beginnings(self) -> None:
        places = [self._place(partition) for partition in self._partitions]
        for place, first in patiently(lambda: self._ends.beginnings(places)).items():
            if first > 0:
                raise LogError(
                    f"the topic {place.topic} has lost its first {first} records in partition "
                    f"{place.partition}: it is no whole log any more"
                )

    def _know(self, known: Known) -> None:
        # The topics' names stay where topics are made again: views that remember others say so.
        log_id = known.copied_id or f"kafka {self._topics.prefix}"
        self.identity = LogIdentity(log_id, known.secret)
        self.generation = f"{known.log_id} in topics {self._topic_ids}"
        self.copy_note = known.copy_note

    def _place(self, partition: Partition) -> TopicPartition:
        if partition.lane == "journal":
            return TopicPartition(self._topics.journal, 0)
        return TopicPartition(self._topics.points, partition.number)

    def partitions(self) -> Sequence[Partition]:
        """See Log.partitions."""
        return self._partitions

    def partition_of(self, lane: Lane, subject: str) -> Partition:
        """See CopyTarget.partition_of."""
        if lane == "journal":
            return JOURNAL
        return Partition("points", _hash(subject) % (len(self._partitions) - 1))

    def adopt(self, events: Sequence[Event]) -> list[int]:
        """See CopyTarget.adopt."""
        return self._append(events)

    def note_copy(self, note: bytes, identity: LogIdentity | None = None) -> None:
        """See CopyTarget.note_copy."""
        self._know(self._about.note(note, identity))

    def append(self, events: Sequence[NewEvent]) -> list[int]:
        """See Log.append. Waits for as long as it takes to know what became of each event."""
        return self._append(events)

    def _append(self, events: Sequence[NewEvent] | Sequence[Event]) -> list[int]:
        # All are made before the first is sent: one that can't be made must not leave others.
        records = [self._record(event) for event in events]
        with self._append_lock:
            if self._producer is None:
                self._producer = self._new_producer()
            sent = [_send(self._producer, record) for record in records]
            # What flush itself complains of is asked of each record next.
            with contextlib.suppress(KafkaError):
                self._producer.flush()
            outcomes = self._outcomes(sent)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failed:
            raise PartlyAppended(outcomes) from failed[0]
        return [outcome for outcome in outcomes if isinstance(outcome, int)]

    def _record(self, event: NewEvent | Event) -> _Record:
        place = self._place(self.partition_of(event.lane, event.subject))
        mark = next(self._marks)
        return _Record(
            place, mark, event.subject.encode(), event.data, headers_of(event, mark), event.time
        )

    def _new_producer(self) -> KafkaProducer:
        places = [self._place(partition) for partition in self._partitions]
        self._known = self._ends.of(places)
        try:
            return new_producer(self._client)
        except (KafkaError, OSError) as error:
            raise unreachable(repr(error)) from error

    def _outcomes(self, sent: Sequence[_Sent]) -> list[int | Exception]:
        """What became of each record: its position, or why it is not in the log."""
        outcomes: list[int | Exception] = []
        unknown: list[int] = []
        for number, (place, _, future) in enumerate(sent):
            offset, error = _fate(future)
            if error is None and offset >= 0:
                self._known[place] = max(self._known.get(place, 0), offset + 1)
                outcomes.append(offset + 1)
                continue
            if not isinstance(future, Exception) and not isinstance(error, _REFUSED):
                unknown.append(number)
            outcomes.append(_refusal(error))
        if unknown:
            self._look_for(unknown, sent, outcomes)
        return outcomes

    def _look_for(
        self, unknown: Sequence[int], sent: Sequence[_Sent], outcomes: list[int | Exception]
    ) -> None:
        """Finds out what became of records that the producer gave up, however long it takes.

        The producer goes first, so that none of them is sent any more; then the log tells.
        """
        logger.error("records were given up by the producer", count=len(unknown))
        if self._producer is not None:
            with contextlib.suppress(KafkaError):
                self._producer.close(timeout=0)
            self._producer = None
        time.sleep(_SETTLE_S)
        wanted = {sent[number].mark: number for number in unknown}
        for place in {sent[number].place for number in unknown}:
            for offset, mark in self._marks_behind(place):
                if mark in wanted:
                    outcomes[wanted[mark]] = offset + 1

    def _marks_behind(self, place: TopicPartition) -> list[tuple[int, bytes | None]]:
        while True:
            try:
                end = self._ends.of([place])[place]
                offset = self._known.get(place, 0)
                found = []
                while offset < end:
                    records, offset = self._reader.read(place, offset, _PAGE, end)
                    found += [(int(record.offset), mark_of(record)) for record in records]
            except TemporarilyUnavailable:
                time.sleep(_SETTLE_S)
                continue
            self._known[place] = end
            return found

    def heads(self) -> dict[Partition, int]:
        """See Log.heads."""
        count = self._ends.partitions(self._topics.points)
        if count > len(self._partitions) - 1:
            self._partitions = _all_partitions(count)
        partitions = self._partitions
        places = {partition: self._place(partition) for partition in partitions}
        ends = self._ends.of(places.values())
        return {partition: ends[place] for partition, place in places.items()}

    def share_points(self) -> PointsShare:
        """See Log.share_points."""
        return PointsGroup(self._client, self._topics.points)

    def has_grown(self, heads: Mapping[Partition, int], wait_s: float) -> bool:
        """See Log.has_grown. The brokers answer as soon as there is something to be told."""
        return self._watcher.goes_on(
            {self._place(partition): head for partition, head in heads.items()}, wait_s
        )

    def head(self, partition: Partition) -> int:
        """See Log.head."""
        place = self._place(partition)
        return self._ends.of([place])[place]

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """See Log.read. Offsets that hold nothing are an event of type GAP where they come last."""
        place = self._place(partition)
        end = self._ends.behind(place, after)
        if after >= end or limit < 1:
            return []
        # The offset behind a record is the record's position.
        records, reached = self._reader.read(place, after, limit, end)
        events = [event_of(partition, record.offset + 1, record) for record in records]
        if reached > (events[-1].position if events else after) and len(events) < limit:
            events.append(gap(partition, reached))
        return events

    def about(self, lane: Lane, subject: str) -> Iterator[Event]:
        """See Log.about. Reads the whole lane: Kafka finds nothing but offsets."""
        for partition in self._partitions:
            if partition.lane == lane:
                after, head = 0, self.head(partition)
                while after < head:
                    events = self.read(partition, after, _PAGE)
                    yield from (event for event in events if event.subject == subject)
                    after = events[-1].position

    def unscrubbed(self, subjects: Collection[str]) -> set[str]:  # noqa: ARG002
        """See Log.unscrubbed."""
        return set()

    def scrub(self, subjects: Collection[str], keep: Callable[[Event], bytes]) -> int:  # noqa: ARG002
        """Kafka's records can't be changed."""
        raise LogError("a Kafka log can't be scrubbed: its records can't be changed")

    def close(self) -> None:
        """See Log.close."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError):
                self._producer.close(timeout=_SETTLE_S)
        self._reader.close()
        self._watcher.close()
        self._ends.close()


def _send(producer: KafkaProducer, record: _Record) -> _Sent:
    place = record.place
    try:
        future = producer.send(
            place.topic,
            record.value,
            record.key,
            record.headers,
            place.partition,
            record.time_ms,
        )
    except (KafkaError, ValueError) as error:
        # Refused before it was sent; ValueError: it has not heard of that partition yet.
        return _Sent(place, record.mark, error)
    return _Sent(place, record.mark, future)


def _fate(future: Any) -> tuple[int, Exception | None]:
    """A record's offset, -1 where it is not told, and what went wrong; waits until it is known."""
    if isinstance(future, Exception):
        return -1, future
    try:
        return int(future.get().offset), None
    except KafkaError as error:
        return -1, error


def _all_partitions(points: int) -> tuple[Partition, ...]:
    return (JOURNAL, *(Partition("points", number) for number in range(points)))


@lru_cache(maxsize=100_000)
def _hash(subject: str) -> int:
    """As Kafka's own clients hash a key: whoever writes points past us puts them where we do."""
    return int(murmur2(subject.encode())) & 0x7FFFFFFF


def _refusal(error: Exception | None) -> Exception:
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        return InvalidParameterValue(f"The event is too large for Kafka: {error}")
    return unreachable(repr(error))
