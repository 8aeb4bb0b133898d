"""`runfold worker projector`: folds the log into the views. It never loads DuckDB.

One is active and others stand by; but for points in partitions, which are shared out. Without the
pipes of `runfold server` a projector looks at the log by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import click
import structlog

from events.blobs import BlobStore
from events.errors import RunfoldError, TemporarilyUnavailable
from events.event import JOURNAL, Partition
from events.log import LogError, PointsShare
from events.places import SettingError
from events.wake import GROWN, wake
from projections.database import PROJECTOR
from projections.same_log import remember_log, require_within
from workers.options import server_options
from workers.projector import Projector
from workers.shares import Shares
from workers.stores import Stores, opened_stores
from workers.worker_process import WorkerProcess, worker_options

logger = structlog.get_logger(__name__)

SWEEP_UPLOADS_S = 6 * 3600.0
OWN_EVENTS = 1
"""The default experiment's is there before anybody logs anything."""


@click.command("projector")
@click.option("--wake-fd", type=int, hidden=True, help="Gives a byte when the log has grown.")
@click.option("--notify-fd", type=int, hidden=True, help="Gets one when something was folded.")
@click.option("--sealer-fd", type=int, hidden=True, help="Gets one once the sealer has work.")
@worker_options
@server_options
def projector_command(
    wake_fd: int | None, notify_fd: int | None, sealer_fd: int | None, **options: Any
) -> None:
    """Fold the log into the views.

    Of many that run on the same views one folds, and the others stand by to take over. Where the
    log is on Kafka all of them share out the partitions of points, and one folds the journal too.
    """
    process = WorkerProcess("projector", options)
    try:
        with opened_stores(process.settings, with_lake=False) as s:
            # A server has one projector, whose partitions need not wait for the end of its session
            # when it is started again.
            share = s.log.share_points() if process.is_alone else None
            if share is not None:
                with contextlib.closing(share):
                    SharingProjector(process, s, share).run()
                return

            def fold() -> None:
                prepare(s)
                folded = _telling(s, notify_fd, sealer_fd)
                Projector(s.log, s.views, folded, process.counts).run(process.ended, wake_fd)

            process.run(s.views, PROJECTOR, fold)
    except (LogError, SettingError, TemporarilyUnavailable) as error:
        raise click.ClickException(str(error)) from error


class SharingProjector:
    """Folds its share of the points, and the journal too while it has the projector's lock."""

    def __init__(self, process: WorkerProcess, stores: Stores, share: PointsShare) -> None:
        self._process = process
        self._stores = stores
        self._share = share
        self._leads = False
        self._error: LogError | None = None

    def run(self) -> None:
        """Until the process is told to end. Raises LogError."""
        leading = threading.Thread(target=self._take_turns, name="journal", daemon=True)
        leading.start()
        log, views, counts = self._stores.log, self._stores.views, self._process.counts
        projector = Projector(log, views, counts=counts, shares=Shares(self._given))
        projector.run(self._process.turns.told, None)
        leading.join()
        if self._error is not None:
            raise self._error

    def _given(self) -> Collection[Partition]:
        points = self._share.mine()
        return {JOURNAL, *points} if self._leads else points

    def _take_turns(self) -> None:
        try:
            self._process.run(self._stores.views, PROJECTOR, self._lead)
        except LogError as error:
            self._error = error
            self._process.turns.end()

    def _lead(self) -> None:
        prepare(self._stores)
        self._leads = True
        try:
            self._process.ended.wait()
        finally:
            self._leads = False


def prepare(stores: Stores) -> None:
    """What comes before folding, for who has the projector's lock. Raises LogError where the log
    lacks what the views were folded from."""
    if stores.views.create():
        logger.info("making the views from the log", path=stores.views.name)
    require_within(stores.log, stores.views)
    remember_log(stores.log, stores.views)
    sweep = partial(_sweep_uploads, stores.artifacts.proxied)
    threading.Thread(target=sweep, name="uploads", daemon=True).start()


def _sweep_uploads(blobs: BlobStore) -> None:
    """Removes what crashes left of uploads, now and every few hours. Apart from folding: the store
    may be far away and not answer."""
    while True:
        try:
            abandoned = blobs.remove_abandoned_uploads(time.time())
            if abandoned:
                logger.info("removed abandoned uploads", count=abandoned)
        except (OSError, RunfoldError) as error:
            logger.warning("abandoned uploads could not be looked for", error=str(error))
        time.sleep(SWEEP_UPLOADS_S)


def _telling(
    stores: Stores, notify_fd: int | None, sealer_fd: int | None
) -> Callable[[bytes], None]:
    """What is called after each batch: it tells the API, and once that there is something to seal
    and to export."""
    tell_api, tell_supervisor = wake(notify_fd), wake(sealer_fd)
    told = False

    def folded(byte: bytes) -> None:
        nonlocal told
        tell_api(byte)
        if not told:
            checkpoints = stores.views.checkpoints().values()
            told = sum(checkpoint.position for checkpoint in checkpoints) > OWN_EVENTS
            if told:
                tell_supervisor(GROWN)

    folded(GROWN)
    return folded
