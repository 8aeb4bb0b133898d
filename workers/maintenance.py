"""What the maintenance commands share: the views as fresh as the log, and views that are made
beside the live ones and then take their place."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from events.errors import TemporarilyUnavailable
from events.event import Lane, Partition
from events.log import Log
from events.settings import Settings
from projections.database import MAINTENANCE, PROJECTOR, AlreadyRunning, Views
from workers.progress import Progress
from workers.projector import Projector
from workers.stores import Stores, opened_stores

LOG_LEVEL = "warning"
"""What the projector and sealer log besides would be in the way of what a command says."""
COLLECT_EVERY = 100_000
"""New containers after which the garbage collector looks for cycles. A batch of events makes about
as many, and they go without it."""
POLL_S = 0.05
GRACE_S = 1.0
"""A process that was opening the old file when it was replaced is through with that by then."""
STUCK_S = 60.0
"""Another process that holds the projector's lock and folds nothing for so long is stuck."""
BETWEEN_STEPS = 32
"""After so many steps of points they are sealed; they may well fill a segment then."""
STEP_EVENTS: dict[Lane, int] = {"journal": 2_000, "points": 256}


class MaintenanceError(Exception):
    """The command can't go on; the message says why, and what to do."""


@contextlib.contextmanager
def existing_stores(settings: Settings) -> Iterator[Stores]:
    """The stores of these settings; a folder without a log is refused rather than filled."""
    with opened_stores(settings, make=False) as stores:
        yield stores


@contextlib.contextmanager
def maintenance_lock(views: Views) -> Iterator[None]:
    """Holds the right to replace the views: one maintenance command works at a time."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(views.lock(MAINTENANCE))
        except AlreadyRunning:
            raise MaintenanceError(
                f"another gc or rebuild is at work on {views.name}: wait until it is done"
            ) from None
        yield


def fold_to_head(log: Log, views: Views, label: str = "folding") -> None:
    """Sees to it that the views have folded all that the log holds now.

    Where a server runs its projector does it; where none does, this process folds.
    """
    heads = log.heads()
    moved_at = time.monotonic()
    folded = -1
    progress: Progress | None = None
    while True:
        with contextlib.suppress(AlreadyRunning), views.lock(PROJECTOR):
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

    `between` is called before points are folded, and now and then meanwhile, to keep what piles up
    small. Raises MaintenanceError where an event can't be folded.
    """
    progress = Progress(label, _missing(targets, views), "events")
    projector = Projector(log, views)
    steps = 0
    for partition in (one for one in log.partitions() if one in targets):
        target = targets[partition]
        while (missing := target - views.checkpoints()[partition].position) > 0:
            # What the journal brings of points is little; it can wait for the other lane's.
            if partition.lane == "points":
                if steps % BETWEEN_STEPS == 0:
                    between()
                steps += 1
            limit = min(missing, STEP_EVENTS[partition.lane])
            count = projector.step(partition, limit, target)
            if count == 0:
                _refuse_stopped(views)
                if log.head(partition) > target:
                    # Positions may have gaps: between here and there is no event.
                    break
                raise MaintenanceError(f"the log ends before {partition} {target}")
            progress.add(count)
    progress.finish()


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


def publish(log: Log, made: Views, live: Views) -> None:
    """Puts views that were made beside the live ones in their place.

    The live ones answer until then. The last events are folded while their projector is held, so
    that a reader never sees less than it saw.
    """
    while _behind(log, made) > sum(STEP_EVENTS.values()):
        Projector(log, made).catch_up()
        _refuse_stopped(made)
    with live.write() as connection, _refusing():
        Projector(log, made).catch_up()
        reached, before = made.checkpoints(), live.checkpoints()
        for one in log.partitions():
            if reached[one].position < before[one].position:
                raise MaintenanceError(
                    f"the new views came to {one} {reached[one].position}, the live ones are at "
                    f"{before[one].position}: {reached[one].stopped or 'they were not replaced'}"
                )
        live.put_in_place(made, connection)
    live.close()
    time.sleep(GRACE_S)
    live.remove_replaced()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except AlreadyRunning as error:
        raise MaintenanceError(str(error)) from error


def _behind(log: Log, views: Views) -> int:
    return _missing(log.heads(), views)


def _missing(targets: Mapping[Partition, int], views: Views) -> int:
    """How many events at most are not folded yet of those up to these positions."""
    checkpoints = views.checkpoints()
    return sum(max(0, targets[one] - checkpoints[one].position) for one in targets)
