"""`runfold worker projector`: folds the log into the views. It never loads DuckDB.

One is active; others stand by. Without the pipes of `runfold server` it looks at the log by itself
every now and then, which is often enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import structlog

from events.blobs import BlobStore
from events.errors import RunfoldError, TemporarilyUnavailable
from events.log import LogError
from events.wake import GROWN, wake
from projections.database import PROJECTOR
from projections.same_log import remember_log, require_within
from workers.options import server_options
from workers.projector import Projector
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

    Of many that run on the same views one folds, and the others stand by to take over.
    """
    process = WorkerProcess("projector", options)
    try:
        with opened_stores(process.settings) as s:

            def fold() -> None:
                _prepare(s)
                folded = _telling(s, notify_fd, sealer_fd)
                Projector(s.log, s.views, folded, process.counts).run(process.ended, wake_fd)

            process.run(s.views, PROJECTOR, fold)
    except (LogError, TemporarilyUnavailable) as error:
        raise click.ClickException(str(error)) from error


def _prepare(stores: Stores) -> None:
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
