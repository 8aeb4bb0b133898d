"""Runs statements of strangers, each in a process of its own that is made for it and then ends.

This is the parent's side: it starts children (projections/query_child.py), gives each its one job,
reads the answer at the reader's pace, and kills what takes too long. It blocks, so an event loop
calls it from threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projections.query_formats import Format

FOLDERS = ".queries"
"""The folder within the lake of the queries' private folders."""
IDLE_S = 300.0
"""A spare child that gets no job for so long ends by itself, and its memory is free."""
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    # Fewer pools of memory, so that the limit on it means something.
    "MALLOC_ARENA_MAX": "2",
    # A thread of numpy's would be there before the walls, which hold for what is started later.
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that a child has in its environment."""
THREADS_MAX = 4
"""A query takes so many threads by itself; it gets more where it is told to."""
PIECE_BYTES = 256 * 1024
MESSAGES_BYTES_MAX = 1024 * 1024
_F_SETPIPE_SZ = 1031
_CHILD = (
    # Loading DuckDB is most of a child's work, so it is not to hold up anybody either.
    "import sys; from projections.sandbox import lower_priority; lower_priority(); "
    "from projections.query_child import main; main(sys.argv[1:])"
)


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


class QueryFault(Exception):
    """A query could not be run for no fault of who asked: a bug, or a folder that is not whole."""


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


class Child:
    """A process that waits for its one job, and its private folder."""

    def __init__(self, folders: Path, limits: QueryLimits, idle_s: float = IDLE_S) -> None:
        self.limits = limits
        self._idle_until = time.monotonic() + idle_s / 2
        self.folder = folders.absolute() / str(uuid.uuid4())
        self.folder.mkdir(parents=True, mode=0o700)
        # Says, also to other processes, that the folder is in use; the system takes it back.
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.control, theirs = os.pipe()
        settings = {
            "memory_mb": limits.memory_mb,
            "threads": limits.threads,
            "cpu_s": int(limits.seconds * limits.threads) + 1,
            "idle_s": idle_s,
            "parent_id": os.getpid(),
        }
        try:
            self.process = subprocess.Popen(
                # -I: nothing of this environment, user or folder changes what is imported. What is
                # compiled is kept: most of these modules are imported by nobody else.
                [sys.executable, "-I", "-c", _CHILD, str(theirs), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=self.folder,
                env=ENVIRONMENT,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self.control)
            self._remove_folder()
            raise
        finally:
            os.close(theirs)
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.process.stdout.fileno(), _F_SETPIPE_SZ, PIECE_BYTES)

    def is_ready(self) -> bool:
        """Whether it waits, and will not soon end because it got no job."""
        return self.process.poll() is None and time.monotonic() < self._idle_until

    def kill(self) -> None:
        """Ends the process now, whatever it does. Any thread may call this."""
        self.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Ends it and removes its folder."""
        self.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.control >= 0:
            os.close(self.control)
            self.control = -1
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


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
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> Child:
        """A child for one job; the caller closes it."""
        while True:
            with self._lock:
                child = self._ready.popleft() if self._ready else None
            if child is None:
                return Child(self._folders, self._limits)
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
            child = Child(self._folders, self._limits)
            with self._lock:
                if not self._closed:
                    self._ready.append(child)
                    continue
            child.close()

    def close(self) -> None:
        """Ends them all."""
        with self._lock:
            self._closed = True
            children = list(self._ready)
            self._ready.clear()
        for child in children:
            child.close()


class RunningQuery:
    """One job on its way through a child. `close` it however it ended."""

    def __init__(self, child: Child, job: Job, declarations: Sequence[str] = ()) -> None:
        """`declarations`: the statements that make tables of the files in the child's folder."""
        self._child = child
        self._job = job
        self._declarations = declarations
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
            }
        ).encode()
        self._send(data)
        while not ({"begun", "done", "failed"} & self._told.keys()):
            self._hear()
        self._check()

    def read(self) -> bytes:
        """The next bytes of the answer; nothing at its end. Raises QueryFailed where it is cut
        short. The time between two calls is the reader's and does not count."""
        output = self._child.process.stdout
        assert output is not None
        self._wait(output.fileno(), select.POLLIN)
        data = os.read(output.fileno(), PIECE_BYTES)
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
        given = self._child.process.stdin
        assert given is not None
        os.set_blocking(given.fileno(), False)
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                self._wait(given.fileno(), select.POLLOUT)
                view = view[os.write(given.fileno(), view[:65_536]) :]
        given.close()

    def _wait(self, fd: int, events: int) -> None:
        started = time.monotonic()
        poll = select.poll()
        poll.register(fd, events)
        ready = poll.poll(max(0.0, self._left_s) * 1000)
        self._left_s -= time.monotonic() - started
        if not ready:
            self.kill()
            raise self._too_long()

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
        code = self._child.process.wait()
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
