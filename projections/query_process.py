"""Runs statements of strangers, each in a process of its own that is made for it and then ends.

This is the parent's side: it has children made (projections/query_child.py), gives each its one
job, reads the answer at the reader's pace, and kills what takes too long. It blocks, so an event
loop calls it from threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import select
import shutil
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projections.query_forks import IDLE_S, Forks, QueryFault
from projections.query_formats import Format

FOLDERS = ".queries"
"""The folder within the lake of the queries' private folders."""
THREADS_MAX = 4
"""A query takes so many threads by itself; it gets more where it is told to."""
PIECE_BYTES = 256 * 1024
MESSAGES_BYTES_MAX = 1024 * 1024
RUN_S = REST_S = 0.05
"""A query that gives way rests so long after it has run so long."""
_F_SETPIPE_SZ = 1031


class QueryFailed(Exception):
    """A query has no answer, or not all of it: the message is for whoever asked."""

    def __init__(
        self,
        message: str,
        *,
        is_limit: bool = False,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.is_limit = is_limit
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one query may use."""

    memory_mb: int = 1_024
    threads: int = 1
    seconds: float = 60.0
    rows: int = 10_000_000


def threads_for(wanted: int) -> int:
    """The threads of a query by the setting: 0 stands for the processors that there are.

    They come after everything else on the machine, so they are not taken from anybody.
    """
    return wanted or min(len(os.sched_getaffinity(0)), THREADS_MAX)


@dataclass(frozen=True, slots=True)
class Job:
    """What a query is asked."""

    statement: str
    parameters: Any = None
    """A list, a dict by name, or None."""
    format: Format = "json"
    max_rows: int | None = None
    """The caller's bound: further rows are left out and the answer says so."""
    threads_max: int | None = None
    """It takes no more, however many the limits allow."""


class Child:
    """A process that waits for its one job, and its private folder."""

    def __init__(
        self, forks: Forks, folders: Path, limits: QueryLimits, idle_s: float = IDLE_S
    ) -> None:
        self.limits = limits
        self._idle_until = time.monotonic() + idle_s / 2
        self.folder = folders.absolute() / str(uuid.uuid4())
        self.folder.mkdir(parents=True, mode=0o700)
        # Says, also to other processes, that the folder is in use; the system takes it back.
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        its_input, self.given = os.pipe()
        self.output, its_output = os.pipe()
        self.control, its_control = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.output, _F_SETPIPE_SZ, PIECE_BYTES)
        settings = {
            "folder": str(self.folder),
            "memory_mb": limits.memory_mb,
            "threads": limits.threads,
            "cpu_s": int(limits.seconds * limits.threads) + 1,
            "idle_s": idle_s,
        }
        theirs = (its_input, its_output, its_control)
        try:
            self.process = forks.fork(settings, theirs)
        except BaseException:
            self._close_files()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def is_ready(self) -> bool:
        """Whether it waits, and will not soon end because it got no job."""
        return self.process.is_alive() and time.monotonic() < self._idle_until

    def kill(self) -> None:
        """Ends the process now, whatever it does. Any thread may call this."""
        self.process.kill()

    def close(self) -> None:
        """Ends it and removes its folder."""
        self.process.close()
        self._close_files()

    def close_given(self) -> None:
        """Says that it has been given all that it gets."""
        if self.given >= 0:
            os.close(self.given)
            self.given = -1

    def _close_files(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close_given()
        for fd in (self.output, self.control, self._lock):
            if fd >= 0:
                os.close(fd)
        self.output = self.control = self._lock = -1


def sweep(folders: Path) -> int:
    """Removes the folders of queries whose parent is gone; how many they were."""
    removed = 0
    for folder in folders.glob("*"):
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        except BlockingIOError:
            continue
        finally:
            os.close(opened)
    return removed


class Spares:
    """Children that are ready, so that a query need not wait for one to start.

    The first is made when the first query has come: a server that is asked none pays nothing.
    """

    def __init__(self, folders: Path, limits: QueryLimits, count: int) -> None:
        self._folders = folders
        self._limits = limits
        self._count = count
        self._ready: deque[Child] = deque()
        self._forks = Forks()
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> Child:
        """A child for one job; the caller closes it."""
        while True:
            with self._lock:
                child = self._ready.popleft() if self._ready else None
            if child is None:
                return Child(self._forks, self._folders, self._limits)
            if child.is_ready():
                return child
            child.close()

    def count(self) -> int:
        """How many stand ready."""
        return len(self._ready)

    def refill(self) -> None:
        """Starts what is missing. It takes a few milliseconds; the child gets ready by itself."""
        with self._lock:
            gone = [child for child in self._ready if not child.is_ready()]
            for child in gone:
                self._ready.remove(child)
            missing = 0 if self._closed else self._count - len(self._ready)
        for child in gone:
            child.close()
        for _ in range(missing):
            child = Child(self._forks, self._folders, self._limits)
            with self._lock:
                if not self._closed:
                    self._ready.append(child)
                    continue
            child.close()

    def close(self) -> None:
        """Ends them all, and those that were taken."""
        with self._lock:
            self._closed = True
            children = list(self._ready)
            self._ready.clear()
        for child in children:
            child.close()
        self._forks.close()


class RunningQuery:
    """One job on its way through a child. `close` it however it ended."""

    def __init__(
        self,
        child: Child,
        job: Job,
        declarations: Sequence[str] = (),
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        """`declarations`: the statements that make tables of the files in the child's folder.
        `gives_way`: whether it is to leave half of its time to others just now."""
        self._child = child
        self._job = job
        self._declarations = declarations
        self._gives_way = gives_way
        self._ran_s = 0.0
        """For how long, since it rested."""
        self._messages = b""
        self._left_s = child.limits.seconds
        self._told: dict[str, Any] = {}
        self.truncated = False
        self.rows: int | None = None
        """How many rows the answer has, once it has ended."""

    def begin(self) -> None:
        """Gives the child its job and waits for the first bytes, or for the end.

        Raises QueryFailed where it failed before anything was sent.
        """
        job, limits = self._job, self._child.limits
        data = json.dumps(
            {
                "statement": job.statement,
                "folder": str(self._child.folder),
                "declarations": list(self._declarations),
                "parameters": job.parameters,
                "format": job.format,
                "max_rows": job.max_rows,
                "rows_max": limits.rows,
                "threads": min(limits.threads, job.threads_max or limits.threads),
            }
        ).encode()
        self._send(data)
        while not ({"begun", "done", "failed"} & self._told.keys()):
            self._hear()
        self._check()

    def read(self) -> bytes:
        """The next bytes of the answer; nothing at its end. Raises QueryFailed where it is cut
        short. The time between two calls is the reader's and does not count."""
        output = self._child.output
        self._wait(output, select.POLLIN)
        data = os.read(output, PIECE_BYTES)
        if not data:
            while not ({"done", "failed"} & self._told.keys()):
                self._hear()
            self._check()
        return data

    def kill(self) -> None:
        """Ends the query: who waits for it gets QueryFailed. Any thread may call this."""
        self._child.kill()

    def close(self) -> None:
        """Ends the process and removes its folder."""
        self._child.close()

    def _send(self, data: bytes) -> None:
        given = self._child.given
        os.set_blocking(given, False)
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                self._wait(given, select.POLLOUT)
                view = view[os.write(given, view[:65_536]) :]
        self._child.close_given()

    def _wait(self, fd: int, events: int) -> None:
        started = time.monotonic()
        poll = select.poll()
        poll.register(fd, events)
        until = started + self._left_s
        while not self._is_ready(poll, until):
            if time.monotonic() >= until:
                self.kill()
                raise self._too_long()
        self._left_s -= time.monotonic() - started

    def _is_ready(self, poll: select.poll, until: float) -> bool:
        """Lets the child run for a while, which ends when there is something to read or write."""
        if self._ran_s >= RUN_S:
            self._ran_s = 0.0
            if self._gives_way():
                with self._child.process.stopped():
                    time.sleep(REST_S)
        started = time.monotonic()
        wait_s = max(0.0, min(RUN_S - self._ran_s, until - started))
        ready = poll.poll(math.ceil(wait_s * 1000))
        self._ran_s += time.monotonic() - started
        return bool(ready)

    def _too_long(self) -> QueryFailed:
        seconds = self._child.limits.seconds
        return QueryFailed(
            f"The query took longer than {seconds:g} seconds, the most that this server gives "
            "one, and was ended. Ask for less, or ask for parts of it.",
            is_limit=True,
        )

    def _hear(self) -> None:
        """Takes in what the child tells."""
        self._wait(self._child.control, select.POLLIN)
        data = os.read(self._child.control, 65_536)
        if not data:
            raise self._ended()
        self._messages += data
        if len(self._messages) > MESSAGES_BYTES_MAX:
            self.kill()
            raise QueryFailed("The query's process did not keep to its protocol.")
        *lines, self._messages = self._messages.split(b"\n")
        for line in lines:
            self._told.update(json.loads(line))

    def _ended(self) -> Exception:
        code = self._child.process.exit_code()
        if code is None:
            return QueryFault("the process that started the query's process has ended")
        if code >= 0:
            return QueryFault(f"the query's process ended with {code}")
        if -code == signal.SIGXCPU or (-code == signal.SIGKILL and self._left_s <= 0):
            return self._too_long()
        # Killed by the limit on processor time, which says SIGKILL where soft and hard are one.
        memory_mb = self._child.limits.memory_mb
        return QueryFailed(
            f"The query ended its process (code {code}): it needed more than the {memory_mb} MB of "
            "memory or the processor time that this server gives one, or was nested too deeply.",
            is_limit=True,
        )

    def _check(self) -> None:
        told = self._told
        if told.get("failed") == "fault":
            raise QueryFault(told["message"])
        if "failed" in told:
            raise QueryFailed(
                told["message"],
                is_limit=told["failed"] == "limit",
                line=told.get("line"),
                column=told.get("column"),
            )
        if "done" in told:
            self.rows, self.truncated = told["rows"], told["truncated"]
