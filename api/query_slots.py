"""How many SQL queries run at a time, who waits for a turn, and the threads that they block."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from events.errors import TooManyRequests
from events.settings import Settings
from projections.lake import Lake
from projections.pressure import OthersUse, Pressure
from projections.query_process import FOLDERS, Child, QueryLimits, Spares, sweep, threads_for

P = ParamSpec("P")
T = TypeVar("T")

WAITING_PER_SLOT = 4
WAIT_MAX_S = 5.0
PRESSURE_MAX = 0.4
"""Where somebody waits for a processor for more of the time, others want the processors."""
OTHERS_MAX = 0.5
"""Where others than queries take more of the processors' time, queries rest half of theirs."""


class QuerySlots:
    """The turns of one API process, and the children that stand ready for them."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._slots = settings.sql_concurrent
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.refused = 0
        self.taken = 0
        self.snapshot_turn = asyncio.Lock()
        """Whoever takes a snapshot holds it: two at once would take twice as much from those who
        log. The thread keeps the server's priority; one with less could hold Python's lock while
        it is not run, and everybody would wait for it."""
        self.folders = lake.folder / FOLDERS
        limits = QueryLimits(
            memory_mb=settings.sql_memory_mb,
            threads=threads_for(settings.sql_threads),
            seconds=settings.sql_seconds,
            rows=settings.sql_rows,
        )
        self._pressure = Pressure()
        self._others = OthersUse()
        self._spares = Spares(self.folders, limits, settings.sql_spares)
        # One more than queries: for the children that are started meanwhile. The threads live as
        # long as the process, for a child ends with the thread that started it.
        self._threads = ThreadPoolExecutor(self._slots + 1, thread_name_prefix="sql")

    async def acquire(self) -> None:
        """Waits for a turn; raises TooManyRequests (429) where that takes too long.

        Whoever has one gives it back by `release`.
        """
        if self._running < self._slots:
            self._running += 1
            self.taken += 1
            return
        if len(self._waiting) >= self._slots * WAITING_PER_SLOT:
            raise self._refusal()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait_for(turn, WAIT_MAX_S)
            self.taken += 1
        except TimeoutError:
            raise self._refusal() from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(turn)

    def release(self) -> None:
        """Gives a turn to who waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    def _refusal(self) -> TooManyRequests:
        self.refused += 1
        return TooManyRequests(
            f"{self._slots} SQL queries run on this server, as many as it runs at a time, and "
            "others wait. Try again in a moment."
        )

    def take(self) -> Child:
        """A child for one job. Blocks."""
        return self._spares.take()

    def threads_max(self) -> int | None:
        """How many threads a query may have at this moment, None for as many as its limits say.

        Low as its priority is, a query takes time from others on a machine that has none left, and
        twice as much with two threads. So it has one while others want the processors.
        """
        return 1 if self._pressure.share() > PRESSURE_MAX else None

    def gives_way(self) -> bool:
        """Whether a query is to rest half of its time.

        Being idle for the scheduler is not enough: two processors are often the two halves of one
        core, and even a loop that touches no memory and always gives way took a quarter off the
        rate of who logs on the other half. Any thread may ask.
        """
        return self._others.share() > OTHERS_MAX

    def refill(self) -> None:
        """Sees to it that the next query finds a child that is ready."""
        self._threads.submit(self._spares.refill)

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking call off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

    def health(self) -> dict[str, int]:
        """What /health says of it."""
        return {
            "running": self._running,
            "waiting": len(self._waiting),
            "spares": self._spares.count(),
            "refused": self.refused,
        }

    def close(self) -> None:
        """Ends the children and the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._spares.close()


@contextlib.asynccontextmanager
async def query_slots(settings: Settings, lake: Lake) -> AsyncIterator[QuerySlots]:
    """The turns for as long as the application runs; what dead processes left is removed."""
    slots = QuerySlots(settings, lake)
    await slots.in_thread(sweep, slots.folders)
    try:
        yield slots
    finally:
        slots.close()
