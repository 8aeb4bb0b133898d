"""The program that forks a process for each query, so that none need load DuckDB by itself.

It never sees a statement or a row, and has one thread: what it forks is as if it had just been
started. It ends when its parent is gone, and its children end with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
from collections.abc import Sequence
from typing import NoReturn

from projections import query_child
from projections.query_forks import EXIT_CODE
from projections.sandbox import lower_session

MESSAGE_MAX = 65_536
CONTROL_FD = 3
"""Where a query's process tells its parent how it goes, behind standard input, output and error."""


class _Forker:
    """Answers each message with a process."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._poll = select.poll()
        self._poll.register(door, select.POLLIN)
        self._running: dict[int, tuple[int, int]] = {}
        """By the handle: the number, and where the exit code is awaited."""

    def serve(self, idle_s: float) -> None:
        """Returns when the parent is gone, or when nothing was asked and nothing ran for long."""
        while ready := self._poll.poll(None if self._running else 1000 * idle_s):
            for fd, _ in ready:
                if fd != self._door.fileno():
                    self._bury(fd)
                elif not self._answer():
                    return

    def _answer(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._door, MESSAGE_MAX, 4)
        if not message:
            return False
        *given, ended = fds
        parent_id = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._door.send(f"it can't fork: {error}".encode())
            os.close(ended)
        else:
            if pid == 0:
                _become(message, given, parent_id)
            handle = os.pidfd_open(pid)
            self._running[handle] = (pid, ended)
            self._poll.register(handle, select.POLLIN)
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(self._door, [str(pid).encode()], [handle])
        for fd in given:
            os.close(fd)
        return True

    def _bury(self, handle: int) -> None:
        pid, ended = self._running.pop(handle)
        self._poll.unregister(handle)
        os.close(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(ended, EXIT_CODE.pack(code))
        os.close(ended)


def _become(message: bytes, fds: Sequence[int], parent_id: int) -> NoReturn:
    """Makes a query's process of one that was just forked: it has what it is given here of the
    forker's files, and no other."""
    try:
        for fd, place in zip(fds, (0, 1, CONTROL_FD), strict=True):
            os.dup2(fd, place)
        os.closerange(CONTROL_FD + 1, os.sysconf("SC_OPEN_MAX"))
        # A session of its own: its share of the processor does not depend on other queries.
        os.setsid()
        lower_session()
        settings = json.loads(message)
        os.chdir(settings["folder"])
        query_child.main(CONTROL_FD, settings, parent_id)
    finally:
        # Never back to the forker's loop, whatever happened.
        os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Runs the program: the arguments are the number of the socket to the parent, and how many
    seconds it waits for a message."""
    # What is there by now stays, so that no child copies it to look for what is not needed.
    gc.freeze()
    with socket.socket(fileno=int(arguments[0])) as door:
        _Forker(door).serve(float(arguments[1]))
