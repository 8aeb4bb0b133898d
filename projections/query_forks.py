"""Starts processes for queries by forking one that has loaded all that they need.

This is the parent's side: it starts that process, the forker (projections/query_forker.py), when
the first query comes, again when it has died, and asks it for processes. They are the forker's
children, so they are held by handles: a number could be another process's by now.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

IDLE_S = 300.0
"""A forker that nothing is asked of for so long, and a process that gets no job, end by themselves
and their memory is free."""
REPLY_MAX_S = 60.0
"""A forker that takes longer is taken for stuck, and is replaced."""
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    # Fewer pools of memory, so that the limit on it means something.
    "MALLOC_ARENA_MAX": "2",
    # A thread of numpy's would be there before the walls, which hold for what is started later.
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that the forker, and so a query's process, has in its environment."""
EXIT_CODE = struct.Struct("=i")
"""How the forker tells what a process ended with."""
_TRIES = 2
_FORKER = (
    # Loading DuckDB is most of its work, so it is not to hold up anybody either.
    "import sys; from projections.sandbox import lower_priority; lower_priority(); "
    "from projections.query_forker import main; main(sys.argv[1:])"
)


class QueryFault(Exception):
    """A query could not be run for no fault of who asked: a bug, or a folder that is not whole."""


class Forked:
    """A process that the forker has made. Any thread may ask of it; `close` it in the end."""

    def __init__(self, pid: int, handle: int, ended: int) -> None:
        """`ended`: the end of a pipe that gives its exit code."""
        self.pid = pid
        self._handle = handle
        self._ended = ended
        self._lock = threading.Lock()

    def is_alive(self) -> bool:
        """Whether it runs."""
        with self._lock:
            return self._handle >= 0 and not _readable(self._handle, 0)

    def kill(self) -> None:
        """Ends it now, whatever it does."""
        self._signal(signal.SIGKILL)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing meanwhile; it can be killed."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)

    def exit_code(self) -> int | None:
        """Waits for its end: its exit code, less than 0 for a signal. None: the forker is gone and
        can't tell."""
        data = os.read(self._ended, EXIT_CODE.size)
        return int(EXIT_CODE.unpack(data)[0]) if data else None

    def close(self) -> None:
        """Ends it, and returns when it has ended."""
        self.kill()
        if self._handle >= 0:
            _readable(self._handle, None)
        with self._lock:
            for fd in (self._handle, self._ended):
                if fd >= 0:
                    os.close(fd)
            self._handle = self._ended = -1


def _readable(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))


class Forks:
    """The forker, which is started when it is needed. Any thread may use it."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The forker's number, once there is one."""
        return None if self._process is None else self._process.pid

    def warm(self) -> None:
        """Starts the forker, which gets ready by itself, before it is needed."""
        with self._lock:
            self._opened()

    def fork(self, settings: dict[str, Any], fds: Sequence[int]) -> Forked:
        """A process of its own: what it reads, what it writes and what it tells its parent with
        are `fds`, in this order. Raises QueryFault where none can be had."""
        message = json.dumps(settings).encode()
        reading, writing = os.pipe()
        try:
            with self._lock:
                pid, handle = self._ask(message, [*fds, writing])
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return Forked(pid, handle, reading)

    def _ask(self, message: bytes, fds: list[int]) -> tuple[int, int]:
        problem = "it ended"
        for _ in range(_TRIES):
            try:
                door = self._opened()
                socket.send_fds(door, [message], fds)
                reply, handles, _, _ = socket.recv_fds(door, 1_000, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                problem = str(error)
            else:
                if handles:
                    return int(reply), handles[0]
                problem = reply.decode(errors="replace") or problem
            # It has ended, also because nothing was asked of it for long, or it can't fork.
            self._end()
        raise QueryFault(f"no process can be started for a query: {problem}")

    def _opened(self) -> socket.socket:
        if self._closed:
            raise QueryFault("no process can be started for a query: the server ends")
        if self._door is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                ours.settimeout(REPLY_MAX_S)
                self._door = ours
                self._process = subprocess.Popen(
                    # -I: nothing of this environment, user or folder changes what is imported.
                    # What is compiled is kept: most of it is imported by nobody else.
                    [sys.executable, "-I", "-c", _FORKER, str(theirs.fileno()), str(self._idle_s)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=ENVIRONMENT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        return self._door

    def _end(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Ends the forker, and so every process that it has made."""
        with self._lock:
            self._closed = True
            self._end()
