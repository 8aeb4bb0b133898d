"""Seals the points of views that are being made, in a process beside the one that folds them.

Folding is the smaller part of a rebuild, sealing the larger one: together they take two
processors. The sealing process gets an order at a time on its standard input and answers each
when it is done; when the input ends, so does the process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

import click

from events.log import Log
from projections.database import Views
from projections.lake import Lake
from projections.opened_lake import lake_from
from projections.opened_views import made_views
from workers.lifeline import ORPHANED
from workers.logs import configure_logs
from workers.maintenance import LOG_LEVEL, MaintenanceError
from workers.sealer import Sealer, SealerSettings

BATCHES, ALL = "batches", "all"
"""The orders: to seal what fills a segment, for more is on its way; and to seal everything."""
END_S = 10.0
"""What is being written is given up within that time."""


@dataclass(frozen=True)
class _Work:
    """What is to be sealed: the first line of the input. No answer comes but the command's end."""

    views: str
    log_id: str
    lake: dict[str, Any]
    settings: dict[str, Any]


class BuildSealer:
    """The process that seals, as the one that folds sees it.

    It holds the lock of the new views' files until `close`, which comes after these views took
    the live ones' place or were given up.
    """

    def __init__(self, made: Views, log: Log, lake: Lake, settings: SealerSettings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "worker", "build-sealer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        work = _Work(made.address, log.identity.log_id, asdict(lake.place), asdict(settings))
        self._waits = False
        # Not as arguments, which everybody on the machine can read.
        self._order(json.dumps(asdict(work)))

    def seal_batches(self) -> None:
        """Has what fills segments sealed; waits until this was done as it was asked for before, so
        that blocks never pile up. Raises MaintenanceError where sealing failed."""
        self._wait()
        self._order(BATCHES)
        self._waits = True

    def seal_all(self) -> None:
        """Has everything sealed, and waits for it. Raises MaintenanceError where that failed."""
        self._wait()
        self._order(ALL)
        self._waits = True
        self._wait()

    def _order(self, order: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def _wait(self) -> None:
        if not self._waits:
            return
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise self._gone()
        self._waits = False
        error = json.loads(answer)
        if error is not None:
            raise MaintenanceError(f"the points could not be sealed: {error}")

    def _gone(self) -> MaintenanceError:
        return MaintenanceError(f"the process that seals points ended with {self._end()}")

    def _end(self) -> int:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        """Ends the process, and with it its hold on the files; what it is at is given up."""
        self._end()


def serve(views: Views, sealer: Sealer, orders: Iterable[str]) -> Iterator[str]:
    """The answer to each order, a line of JSON: null, or what went wrong."""
    for order in orders:
        try:
            while sealer.round(whole_batches=order.strip() == BATCHES):
                continue
            if order.strip() == ALL:
                # They may be put in the live ones' place now.
                views.close()
        except Exception as error:
            yield json.dumps(f"{type(error).__name__}: {error}")
        else:
            yield json.dumps(None)


class _Orders:
    """The orders as they come. At their end, which may come while one is being carried out, that is
    given up."""

    def __init__(self, given: IO[str], sealer: Sealer) -> None:
        self._given = given
        self._sealer = sealer
        self._waiting: queue.Queue[str] = queue.Queue()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, name="orders", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for order in self._given:
            self._waiting.put(order)
        self._waiting.put("")
        self._sealer.interrupt()
        if not self._done.wait(END_S / 2):
            os._exit(ORPHANED)

    def __iter__(self) -> Iterator[str]:
        yield from iter(self._waiting.get, "")
        self._done.set()
        self._thread.join()


@click.command("build-sealer", hidden=True)
def build_sealer_command() -> None:
    """Seal the points of views that a command makes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logs(LOG_LEVEL, "build-sealer")
    first = sys.stdin.readline()
    if not first:
        return
    work = _Work(**json.loads(first))
    views = made_views(work.views, work.log_id)
    settings = SealerSettings(**work.settings)
    sealer = Sealer(views, lake_from(work.lake), settings, building=True)
    try:
        for answer in serve(views, sealer, _Orders(sys.stdin, sealer)):
            print(answer, flush=True)
    except BrokenPipeError:
        os._exit(ORPHANED)
    finally:
        sealer.close()
        views.close()
