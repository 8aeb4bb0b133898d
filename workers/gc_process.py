"""`runfold worker gc`: does what `runfold gc` does, again and again."""

from __future__ import annotations

import threading
import time
from typing import Any

import click
import structlog

from events import worker_counts
from events.errors import RunfoldError
from events.log import LogError
from events.places import SettingError
from events.worker_counts import WorkerCounts
from projections.database import GC
from projections.purges import Choice
from workers.gc import Gc, parse_age, run_gc
from workers.maintenance import MaintenanceError
from workers.options import server_options
from workers.stores import opened_stores
from workers.worker_process import WorkerProcess, worker_options

logger = structlog.get_logger(__name__)

INTERVAL_S_MIN = 1.0


def _age(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    try:
        parse_age(text)
    except RunfoldError as error:
        raise click.BadParameter(error.message) from None
    return text


@click.command("gc")
@click.option(
    "--older-than",
    metavar="AGE",
    default="30d",
    show_default=True,
    envvar="RUNFOLD_GC_OLDER_THAN",
    show_envvar=True,
    callback=_age,
    help="Only what was deleted longer ago than this, such as 30d or 1d2h3m4s.",
)
@click.option(
    "--interval",
    metavar="AGE",
    default="1h",
    show_default=True,
    envvar="RUNFOLD_GC_INTERVAL",
    show_envvar=True,
    callback=_age,
    help="Time from the end of one purge to the next.",
)
@worker_options
@server_options
def gc_worker_command(older_than: str, interval: str, **options: Any) -> None:
    """Delete for good, now and then, what was deleted long ago.

    The first time is at the start. Of many that run on the same views one works, and the others
    stand by to take over.
    """
    process = WorkerProcess("gc", options)
    choice = Choice(older_than=older_than, older_than_ms=parse_age(older_than))
    try:
        with opened_stores(process.settings) as stores:
            gc = Gc(
                stores.log,
                stores.views,
                stores.artifacts,
                stores.lake,
                echo=lambda line: logger.info("gc", said=line),
            )

            def purge() -> None:
                run_often(gc, choice, parse_age(interval) / 1000, process.ended, process.counts)

            process.run(stores.views, GC, purge)
    except (LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error


def run_often(
    gc: Gc, choice: Choice, interval_s: float, stop: threading.Event, counts: WorkerCounts
) -> None:
    """Purges what is chosen, then waits, until told to stop. What fails is tried again next time:
    a purge that was not finished is finished by the next."""
    while not stop.is_set():
        _run_once(gc, choice, counts)
        stop.wait(max(interval_s, INTERVAL_S_MIN))


def _run_once(gc: Gc, choice: Choice, counts: WorkerCounts) -> None:
    started = time.monotonic()
    try:
        report = run_gc(gc, choice)
    except (RunfoldError, MaintenanceError, LogError) as error:
        # Another gc or a rebuild may be at work, or a server be away.
        counts.add(worker_counts.GC_ERRORS)
        logger.warning("gc could not run; trying again at the next interval", reason=str(error))
        return
    except Exception:
        counts.add(worker_counts.GC_ERRORS)
        logger.exception("gc failed; trying again at the next interval")
        return
    counts.observe(worker_counts.GC_SECONDS, time.monotonic() - started)
    counts.add(worker_counts.GC_PURGED, len(report.purged))
    counts.add(worker_counts.GC_ARTIFACTS, report.artifacts)
    counts.add(worker_counts.GC_SCRUBBED, report.scrubbed)
    if report.unfinished:
        counts.add(worker_counts.GC_ERRORS)
    logger.info(
        "gc done",
        purged=len(report.purged),
        refused=len(report.refused),
        artifact_files=report.artifacts,
        scrubbed_events=report.scrubbed,
        unfinished=len(report.unfinished),
    )
