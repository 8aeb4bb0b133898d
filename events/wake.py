"""Wake-ups between processes: a byte in a pipe. A hint only; who is woken looks for itself."""

from __future__ import annotations

import os
from collections.abc import Callable

GROWN = b"."
"""There is something new; there is time."""
WAITED_FOR = b"!"
"""Somebody waits for what is new to be folded."""


def wake(pipe_fd: int | None) -> Callable[[bytes], None]:
    """A call that puts a byte into a pipe; a full pipe has woken its reader already."""
    if pipe_fd is None:
        return lambda _byte: None
    os.set_blocking(pipe_fd, False)

    def write(byte: bytes) -> None:
        try:
            os.write(pipe_fd, byte)
        except (BlockingIOError, BrokenPipeError):
            return

    return write
