"""`runfold worker sealer`: seals and merges points, and exports the views; the one that writes the
lake.

A process of its own, since what it does with the processor would hold up folding. It needs neither
pipe of the others: it looks at the views in rounds. One is active, others stand by; each round is
under the lock of the views' generation too, for `gc` and `rebuild` write the lake as well.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from events.log import LogError
from events.places import SettingError
from projections.database import SEALER
from workers.exporter import Exporter, ExporterSettings
from workers.lake_tidying import tidied
from workers.options import server_options
from workers.sealer import Sealer, SealerSettings
from workers.stores import Stores, opened_stores
from workers.worker_process import WorkerProcess, worker_options

NICENESS = 5
"""What is sealed a second later, nobody notices. But folding waits for the transactions, so
what is nice is a thread without any: locking the views without a processor would stop everybody."""


@click.command("sealer")
@worker_options
@server_options
def sealer_command(**options: Any) -> None:
    """Seal metric points into Parquet files, and export what else there is.

    Of many that run on the same views one works, and the others stand by to take over.
    """
    process = WorkerProcess("sealer", options)
    try:
        with opened_stores(process.settings) as stores, tidied(stores):
            process.run(stores.views, SEALER, lambda: _seal(process, stores))
    except (LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error


def _seal(process: WorkerProcess, stores: Stores) -> None:
    settings, stop, counts = process.settings, process.ended, process.counts
    retired_s = stores.lake.retired_s
    sealing = SealerSettings(
        seal_points=settings.seal_points, seal_age_s=settings.seal_age_s, retired_s=retired_s
    )
    nice = ThreadPoolExecutor(1, "heavy", _be_nice)
    sealer = Sealer(
        stores.views,
        stores.lake,
        sealing,
        heavy=lambda work: nice.submit(work).result(),
        counts=counts,
    )
    exporting = ExporterSettings(export_age_s=settings.export_age_s, retired_s=retired_s)
    exporter = Exporter(stores.views, stores.log, stores.lake, exporting, counts)
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
