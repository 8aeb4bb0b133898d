"""`runfold worker projector`: folds the log into the views. It never loads DuckDB."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click
import structlog

from events.log import LogError
from events.wake import GROWN, wake
from projections.database import PROJECTOR, AlreadyRunning
from workers.lifeline import end_with_parent, told_to_stop
from workers.logs import configure_logs
from workers.options import server_options, settings_from
from workers.projector import Projector
from workers.server import FOLDER_TAKEN
from workers.stores import Stores, opened_stores

logger = structlog.get_logger(__name__)

LOCK_WAIT_S = 3.0
"""A killed server's projector needs a moment to notice that it is alone."""
OWN_EVENTS = 1
"""The default experiment's is there before anybody logs anything."""


@click.command("projector")
@click.option("--wake-fd", type=int, help="Pipe that gives a byte when the log has grown.")
@click.option("--notify-fd", type=int, help="Pipe that gets a byte when something was folded.")
@click.option("--sealer-fd", type=int, help="Pipe that gets a byte once the sealer has work.")
@click.option("--lifeline-fd", type=int, help="Pipe that ends with the supervisor.")
@server_options
def projector_command(
    wake_fd: int | None,
    notify_fd: int | None,
    sealer_fd: int | None,
    lifeline_fd: int | None,
    **options: Any,
) -> None:
    """Fold the log into the views."""
    settings = settings_from(options)
    end_with_parent(lifeline_fd)
    configure_logs(settings.log_level, "projector")
    stop = told_to_stop()
    try:
        with opened_stores(settings) as s, s.views.lock(PROJECTOR, LOCK_WAIT_S, stop.set):
            _prepare(s)
            folded = _telling(s, notify_fd, sealer_fd)
            Projector(s.log, s.views, folded).run(stop, wake_fd)
    except AlreadyRunning as error:
        click.echo(f"runfold: {error}", err=True)
        sys.exit(FOLDER_TAKEN)
    except LogError as error:
        raise click.ClickException(str(error)) from error


def _prepare(stores: Stores) -> None:
    if stores.views.create():
        logger.info("making the views from the log", path=stores.views.name)
    abandoned = stores.artifacts.proxied.remove_abandoned_uploads(time.time())
    if abandoned:
        logger.info("removed abandoned uploads", count=abandoned)


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
