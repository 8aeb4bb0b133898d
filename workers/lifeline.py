"""Ends a child process when its supervisor is gone, however that went."""

from __future__ import annotations

import os
import threading

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
