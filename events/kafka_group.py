"""Shares the partitions of points out among the processes that fold them: a consumer group does it.

The group says who folds what, and moves the partitions of a member that dies. It is no lock: for a
moment two may believe that a partition is theirs, and the checkpoint beside the rows decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.errors import KafkaError

from events.event import Partition
from events.kafka_reader import unreachable
from events.kafka_topics import Client

SESSION_MS = 6_000
"""A member that was silent for so long has died; less is refused by brokers as they come."""
HEARTBEAT_MS = 1_000
BUSY_S_MAX = 60.0
"""A member that does not ask what is its for so long gives its partitions away."""
_POLL_MS = 200


class PointsGroup:
    """This process as a member of the group.

    A thread speaks to the group's coordinator: to join takes questions that are waited for, and who
    folds has no time to wait.
    """

    def __init__(self, client: Client, topic: str) -> None:
        """Raises TemporarilyUnavailable."""
        try:
            self._consumer = KafkaConsumer(
                **client,
                group_id=f"{topic}.projectors",
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=HEARTBEAT_MS,
                max_poll_interval_ms=2 * SESSION_MS,
                enable_auto_commit=False,
                # The group's offsets are not used: the checkpoints are with the rows.
                auto_offset_reset="latest",
                metrics_enabled=False,
            )
        except (KafkaError, OSError) as error:
            raise unreachable(repr(error)) from error
        self._given = _Given(self._consumer)
        self._consumer.subscribe([topic], listener=self._given)
        self._closed = threading.Event()
        self._asked = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="points-group", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            if time.monotonic() - self._asked > BUSY_S_MAX:
                # The coordinator hears nothing more, and gives the partitions to others.
                self._closed.wait(1.0)
                continue
            try:
                self._consumer.poll(_POLL_MS)
            except (KafkaError, OSError):
                # It is asked again, and meanwhile what was given counts.
                self._closed.wait(1.0)

    def mine(self) -> Collection[Partition]:
        """The partitions that are this process's now."""
        self._asked = time.monotonic()
        return self._given.partitions

    def close(self) -> None:
        """Leaves the group: the others get its partitions at once."""
        self._closed.set()
        self._thread.join()
        self._consumer.close()


class _Given(ConsumerRebalanceListener):  # type: ignore[misc]
    """What the coordinator gives, and takes back. Nothing of it is fetched: records are read
    elsewhere, from the checkpoints on."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.partitions: frozenset[Partition] = frozenset()

    def on_partitions_assigned(self, assigned: Any) -> None:
        """All that is given, which begins anew each time."""
        self._consumer.pause(*assigned)
        self.partitions = frozenset(Partition("points", place.partition) for place in assigned)

    def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002
        """What is being folded is kept or refused by its checkpoint."""
        self.partitions = frozenset()
