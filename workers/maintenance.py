"""What the maintenance commands share: the views as fresh as the log, and views that are made
beside the live ones and then take their place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from events.errors import TemporarilyUnavailable
from events.event import Lane, Partition
from events.log import Log
from events.settings import Settings
from events.sqlite import open_engine
from projections.database import SIDE_FILES, Views, make_empty, put_in_place, remove_replaced
from workers.progress import Progress
from workers.projector import AlreadyRunning, Projector, projector_lock
from workers.stores import Stores, opened_stores

LOG_LEVEL = "warning"
"""What the projector and sealer log besides would be in the way of what a command says."""
POLL_S = 0.05
GRACE_S = 1.0
"""A process that was opening the old file when it was replaced is through with that by then."""
STUCK_S = 60.0
"""Another process that holds the projector's lock and folds nothing for so long is stuck."""
BETWEEN_STEPS = 20
STEP_EVENTS: dict[Lane, int] = {"journal": 2_000, "points": 256}


class MaintenanceError(Exception):
    """The command can't go on; the message says why, and what to do."""


@contextlib.contextmanager
def existing_stores(settings: Settings) -> Iterator[Stores]:
    """The stores of these settings; a folder without a log is refused rather than filled."""
    if not settings.log_path.exists():
        raise MaintenanceError(
            f"there is no log at {settings.log_path}: give --home or --log-uri as to the server"
        )
    with opened_stores(settings) as stores:
        yield stores


@contextlib.contextmanager
def maintenance_lock(views_path: Path) -> Iterator[None]:
    """Holds the right to replace the views: one maintenance command works at a time."""
    views_path.parent.mkdir(parents=True, exist_ok=True)
    path = views_path.with_name(views_path.name + ".maintenance.lock")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaintenanceError(
                "another gc or rebuild is at work on this folder: wait until it is done"
            ) from None
        yield
    finally:
        os.close(handle)


def fold_to_head(log: Log, views: Views, label: str = "folding") -> None:
    """Sees to it that the views have folded all that the log holds now.

    Where a server runs its projector does it; where none does, this process folds.
    """
    heads = heads_of(log)
    moved_at = time.monotonic()
    folded = -1
    progress: Progress | None = None
    while True:
        with contextlib.suppress(AlreadyRunning), projector_lock(views.path):
            _fold_here(log, views, label)
            return
        with contextlib.suppress(TemporarilyUnavailable):
            checkpoints = views.checkpoints()
            if all(checkpoints[one].position >= heads[one] for one in heads):
                views.require_current()
                if progress is not None:
                    progress.finish()
                return
            _refuse_stopped(views)
            now = sum(min(checkpoints[one].position, heads[one]) for one in heads)
            if progress is None:
                progress = Progress(label, sum(heads.values()) - now, "events")
            elif now > folded:
                progress.add(now - folded)
            if now > folded:
                folded, moved_at = now, time.monotonic()
        if time.monotonic() - moved_at > STUCK_S:
            raise MaintenanceError(
                "the server's projector has folded nothing for a minute: see /health and its log"
            )
        time.sleep(POLL_S)


def _fold_here(log: Log, views: Views, label: str) -> None:
    views.create()
    progress = Progress(label, _behind(log, views), "events")
    Projector(log, views).catch_up(progress.add)
    progress.finish()
    _refuse_stopped(views)


