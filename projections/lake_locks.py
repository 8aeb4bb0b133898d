"""Who may write and delete a generation's files of the lake.

Each generation of views has a lock. Where the views are a file of this machine it is a file of the
lake's folder, or of theirs where the lake is in S3; where they are on a server, which sealers of
several machines use, it is there.

On a server a lock ends with its connection, also while its holder is at work. So no promise stands
on it alone: the transaction that makes a file part of the views checks what it was made from, and a
sweep lets files of the live views be that are so young that somebody may be about to name them.
Views that are being made are given up where their lock is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from projections.database import AlreadyRunning
from projections.lake import Lake
from projections.segments import ViewsDatabase

LOCK = ".lock-"
POLL_S = 0.2
YOUNG_S = 3600.0


def young_s(views: ViewsDatabase) -> float:
    """How long a file that the views don't know may be one that somebody is about to name."""
    return YOUNG_S if views.is_on_server else 0.0


def generation_lock(
    views: ViewsDatabase,
    lake: Lake,
    generation: str,
    *,
    wait: bool = True,
    lost: Callable[[], None] = lambda: None,
) -> AbstractContextManager[bool]:
    """Holds the right to write and delete a generation's files; it ends with the process. Gives
    False where another has it and `wait` is off. `lost` is called from another thread where the
    lock ends by itself."""
    if views.is_on_server:
        return server_lock(views, generation, wait, lost)
    return folder_lock(_folder(views, lake), generation, wait=wait)


def _folder(views: ViewsDatabase, lake: Lake) -> Path:
    """Where the locks are: in the lake, or where only copies of it are here, beside the views. A
    container may have a folder for the copies to itself."""
    return views.folder if lake.is_remote and views.folder is not None else lake.folder


@contextlib.contextmanager
def server_lock(
    views: ViewsDatabase, generation: str, wait: bool, lost: Callable[[], None]
) -> Iterator[bool]:
    """The lock on the views' server, for sealers of several machines."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(views.lock(f"lake {generation}", 0.0, lost))
                break
            except AlreadyRunning:
                if not wait:
                    yield False
                    return
            time.sleep(POLL_S)
        yield True


@contextlib.contextmanager
def folder_lock(folder: Path, generation: str, *, wait: bool = True) -> Iterator[bool]:
    """The lock in a folder, for processes of one machine."""
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


def locked_generations(views: ViewsDatabase, lake: Lake) -> set[str]:
    """The generations that ever had a lock in a folder, and still have its file."""
    return {path.name.removeprefix(LOCK) for path in _folder(views, lake).glob(f"{LOCK}*")}


def remove_lock(views: ViewsDatabase, lake: Lake, generation: str) -> None:
    """Deletes the lock's file of a generation that is gone; for who holds it."""
    (_folder(views, lake) / f"{LOCK}{generation}").unlink(missing_ok=True)
