"""Group commit: many waiting writers share one transaction, and so one fsync."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from events.counters import SECONDS, SIZES, Histogram
from events.errors import RunfoldError, TemporarilyUnavailable
from events.event import NewEvent
from events.log import Log, PartlyAppended
from events.wake import GROWN

logger = structlog.get_logger(__name__)

Done = Callable[[list[int] | Exception], None]
Settled = tuple[Done, list[int] | Exception]
Settle = Callable[[list[Settled]], None]

WAITING_MAX = 10_000
"""Requests that may wait for a commit; beyond it a writer is told to come back."""
WAKE_EVERY_S = 0.02
"""The projector gathers for longer than that before it folds; to wake it for each commit would
cost it, and this process, more than the fold."""
STALLED_S = 10.0
"""An append that takes longer waits for a server that is away: what comes meanwhile is refused, for
of that it is certain that it is not in the log."""
GATHER_S = 0.002
"""How long requests gather for a log on a server, while fewer have come than are expected: all
processes together make one commit at a time there, and many small ones take them the longest. A
local log's commit is over too soon for that."""
COMMIT_EVENTS_MAX = 2_000
COMMIT_BYTES_MAX = 16 << 20


class CommitCounts:
    """What was committed; changed by the thread that commits."""

    def __init__(self) -> None:
        self.events = Histogram(SIZES)
        self.seconds = Histogram(SECONDS)
        self.errors = 0


_Request = tuple[Sequence[NewEvent], Done]
_END: _Request = ((), lambda _result: None)


class GroupCommit:
    """A thread that appends what was submitted since its last commit, all in one transaction.

    While one commit is on its way to the disk the next one gathers; of a log on a server, for a
    little longer where more are expected.
    """

    def __init__(self, log: Log, woken: Callable[[bytes], None], settle: Settle) -> None:
        """`woken` is called after commits, to wake the projector; who waits for it urges it
        themselves. `settle` is given a list of (done, positions or error) and has them called, on
        the thread where they belong."""
        self._log = log
        self._woken = woken
        self.counts = CommitCounts()
        self._told = 0.0
        self._owes_wake = False
        self._expected = 0
        """How many requests may come for the next commit: who was answered often asks again."""
        self._appending_since = 0.0
        self._settle = settle
        self._waiting: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, events: Sequence[NewEvent], done: Done) -> None:
        """Has the events appended; `done` gets their positions once they are durable.

        Raises TemporarilyUnavailable where too many wait already, or for too long; then nothing was
        appended.
        """
        if self._waiting.qsize() >= WAITING_MAX:
            raise TemporarilyUnavailable(
                f"{WAITING_MAX} writes are waiting for the disk already. Try again shortly."
            )
        since = self._appending_since
        if since and time.monotonic() - since > STALLED_S:
            raise TemporarilyUnavailable(
                f"The log has not answered for {time.monotonic() - since:.0f} s. Try again shortly."
            )
        self._waiting.put((events, done))

    def close(self) -> None:
        """Commits what waits and ends the thread."""
        self._waiting.put(_END)
        self._thread.join()

    def _gather(self) -> tuple[list[_Request], list[NewEvent], bool]:
        waiting = self._waiting
        requests: list[_Request] = []
        events: list[NewEvent] = []
        size_bytes = 0
        request = self._first()
        until = time.monotonic() + GATHER_S
        while request is not _END:
            requests.append(request)
            events += request[0]
            for event in request[0]:
                size_bytes += len(event.data)
            if len(events) >= COMMIT_EVENTS_MAX or size_bytes >= COMMIT_BYTES_MAX:
                return requests, events, False
            # Nobody else takes from the queue.
            left_s = until - time.monotonic() if len(requests) < self._expected else 0.0
            try:
                request = waiting.get(block=left_s > 0, timeout=max(0.0, left_s))
            except queue.Empty:
                return requests, events, False
        return requests, events, True

    def _first(self) -> _Request:
        """The next request, however long it takes; the projector is told meanwhile what it is
        owed."""
        if self._owes_wake:
            left_s = self._told + WAKE_EVERY_S - time.monotonic()
            try:
                return self._waiting.get(timeout=max(0.0, left_s))
            except queue.Empty:
                self._wake(time.monotonic())
        return self._waiting.get()

    def _wake(self, now: float) -> None:
        self._told = now
        self._owes_wake = False
        self._woken(GROWN)

    def _run(self) -> None:
        ended = False
        while not ended:
            requests, events, ended = self._gather()
            if requests:
                self._commit(requests, events)

    @staticmethod
    def _refusal(error: Exception, events: int) -> RunfoldError:
        if isinstance(error, RunfoldError):
            logger.error("append failed", events=events, reason=error.message)
            return error
        logger.exception("append failed", events=events)
        return TemporarilyUnavailable(f"The log could not be written: {error}. Try again.")

    def _commit(self, requests: list[_Request], events: list[NewEvent]) -> None:
        started = time.perf_counter()
        self._appending_since = time.monotonic()
        try:
            positions = self._log.append(events)
        except PartlyAppended as error:
            self.counts.errors += 1
            logger.error("append failed", events=len(events), reason=str(error))
            self._settle(list(_each(requests, error.outcomes)))
            self._wake(time.monotonic())
            return
        except Exception as error:
            self.counts.errors += 1
            refusal = self._refusal(error, len(events))
            self._settle([(done, refusal) for _, done in requests])
            return
        finally:
            self._appending_since = 0.0
            # Counted before anybody is answered, and so before they can ask again.
            if not self._log.is_near:
                self._expected = len(requests) + self._waiting.qsize()
        self.counts.seconds.observe(time.perf_counter() - started)
        self.counts.events.observe(len(events))
        self._owes_wake = True
        if (now := time.monotonic()) - self._told >= WAKE_EVERY_S:
            self._wake(now)
        settled: list[Settled] = []
        start = 0
        for asked, done in requests:
            end = start + len(asked)
            settled.append((done, positions[start:end]))
            start = end
        self._settle(settled)
        took_ms = (time.perf_counter() - started) * 1000
        if took_ms > 1_000:
            logger.warning("slow commit", events=len(events), took_ms=round(took_ms))


def _each(requests: list[_Request], outcomes: Sequence[int | Exception]) -> Iterator[Settled]:
    """What each request is told: the positions of its events, or why one is not in the log."""
    start = 0
    for asked, done in requests:
        own = outcomes[start : start + len(asked)]
        start += len(asked)
        failed = next((outcome for outcome in own if isinstance(outcome, Exception)), None)
        yield done, failed or [outcome for outcome in own if isinstance(outcome, int)]
