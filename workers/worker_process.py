"""The worker process: the projector in the main thread, sealer and exporter beside it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import click
import structlog

from events.log import LogError
from events.settings import Settings
from events.wake import wake
from workers.exporter import Exporter, ExporterSettings
from workers.lifeline import end_with_parent
from workers.logs import configure_logs
from workers.options import server_options, settings_from
from workers.projector import AlreadyRunning, Projector, projector_lock
from workers.sealer import Sealer, SealerSettings
from workers.server import FOLDER_TAKEN
from workers.stores import Stores, opened_stores

logger = structlog.get_logger(__name__)

LOCK_WAIT_S = 3.0
"""A killed server's worker needs a moment to notice that it is alone."""


@click.command("worker", hidden=True)
@click.option("--wake-fd", type=int, help="Pipe that gives a byte when the log has grown.")
@click.option("--notify-fd", type=int, help="Pipe that gets a byte when something was folded.")
@click.option("--lifeline-fd", type=int, help="Pipe that ends with the supervisor.")
@server_options
def worker_command(
    wake_fd: int | None, notify_fd: int | None, lifeline_fd: int | None, **options: Any
) -> None:
    """Fold the log into the views, and seal metric points into Parquet files."""
    settings = settings_from(options)
    end_with_parent(lifeline_fd)
    configure_logs(settings.log_level, "worker")
    stop = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with projector_lock(settings.views_path, wait_s=LOCK_WAIT_S), opened_stores(settings) as s:
            _work(settings, s, stop, wake_fd, notify_fd)
    except AlreadyRunning as error:
        click.echo(f"runfold: {error}", err=True)
        sys.exit(FOLDER_TAKEN)
    except LogError as error:
        raise click.ClickException(str(error)) from error


def _work(
    settings: Settings,
    stores: Stores,
    stop: threading.Event,
    wake_fd: int | None,
    notify_fd: int | None,
) -> None:
    if stores.views.create():
        logger.info("making the views from the log", path=str(settings.views_path))
    abandoned = stores.artifacts.proxied.remove_abandoned_uploads(time.time())
    if abandoned:
        logger.info("removed abandoned uploads", count=abandoned)
    projector = Projector(stores.log, stores.views, wake(notify_fd))
    sealing = SealerSettings(seal_points=settings.seal_points, seal_age_s=settings.seal_age_s)
    sealer = Sealer(stores.views, settings.lake_path, sealing)
    exporting = ExporterSettings(export_age_s=settings.export_age_s)
    exporter = Exporter(stores.views, stores.log, settings.lake_path, exporting)
    beside = [
        threading.Thread(target=sealer.run, args=(stop,), name="sealer"),
        threading.Thread(target=exporter.run, args=(stop,), name="exporter"),
    ]
    for thread in beside:
        thread.start()
    try:
        projector.run(stop, wake_fd)
    finally:
        stop.set()
        sealer.interrupt()
        for thread in beside:
            thread.join()
