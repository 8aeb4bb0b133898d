"""Freshness: waiting until the views are folded up to where the log stood."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog

from events.counters import SECONDS, Histogram
from events.errors import TemporarilyUnavailable
from events.event import JOURNAL, Partition
from projections.database import Views
from projections.folding import Checkpoint, Checkpoints

logger = structlog.get_logger(__name__)

POLL_WAITING_S = 0.02
"""How often to look at the checkpoints while somebody waits and no wake-up comes."""
POLL_WAITING_ALONE_S = 0.005
"""The same where no projector wakes this process: a read waits half as long as that for nothing,
and a look costs 0.1 to 0.2 ms of a processor."""
POLL_IDLE_S = 1.0
POLL_ALONE_S = 0.1
"""The same where no projector wakes this process: for so long it may take a run for active that was
deleted through another one."""
SLOW_WAIT_S = 1.0

Reached = Callable[[], None]


class Watch:
    """Knows how far each partition is folded, and wakes who waits for a position."""

    def __init__(self, views: Views, wait_max_s: float, urge: Callable[[], None]) -> None:
        """`urge` tells the projector that somebody waits."""
        self._views = views
        self._urge = urge
        self._wait_max_s = wait_max_s
        self._loop = asyncio.get_running_loop()
        self._order = itertools.count()
        self._waiters: dict[Partition, list[tuple[int, int, Reached]]] = {}
        self._looks_again: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._looking = False
        self._look_after = False
        self._waiting_s = POLL_WAITING_ALONE_S
        self.checkpoints: Mapping[Partition, Checkpoint] = Checkpoints()
        self.waits = 0
        self.waited = Histogram(SECONDS)
        self.waits_over = 0
        self.waited_s_max = 0.0

    def listen(self, wake_fd: int) -> None:
        """Looks at the checkpoints whenever this pipe gets a byte."""
        os.set_blocking(wake_fd, False)
        self._waiting_s = POLL_WAITING_S

        def woken() -> None:
            with contextlib.suppress(BlockingIOError):
                if not os.read(wake_fd, 65_536):
                    self._loop.remove_reader(wake_fd)
            self.look()

        self._loop.add_reader(wake_fd, woken)

    def look(self) -> None:
        """Reads the checkpoints and wakes whose position is reached: at once where they are in a
        file; a server may take its time, or be away, and is asked in another thread."""
        if not self._views.is_on_server:
            self._take(self._read())
        elif self._looking:
            self._look_after = True
        else:
            self._looking = True
            self._loop.run_in_executor(self._thread, self._read_aside)

    def _read(self) -> Checkpoints | None:
        try:
            return self._views.checkpoints()
        except TemporarilyUnavailable:
            return None

    def _read_aside(self) -> None:
        found: Checkpoints | None = None
        try:
            found = self._read()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
                self._loop.call_soon_threadsafe(self._looked, found)

    def _looked(self, found: Checkpoints | None) -> None:
        self._looking = False
        self._take(found)
        if self._look_after:
            self._look_after = False
            self.look()

    def _take(self, found: Checkpoints | None) -> None:
        if found is None:
            return
        self.checkpoints = found
        for partition, waiters in self._waiters.items():
            checkpoint = self.checkpoints[partition]
            while waiters and (
                waiters[0][0] <= checkpoint.position or checkpoint.stopped is not None
            ):
                _, _, reached = heapq.heappop(waiters)
                reached()

    async def run(self, every_s: float = POLL_IDLE_S) -> None:
        """Looks now and then, for what other processes and machines fold."""
        while True:
            self.look()
            await asyncio.sleep(every_s)

    def _look_again(self) -> None:
        """Polls while somebody waits, for when a wake-up is late or lost."""
        self._looks_again = None
        self.look()
        self._look_soon()

    def _look_soon(self) -> None:
        if self._looks_again is None and any(self._waiters.values()):
            self._looks_again = self._loop.call_later(self._waiting_s, self._look_again)

    def when_reached(self, partition: Partition, position: int, reached: Reached) -> None:
        """Has `reached` called once, when a partition has reached a position or has stopped."""
        waiters = self._waiters.setdefault(partition, [])
        heapq.heappush(waiters, (position, next(self._order), reached))
        self._look_soon()

    def reached(self, needed: Mapping[Partition, int]) -> bool:
        """Whether the partitions were folded this far when last looked at."""
        return all(self.checkpoints[one].position >= needed[one] for one in needed)

    async def wait(self, needed: Mapping[Partition, int]) -> None:
        """Returns once the partitions are folded this far.

        Raises TemporarilyUnavailable (503) past the bound, or where folding has stopped.
        """
        if self.reached(needed):
            return
        self.look()
        started = time.monotonic()
        for partition, position in needed.items():
            while self.checkpoints[partition].position < position:
                left_s = started + self._wait_max_s - time.monotonic()
                stopped = self.checkpoints[partition].stopped
                if left_s <= 0 or stopped is not None:
                    self._over(partition, position, stopped)
                self._urge()
                await self._until(partition, position, left_s)
        waited_s = time.monotonic() - started
        self.waits += 1
        self.waited.observe(waited_s)
        self.waited_s_max = max(self.waited_s_max, waited_s)
        if waited_s > SLOW_WAIT_S:
            logger.warning("slow wait for the views", waited_ms=round(waited_s * 1000))

    async def _until(self, partition: Partition, position: int, timeout_s: float) -> None:
        """Waits for a partition to reach a position, to stop, or for the time to be over."""
        future: asyncio.Future[None] = self._loop.create_future()

        def end() -> None:
            if not future.done():
                future.set_result(None)

        self.when_reached(partition, position, end)
        # A timer of its own: asyncio.wait_for costs as much as all the rest of a write.
        timer = self._loop.call_later(timeout_s, end)
        try:
            await future
        finally:
            timer.cancel()

    def _over(self, partition: Partition, position: int, stopped: str | None) -> None:
        self.waits_over += 1
        logger.error(
            "the views are behind",
            lane=str(partition),
            folded=self.checkpoints[partition].position,
            needed=position,
            stopped=stopped,
        )
        reason = f"folding stopped at {stopped}" if stopped else "the projector is behind"
        raise TemporarilyUnavailable(
            f"The views are not as fresh as the log yet ({reason}; {partition} is folded to "
            f"{self.checkpoints[partition].position}, needed is {position}). Try again shortly, or "
            "send the header 'Runfold-Consistency: eventual' to read what is there."
        )

    async def settled(self, position: int) -> bool:
        """Waits for the verdict on a journal event; False where folding stopped before it.

        There is no bound: the event is durable, so its request must not end with an error that
        makes the client send it again. A client that tires of waiting goes by itself.
        """
        started = time.monotonic()
        warned = False
        while True:
            checkpoint = self.checkpoints[JOURNAL]
            if checkpoint.position >= position:
                return True
            if checkpoint.stopped is not None:
                return False
            self._urge()
            await self._until(JOURNAL, position, self._wait_max_s)
            if not warned and time.monotonic() - started >= self._wait_max_s:
                logger.warning("a verdict is late", position=position)
                warned = True
