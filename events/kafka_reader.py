"""Reads records from partitions of topics by offset, and asks how far they go."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from events.errors import TemporarilyUnavailable
from events.kafka_topics import Client
from events.log import LogError

T = TypeVar("T")

ANSWER_S_MAX = 5.0
"""How long a broker may take to answer before it counts as away."""
OPEN_S_MAX = 30.0
_POLL_RECORDS = 2_000
_FETCH_BYTES = 8 << 20
_WATCH_MS = 1_000
"""How long a broker keeps the question whether a partition goes on before it answers no."""


def unreachable(error: Exception | str) -> TemporarilyUnavailable:
    """What a caller is told while the brokers don't answer."""
    return TemporarilyUnavailable(f"Kafka does not answer: {error}. Try again shortly.")


def patiently(ask: Callable[[], T]) -> T:
    """What is asked at a start, when brokers that start too are worth waiting for.

    Raises LogError where they don't answer for long.
    """
    deadline = time.monotonic() + OPEN_S_MAX
    while True:
        try:
            return ask()
        except TemporarilyUnavailable as error:
            if time.monotonic() > deadline:
                raise LogError(error.message) from error


def _consumer(
    client: Client, wait_ms: int = 1, partition_bytes: int = _FETCH_BYTES
) -> KafkaConsumer:
    return KafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        # An offset that is not there is an error, never a reason to go on elsewhere.
        auto_offset_reset="none",
        # A fetch that waits at the broker would hold up what is asked next; where records are
        # wanted, nothing is fetched but what is known to be there.
        fetch_max_wait_ms=wait_ms,
        fetch_max_bytes=4 * partition_bytes,
        max_partition_fetch_bytes=partition_bytes,
        metrics_enabled=False,
    )


class Ends:
    """Where partitions begin and end; safe among threads."""

    def __init__(self, client: Client) -> None:
        self._consumer = _consumer(client)
        self._lock = threading.Lock()
        self._seen: dict[TopicPartition, int] = {}

    def of(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset behind each partition's last record. Raises TemporarilyUnavailable."""
        found = self._ask(self._consumer.end_offsets, partitions)
        self._seen.update(found)
        return found

    def behind(self, partition: TopicPartition, offset: int) -> int:
        """An offset that a partition goes on to at least: behind this one, where it does."""
        seen = self._seen.get(partition, 0)
        return seen if seen > offset else self.of([partition])[partition]

    def beginnings(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of each partition's first record. Raises TemporarilyUnavailable."""
        return self._ask(self._consumer.beginning_offsets, partitions)

    def _ask(
        self, question: Any, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        with self._lock:
            try:
                found = question(list(partitions), timeout_ms=round(ANSWER_S_MAX * 1000))
            except (KafkaError, OSError) as error:
                raise unreachable(repr(error)) from error
        return dict(found)

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has, as was last heard."""
        with self._lock:
            try:
                return len(self._consumer.partitions_for_topic(topic) or ())
            except (KafkaError, OSError) as error:
                raise unreachable(repr(error)) from error

    def close(self) -> None:
        """Closes the connections."""
        self._consumer.close()


class RecordReader:
    """Reads partitions page by page; safe among threads, one reads at a time."""

    def __init__(self, client: Client) -> None:
        self._consumer = _consumer(client)
        self._lock = threading.Lock()
        self._buffers: dict[TopicPartition, deque[Any]] = {}
        """What was fetched and not asked for yet: without gaps in what was fetched."""
        self._next: dict[TopicPartition, int] = {}
        """The offset that a partition's next page begins at, as the buffer has it."""

    def read(
        self, partition: TopicPartition, offset: int, limit: int, end: int
    ) -> tuple[list[Any], int]:
        """Up to `limit` records from this offset on, of a partition that goes on to `end` at
        least; and the offset up to which there are no others.

        Raises TemporarilyUnavailable, and LogError where the log has lost that offset.
        """
        with self._lock:
            try:
                return self._read(partition, offset, limit, end)
            except OffsetOutOfRangeError as error:
                raise LogError(
                    f"{partition.topic}/{partition.partition} has no offset {offset} any more: "
                    "records were deleted from the log"
                ) from error
            except (KafkaError, OSError) as error:
                raise unreachable(repr(error)) from error

    def _read(
        self, partition: TopicPartition, offset: int, limit: int, end: int
    ) -> tuple[list[Any], int]:
        buffer = self._at(partition, offset)
        deadline = time.monotonic() + ANSWER_S_MAX
        while len(buffer) < limit and self._consumer.position(partition) < end:
            self._only(partition)
            for found, records in self._consumer.poll(100, _POLL_RECORDS).items():
                self._buffers[found].extend(records)
            if time.monotonic() > deadline:
                if buffer:
                    break
                raise unreachable(f"no record of {partition.topic} came")
        page = [buffer.popleft() for _ in range(min(limit, len(buffer)))]
        if page and (buffer or len(page) == limit):
            reached = int(page[-1].offset) + 1
        else:
            # Behind the last record there may be offsets of transactions, which hold nothing.
            reached = int(self._consumer.position(partition))
        self._next[partition] = reached
        return page, reached

    def _at(self, partition: TopicPartition, offset: int) -> deque[Any]:
        """The partition's buffer, which begins at this offset."""
        if partition not in self._buffers:
            self._buffers = {one: deque() for one in (*self._buffers, partition)}
            self._next = dict.fromkeys(self._buffers, -1)
            self._consumer.assign(list(self._buffers))
        buffer = self._buffers[partition]
        if self._next[partition] != offset:
            buffer.clear()
            self._consumer.seek(partition, offset)
            self._next[partition] = offset
        return buffer

    def _only(self, wanted: TopicPartition) -> None:
        """Has nothing fetched but this partition."""
        paused = self._consumer.paused()
        others = set(self._buffers) - {wanted} - paused
        if others:
            self._consumer.pause(*others)
        if wanted in paused:
            self._consumer.resume(wanted)

    def close(self) -> None:
        """Closes the connections."""
        self._consumer.close()


class Watcher:
    """Is told by the brokers when partitions go on; for one thread.

    Asking for their ends every few milliseconds would be a hundred requests a second for nothing;
    a fetch of what is not there yet is answered once it is.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._consumer: KafkaConsumer | None = None
        self._at: dict[TopicPartition, int] = {}
        """The offset that each partition is asked for next."""

    def goes_on(self, ends: Mapping[TopicPartition, int], wait_s: float) -> bool:
        """Whether a partition has another end than told here; waits for it so long at most.

        Raises TemporarilyUnavailable.
        """
        try:
            return self._goes_on(ends, wait_s)
        except OffsetOutOfRangeError:
            return True
        except (KafkaError, OSError) as error:
            raise unreachable(repr(error)) from error

    def _goes_on(self, ends: Mapping[TopicPartition, int], wait_s: float) -> bool:
        if self._consumer is None:
            # The first record's bytes are enough to know that there is one.
            self._consumer = _consumer(self._client, _WATCH_MS, 1)
        if self._at.keys() != ends.keys():
            self._consumer.assign(list(ends))
            self._at = dict.fromkeys(ends, -1)
        for place, end in ends.items():
            if self._at[place] != end:
                self._consumer.seek(place, end)
                self._at[place] = end
        found = self._consumer.poll(round(wait_s * 1000), 1)
        for place in found:
            self._at[place] = -1
        return bool(found)

    def close(self) -> None:
        """Closes the connections."""
        if self._consumer is not None:
            self._consumer.close()
