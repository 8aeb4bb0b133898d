"""Tells how far long work is: how much is done, how fast it goes, how long it still takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

TERMINAL_EVERY_S = 0.25
LINES_EVERY_S = 10.0
"""Where nobody watches, such as in a file, each state is a line of its own; so not too many."""


class Progress:
    """One piece of work of so many units, told on a stream.

    Work that is done before the first line is due says nothing.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._stream = stream or sys.stderr
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._every_s = TERMINAL_EVERY_S if self._terminal else LINES_EVERY_S
        self._started = clock()
        self._told_at = self._started
        self._told = False
        self.done = 0

    def add(self, count: int) -> None:
        """So many more units are done."""
        self.done += count
        if self.done > self._total:
            # The log grew while it was folded.
            self._total = self.done
        now = self._clock()
        if now - self._told_at >= self._every_s:
            self._told_at = now
            self._tell(now)

    def finish(self) -> None:
        """The work is done: the last state, where any was told."""
        if self._told:
            self._tell(self._clock())
            if self._terminal:
                self._stream.write("\n")
            self._stream.flush()

    def _tell(self, now: float) -> None:
        self._told = True
        text = self.text(now)
        # The line is cleared to its end, for the one before may have been longer.
        self._stream.write(f"\r{text}\x1b[K" if self._terminal else f"{text}\n")
        self._stream.flush()

    def text(self, now: float) -> str:
        """The state in words."""
        passed_s = max(now - self._started, 1e-9)
        rate = self.done / passed_s
        share = f"{100 * self.done / self._total:.0f} %" if self._total else "100 %"
        left = max(self._total - self.done, 0)
        time_left = f", {duration(left / rate)} left" if left and rate > 0 else ""
        return (
            f"{self._label}: {self.done:,} of {self._total:,} {self._unit} ({share}), "
            f"{rate:,.0f} {self._unit}/s{time_left}"
        )


def duration(seconds: float) -> str:
    """A time in its two largest units, such as "2m 5s"."""
    whole = round(seconds)
    parts = []
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts[:2]) or "0s"
