"""Group commit: many waiting writers share one transaction, and so one fsync."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from events.errors import TemporarilyUnavailable
from events.event import NewEvent
from events.log import Log
from events.wake import GROWN, WAITED_FOR

logger = structlog.get_logger(__name__)

Done = Callable[[list[int] | Exception], None]

WAITING_MAX = 10_000
"""Requests that may wait for a commit; beyond it a writer is told to come back."""
COMMIT_EVENTS_MAX = 2_000
COMMIT_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class _Request:
    events: Sequence[NewEvent]
    done: Done


class GroupCommit:
    """A thread that appends what was submitted since its last commit, all in one transaction.

    There is no timer: while one commit is on its way to the disk the next one gathers.
    """

    def __init__(
        self, log: Log, woken: Callable[[bytes], None], settle: Callable[..., None]
    ) -> None:
        """`woken` is called after each commit, to wake the projector: at once for journal events,
        whose writers wait for the verdict. `settle` is given a list of (done, positions or error)
        and has them called, on the thread where they belong."""
        self._log = log
        self._woken = woken
        self._settle = settle
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, events: Sequence[NewEvent], done: Done) -> None:
        """Has the events appended; `done` gets their positions once they are durable.

        Raises TemporarilyUnavailable where too many wait already; then nothing was appended.
        """
        if self._waiting.qsize() >= WAITING_MAX:
            raise TemporarilyUnavailable(
                f"{WAITING_MAX} writes are waiting for the disk already. Try again shortly."
            )
        self._waiting.put(_Request(events, done))

    def close(self) -> None:
        """Commits what waits and ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _gather(self) -> tuple[list[_Request], bool]:
        first = self._waiting.get()
        if first is None:
            return [], True
        requests = [first]
        events = len(first.events)
        size = sum(len(event.data) for event in first.events)
        while events < COMMIT_EVENTS_MAX and size < COMMIT_BYTES_MAX:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                break
            if request is None:
                return requests, True
            requests.append(request)
            events += len(request.events)
            size += sum(len(event.data) for event in request.events)
        return requests, False

    def _run(self) -> None:
        ended = False
        while not ended:
            requests, ended = self._gather()
            if requests:
                self._commit(requests)

    def _commit(self, requests: list[_Request]) -> None:
        started = time.perf_counter()
        events = [event for request in requests for event in request.events]
        try:
            positions = self._log.append(events)
        except Exception as error:
            logger.exception("append failed", events=len(events))
            refusal = TemporarilyUnavailable(f"The log could not be written: {error}. Try again.")
            self._settle([(request.done, refusal) for request in requests])
            return
        waited_for = any(event.lane == "journal" for event in events)
        self._woken(WAITED_FOR if waited_for else GROWN)
        settled = []
        start = 0
        for request in requests:
            settled.append((request.done, positions[start : start + len(request.events)]))
            start += len(request.events)
        self._settle(settled)
        took_ms = (time.perf_counter() - started) * 1000
        if took_ms > 1_000:
            logger.warning("slow commit", events=len(events), took_ms=round(took_ms))
