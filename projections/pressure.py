"""How much others want the processors, as Linux counts it (`/proc/pressure/cpu`, `/proc/stat`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

FILE = Path("/proc/pressure/cpu")
TIMES = Path("/proc/stat")
LOOK_S = (0.2, 5.0)
"""The time since the last look tells what is so now, unless it is shorter or longer than this."""


class Pressure:
    """The share of the time in which somebody waited for a processor. Any thread may ask."""

    def __init__(self, file: Path = FILE, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[float, int] | None = None
        """When it was last looked, and how many microseconds had been waited by then."""
        self._share = 0.0

    def share(self) -> float:
        """From 0 to 1, since the last look or in the last ten seconds; 0 where none is counted."""
        with self._lock:
            try:
                some = dict(word.split("=") for word in self._file.read_text().split()[1:5])
                average, total = float(some["avg10"]) / 100, int(some["total"])
            except (OSError, ValueError, KeyError):
                return 0.0
            now = self._clock()
            elapsed_s = None if self._seen is None else now - self._seen[0]
            if elapsed_s is not None and elapsed_s < LOOK_S[0]:
                return self._share
            if self._seen is None or elapsed_s is None or elapsed_s > LOOK_S[1]:
                self._share = average
            else:
                self._share = min(1.0, (total - self._seen[1]) / (1e6 * elapsed_s))
            self._seen = (now, total)
            return self._share


class OthersUse:
    """The share of the processors' time that all took who are not nice. Any thread may ask.

    Queries are nice, so they are not among them: that several of them wait for each other on a
    machine that nobody else uses is no reason for any of them to give way.
    """

    def __init__(self, file: Path = TIMES, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[float, int, int] | None = None
        """When it was last looked, and how many ticks others had taken and there had been."""
        self._share = 0.0

    def share(self) -> float:
        """From 0 to 1, since the last look; 0 where there was none of late, or none is counted."""
        with self._lock:
            try:
                line = self._file.read_text().splitlines()[0]
                ticks = [int(word) for word in line.split()[1:9]]
                user, _nice, system, _idle, _waiting, *rest = ticks
            except (OSError, ValueError, IndexError):
                return 0.0
            now, others, total = self._clock(), user + system + sum(rest), sum(ticks)
            elapsed_s = LOOK_S[1] if self._seen is None else now - self._seen[0]
            if elapsed_s < LOOK_S[0]:
                return self._share
            self._share = 0.0
            if self._seen is not None and elapsed_s <= LOOK_S[1] and total > self._seen[2]:
                self._share = (others - self._seen[1]) / (total - self._seen[2])
            self._seen = (now, others, total)
            return self._share
