"""How a worker learns that it is to end: told by a signal, or its supervisor is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

ORPHANED = 96
"""The exit code of a child whose supervisor died."""


def end_with_parent(lifeline_fd: int | None) -> None:
    """Watches a pipe whose writing end only the supervisor holds.

    At its end the process exits at once: what was acknowledged is durable, what was not is the
    client's to repeat, and a new server wants the port.
    """
    if lifeline_fd is None:
        return

    def watch(fd: int) -> None:
        while os.read(fd, 1):
            pass
        os._exit(ORPHANED)

    threading.Thread(target=watch, args=(lifeline_fd,), name="lifeline", daemon=True).start()


def when_told_to_stop(end: Callable[[], None], *, is_child: bool) -> None:
    """Calls `end` at SIGTERM, and at Ctrl-C: that reaches every process of a terminal, but the
    children of a server are ended by it, in their turn."""

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        end()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN if is_child else on_signal)
