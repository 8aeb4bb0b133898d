"""Wake-ups between processes: a byte in a pipe. A hint only; who is woken looks for itself."""

from __future__ import annotations

import os
from collections.abc import Callable


def wake(pipe_fd: int | None) -> Callable[[], None]:
    """A call that puts a byte into a pipe; a full pipe has woken its reader already."""
    if pipe_fd is None:
        return lambda: None
    os.set_blocking(pipe_fd, False)

    def write() -> None:
        try:
            os.write(pipe_fd, b"!")
        except (BlockingIOError, BrokenPipeError):
            return

    return write