def fold_up_to(
    log: Log,
    views: Views,
    targets: Mapping[Partition, int],
    label: str,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Folds views that nobody else folds up to these positions and no further, the journal first.

    `between` is called now and then, to keep what piles up small. Raises MaintenanceError where an
    event can't be folded.
    """
    progress = Progress(label, _missing(targets, views), "events")
    projector = Projector(log, views)
    steps = 0
    for partition in (one for one in log.partitions() if one in targets):
        target = targets[partition]
        while (missing := target - views.checkpoints()[partition].position) > 0:
            limit = min(missing, STEP_EVENTS[partition.lane])
            count = projector.step(partition, limit, target)
            if count == 0:
                _refuse_stopped(views)
                if log.head(partition) > target:
                    # Positions may have gaps: between here and there is no event.
                    break
                raise MaintenanceError(f"the log ends before {partition} {target}")
            progress.add(count)
            steps += 1
            # What the journal brings of points is little; it can wait for the other lane's.
            if partition.lane == "points" and steps % BETWEEN_STEPS == 0:
                between()
    progress.finish()


def heads_of(log: Log) -> dict[Partition, int]:
    """Where the log stands."""
    return {partition: log.head(partition) for partition in log.partitions()}


def folded_to(log: Log, views: Views) -> dict[Partition, int]:
    """How far the log is folded into these views."""
    checkpoints = views.checkpoints()
    return {partition: checkpoints[partition].position for partition in log.partitions()}


def _refuse_stopped(views: Views) -> None:
    for checkpoint in views.checkpoints().values():
        if checkpoint.stopped is not None:
            raise MaintenanceError(
                f"folding has stopped at {checkpoint.stopped}: the views are not whole, so nothing "
                "is done with them"
            )


@contextlib.contextmanager
def scratch_path(live: Path) -> Iterator[Path]:
    """A path beside the live views for ones that are being made; what is left there goes.

    Files of makers that were killed go too: their locks are free.
    """
    for lock in live.parent.glob(f"{live.name}.making-*.lock"):
        with _try_lock(lock) as held:
            if held:
                _remove(lock.with_suffix(""))
                lock.unlink(missing_ok=True)
    path = live.with_name(f"{live.name}.making-{secrets.token_hex(4)}")
    lock = path.with_name(path.name + ".lock")
    with _try_lock(lock):
        try:
            yield path
        finally:
            _remove(path)
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def empty_views(path: Path, log: Log) -> Views:
    """Views at this path that nothing is folded into yet, without the indexes for searches."""
    views = Views(path, log.identity.log_id, being_made=True)
    make_empty(path, views.fingerprint, for_search=False)
    return views


def copy_views(live: Views, path: Path, log: Log) -> Views:
    """A copy of the views without a trace of what was deleted from them, at this path."""
    engine = open_engine(live.path, synchronous="NORMAL")
    try:
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("VACUUM INTO ?", (str(path),))
            cursor.close()
        finally:
            connection.close()
    finally:
        engine.dispose()
    return Views(path, log.identity.log_id)


def publish(log: Log, made: Views, live: Views) -> None:
    """Puts views that were made beside the live ones in their place.

    The live ones answer until then. The last events are folded while their projector is held, so
    that a reader never sees less than it saw.
    """
    while _behind(log, made) > sum(STEP_EVENTS.values()):
        Projector(log, made).catch_up()
        _refuse_stopped(made)
    with live.write():
        Projector(log, made).catch_up()
        reached, before = made.checkpoints(), live.checkpoints()
        for one in log.partitions():
            if reached[one].position < before[one].position:
                raise MaintenanceError(
                    f"the new views came to {one} {reached[one].position}, the live ones are at "
                    f"{before[one].position}: {reached[one].stopped or 'they were not replaced'}"
                )
        make_whole(made)
        put_in_place(made.path, live.path)
    live.close()
    time.sleep(GRACE_S)
    remove_replaced(live.path)


def _behind(log: Log, views: Views) -> int:
    return _missing(heads_of(log), views)


def _missing(targets: Mapping[Partition, int], views: Views) -> int:
    """How many events at most are not folded yet of those up to these positions."""
    checkpoints = views.checkpoints()
    return sum(max(0, targets[one] - checkpoints[one].position) for one in targets)


def make_whole(views: Views) -> None:
    """Closes views so that their one file has everything, on the disk."""
    views.close()
    engine = open_engine(views.path, synchronous="NORMAL")
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        busy = (cursor.fetchone() or (1,))[0]
        cursor.close()
    finally:
        connection.close()
        engine.dispose()
    if busy:
        raise MaintenanceError(f"{views.path} is in use by another process")
    opened = os.open(views.path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
