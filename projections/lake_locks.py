"""Who may write and delete a generation's files of the lake.

Each generation of views has a lock. Where the views are a file of this machine it is a file of the
lake's folder; where they are on a server, which sealers of several machines use, it is there.

On a server a lock ends with its connection, also while its holder is at work. So no promise stands
on it alone: the transaction that makes a file part of the views checks what it was made from, and a
sweep lets files be that are so young that somebody may be about to name them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from projections.database import AlreadyRunning
from projections.lake import Lake
from projections.segments import ViewsDatabase

LOCK = ".lock-"
POLL_S = 0.2
YOUNG_S = 3600.0


def sweeps_older_s(views: ViewsDatabase) -> float:
    """How long ago a file that the views don't know must have been written to be a left one."""
    return YOUNG_S if views.is_on_server else 0.0


def generation_lock(
    views: ViewsDatabase, lake: Lake, generation: str, *, wait: bool = True
) -> AbstractContextManager[bool]:
    """Holds the right to write and delete a generation's files; it ends with the process. Gives
    False where another has it and `wait` is off."""
    if views.is_on_server:
        return server_lock(views, generation, wait=wait)
    return folder_lock(lake.folder, generation, wait=wait)


@contextlib.contextmanager
def server_lock(views: ViewsDatabase, generation: str, *, wait: bool) -> Iterator[bool]:
    """The lock on the views' server, for sealers of several machines."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(views.lock(f"lake {generation}"))
                break
            except AlreadyRunning:
                if not wait:
                    yield False
                    return
            time.sleep(POLL_S)
        yield True


@contextlib.contextmanager
def folder_lock(folder: Path, generation: str, *, wait: bool = True) -> Iterator[bool]:
    """The lock in the lake's folder, for processes of one machine."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{LOCK}{generation}"
    mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(opened, mode)
            except BlockingIOError:
                yield False
                return
            # A sweep may have removed the file between the two calls: then it locks nobody out.
            if not path.exists() or path.stat().st_ino != os.fstat(opened).st_ino:
                continue
            yield True
            return
        finally:
            os.close(opened)


def locked_generations(lake: Lake) -> set[str]:
    """The generations that ever had a lock in this lake, and still have its file."""
    return {path.name.removeprefix(LOCK) for path in lake.folder.glob(f"{LOCK}*")}
