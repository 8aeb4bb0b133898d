"""`runfold worker sealer`: seals and merges points, and exports the views; the one that writes the
lake.

A process of its own, since what it does with the processor would hold up folding. It needs neither
pipe of the others: it looks at the views in rounds, and takes each round under the lock of their
generation, so that it may run beside another of its kind, which happens for a moment when a server
was killed.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from events.log import LogError
from events.settings import Settings
from workers.exporter import Exporter, ExporterSettings
from workers.lifeline import end_with_parent, told_to_stop
from workers.logs import configure_logs
from workers.options import server_options, settings_from
from workers.sealer import Sealer, SealerSettings
from workers.stores import Stores, opened_stores

NICENESS = 5
"""What is sealed a second later, nobody notices. But folding waits for the transactions, so
what is nice is a thread without any: locking the views without a processor would stop everybody."""


@click.command("sealer")
@click.option("--lifeline-fd", type=int, help="Pipe that ends with the supervisor.")
@server_options
def sealer_command(lifeline_fd: int | None, **options: Any) -> None:
    """Seal metric points into Parquet files, and export what else there is."""
    settings = settings_from(options)
    end_with_parent(lifeline_fd)
    configure_logs(settings.log_level, "sealer")
    stop = told_to_stop()
    try:
        with opened_stores(settings) as stores:
            _seal(settings, stores, stop)
    except LogError as error:
        raise click.ClickException(str(error)) from error


def _seal(settings: Settings, stores: Stores, stop: threading.Event) -> None:
    sealing = SealerSettings(seal_points=settings.seal_points, seal_age_s=settings.seal_age_s)
    nice = ThreadPoolExecutor(1, "heavy", _be_nice)
    sealer = Sealer(
        stores.views,
        settings.lake_path,
        sealing,
        heavy=lambda work: nice.submit(work).result(),
    )
    exporting = ExporterSettings(export_age_s=settings.export_age_s)
    exporter = Exporter(stores.views, stores.log, settings.lake_path, exporting)
    beside = [
        threading.Thread(target=sealer.run, args=(stop,), name="sealer"),
        threading.Thread(target=exporter.run, args=(stop,), name="exporter"),
    ]
    for thread in beside:
        thread.start()
    try:
        stop.wait()
    finally:
        stop.set()
        sealer.interrupt()
        for thread in beside:
            thread.join()
        nice.shutdown()


def _be_nice() -> None:
    """Lets every other thread have the processor first. Only Linux has a niceness for a thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
