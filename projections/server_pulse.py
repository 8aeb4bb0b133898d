"""Tells a database server that is busy from one that is away without a word.

A server that was stopped, or whose network is gone, refuses nothing: who waits for its answer waits
for ever. How long an answer may take can't be said, for some questions are large. So who has waited
for a while has a new connection asked whether anybody is there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

SILENCE_S = 2.0
"""How long an answer may take before the server is asked whether it is there; again after each."""
GREETING_S = 3
"""How long it may take to greet a new connection."""
PATIENCE_S = 30
"""How long a server may pause within an answer that it has begun."""
FRESH_S = 0.5
"""For how long one who waits goes by what another was told."""


class Pulse:
    """Whether a server was there when it was last asked; one for all connections to it."""

    def __init__(self, greet: Callable[[], None]) -> None:
        """`greet` opens a connection and closes it; it raises after GREETING_S at the latest."""
        self._greet = greet
        self._asking = threading.Lock()
        self._asked_at = 0.0
        self._away_until = 0.0
        self._away: str | None = None

    def away(self) -> str | None:
        """Why there is no use in asking it anything now; None where nothing is known against it.

        Where it was away one caller at a time finds out whether it is back, and the others are
        told at once."""
        why = self._away
        if why is None or time.monotonic() < self._away_until:
            return why
        if not self._asking.acquire(blocking=False):
            return why
        try:
            return self._ask()
        finally:
            self._asking.release()

    def lost(self) -> str | None:
        """For who has waited for SILENCE_S: why to wait no longer; None where the server is there,
        and only takes its time."""
        with self._asking:
            if time.monotonic() < self._asked_at + FRESH_S:
                return self._away
            return self._ask()

    @contextlib.contextmanager
    def greeting(self) -> Iterator[None]:
        """Around what opens a connection: where that raises, the server was away."""
        started = time.monotonic()
        why: str | None = "it was interrupted"
        try:
            yield
            why = None
        except Exception as error:
            why = str(error).strip() or type(error).__name__
            raise
        finally:
            self._asked_at = time.monotonic()
            # A server that refuses says so at once, and can be asked again at once.
            self._away_until = self._asked_at + min(self._asked_at - started, GREETING_S)
            self._away = why

    def _ask(self) -> str | None:
        with contextlib.suppress(Exception), self.greeting():
            self._greet()
        return self._away
