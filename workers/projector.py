"""The projector: folds the log's partitions into the views and keeps their checkpoints."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from events.errors import TemporarilyUnavailable
from events.event import Event, Lane, Partition
from events.log import Log, LogError
from events.wake import GROWN, WAITED_FOR
from events.worker_counts import FOLD_ERRORS, FOLD_SECONDS, FOLDED_EVENTS, WorkerCounts
from projections.database import Views
from projections.folding import Checkpoint, fold_batch, read_checkpoint, stop_folding
from workers.shares import Shares

logger = structlog.get_logger(__name__)

BATCH_EVENTS: dict[Lane, int] = {"journal": 1_000, "points": 256}
"""Events in one transaction: enough to share its cost, few enough that readers wait little."""
POLL_S = 0.25
"""How long to wait for a wake-up before looking at the log anyway."""
FAR_POLL_S = 1.0
"""The same for a log that is looked at meanwhile as to whether it has grown."""
LOOK_S = 0.01
"""How often to look at where a log stands that others write to as well, at the most."""
TOLD_S = 0.25
"""How long a log is waited for that tells by itself that it has grown; then the pipe's turn is."""
GATHER_S = 0.03
"""How long events gather before they are folded, while nobody waits for them."""
RETRY_STOPPED_S = 2.0
RETRY_FAILED_S = 0.5


class Projector:
    """Folds events in order, a batch a transaction, and stops a partition at what it can't fold."""

    def __init__(
        self,
        log: Log,
        views: Views,
        folded: Callable[[bytes], None] = lambda _byte: None,
        counts: WorkerCounts | None = None,
        shares: Shares | None = None,
    ) -> None:
        """`folded` is called after each batch, to wake who waits for it; `counts` gets what was
        done. `shares` says which partitions this one folds, while others fold others; without it,
        it folds all."""
        self._log = log
        self._views = views
        self._folded = folded
        self._counts = counts or WorkerCounts()
        self._shares = shares
        self._stopped: dict[Partition, str] = {}
        self._looked: dict[Partition, int] = {}
        """The heads when last looked at, of the partitions that are folded here."""
        self._retry_at: dict[Partition, float] = {}

    def step(self, partition: Partition, limit: int | None = None, until: int | None = None) -> int:
        """Folds the next batch of a partition, no event behind `until`; returns by how much its
        position grew."""
        if time.monotonic() < self._retry_at.get(partition, 0.0):
            return 0
        after_position = self._views.checkpoints()[partition].position
        # Who has never been folded has no row that two could wait for.
        beside = self._shares is not None and partition.lane == "points" and after_position > 0
        events = self._read(partition, after_position, limit or BATCH_EVENTS[partition.lane])
        if until is not None:
            events = [event for event in events if event.position <= until]
        if not events:
            return 0
        started = time.monotonic()
        with self._views.write(beside_others=beside) as connection:
            before = read_checkpoint(connection, partition, alone=beside)
            # Another file of views may have taken this one's place since the look above.
            if before.position != after_position:
                return 1
            after = fold_batch(connection, partition, events, before)
        self._count(partition.lane, events, after.position, time.monotonic() - started)
        self._tell(partition, after)
        if after != before:
            if self._shares is not None:
                self._shares.folded(partition, after.position)
            self._folded(GROWN)
        return after.position - before.position

    def _read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """Events behind a position; none, and the checkpoint says why, where the log has lost
        them."""
        try:
            return self._log.read(partition, after, limit)
        except LogError as error:
            with self._views.write() as connection:
                self._tell(partition, stop_folding(connection, partition, str(error)))
            return []

    def _tell(self, partition: Partition, after: Checkpoint) -> None:
        """Says it once where folding has stopped."""
        if after.stopped is None:
            self._stopped.pop(partition, None)
            return
        self._retry_at[partition] = time.monotonic() + RETRY_STOPPED_S
        if self._stopped.get(partition) != after.stopped:
            logger.error("folding stopped", lane=str(partition), at=after.stopped)
            self._stopped[partition] = after.stopped

    def _count(self, lane: Lane, events: Sequence[Event], folded_to: int, seconds: float) -> None:
        whole = events[-1].position <= folded_to
        count = len(events) if whole else sum(one.position <= folded_to for one in events)
        self._counts.add(FOLDED_EVENTS[lane], count)
        self._counts.observe(FOLD_SECONDS[lane], seconds)

    def catch_up(self, progress: Callable[[int], None] = lambda _count: None) -> None:
        """Folds all that the log holds now. Leaves a partition where it stops."""
        for partition in self._log.partitions():
            head = self._log.head(partition)
            while head > self._views.checkpoints()[partition].position:
                count = self.step(partition)
                if count == 0:
                    break
                progress(count)

    def run(self, stop: threading.Event, wake_fd: int | None) -> None:
        """Folds until told to stop. `wake_fd`: a pipe that gets bytes of events/wake.py; its end
        means that the server is gone.

        Events gather for up to GATHER_S, so that those of many requests share a transaction,
        unless somebody waits for them.
        """
        due = 0.0
        looks = wake_fd is None or not self._log.is_near or self._shares is not None
        while not stop.is_set():
            more = False
            try:
                if time.monotonic() >= due:
                    for partition in self._grown() if looks else self._log.partitions():
                        more |= self.step(partition) >= BATCH_EVENTS[partition.lane]
                    due = time.monotonic() + (FAR_POLL_S if looks else POLL_S)
            except TemporarilyUnavailable as error:
                logger.warning("folding waits", reason=error.message)
                self._counts.add(FOLD_ERRORS)
                stop.wait(RETRY_FAILED_S)
                continue
            except Exception:
                logger.exception("folding failed; trying again")
                self._counts.add(FOLD_ERRORS)
                stop.wait(RETRY_FAILED_S)
                continue
            if more:
                due = 0.0
                continue
            woken = self._wait(stop, wake_fd, due, looks=looks)
            if woken is None:
                return
            if WAITED_FOR in woken:
                due = 0.0
            elif woken:
                due = min(due, time.monotonic() + GATHER_S)

    def _grown(self) -> Sequence[Partition]:
        """The partitions that may have events to fold, by where the log stands now."""
        heads, checkpoints = self._log.heads(), self._views.checkpoints()
        mine = heads if self._shares is None else self._shares.look(heads, checkpoints)
        self._looked = {one: head for one, head in heads.items() if one in mine}
        return [one for one, head in self._looked.items() if head > checkpoints[one].position]

    def _wait(
        self, stop: threading.Event, wake_fd: int | None, until: float, *, looks: bool
    ) -> bytes | None:
        """The bytes that woke it; empty where only time has passed, None at the pipe's end.

        The pipe tells of the API process beside this one alone. Where others may write it is the
        log that is looked at, and no sooner than LOOK_S later, so that a batch gathers.
        """
        while (left_s := until - time.monotonic()) > 0 and not stop.is_set():
            pause_s = min(left_s, LOOK_S) if looks else left_s
            if wake_fd is None:
                stop.wait(pause_s)
            elif select.select([wake_fd], [], [], pause_s)[0]:
                return os.read(wake_fd, 65_536) or None
            if looks and self._has_more(until - time.monotonic()):
                return WAITED_FOR
        return b""

    def _has_more(self, wait_s: float) -> bool:
        """Whether the log stands elsewhere than when last looked at, or there are other partitions
        to fold."""
        try:
            if self._log.has_grown(self._looked, min(max(wait_s, 0.0), TOLD_S)):
                return True
            return self._shares is not None and self._shares.have_changed()
        except TemporarilyUnavailable:
            return False
