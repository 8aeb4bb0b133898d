"""What every worker's process has in common: how it ends, stands by, and tells what it did.

A worker runs alone, as often and on as many machines as is wanted, or as a child of `runfold
server`, which gives it pipes. Where only one of a role may be active, a lock of the views says who;
the others stand by and try for it. It ends with the process that has it.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
import structlog

from events.errors import TemporarilyUnavailable
from events.settings import Settings
from events.worker_counts import ACTIVE, WorkerCounts
from projections.database import AlreadyRunning, Views
from workers.lifeline import end_with_parent, when_told_to_stop
from workers.logs import configure_logs
from workers.options import settings_from

logger = structlog.get_logger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])

STANDBY_S = 1.0
"""How often a standby tries to take over; and how soon what failed is tried again."""


def worker_options(command: Command) -> Command:
    """Adds what every worker takes beside the settings."""
    for option in (
        click.option("--lifeline-fd", type=int, hidden=True, help="Ends with the supervisor."),
        click.option("--counts-fd", type=int, hidden=True, help="Memory shared with the API."),
        click.option(
            "--metrics-port",
            type=int,
            envvar="RUNFOLD_METRICS_PORT",
            show_envvar=True,
            help="Port of --host on which /metrics, /health and /ready tell about this worker. "
            "Without it there is none.",
        ),
    ):
        command = option(command)
    return command


class Turns:
    """When this process works: while it has its role's lock, until it is told to end."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        """Set when the work is to end: the process was told to, or has lost its lock."""
        self.told = threading.Event()
        """Set when the process was told to end."""
        self.is_active = False

    def end(self) -> None:
        """Ends the work and all that would come after it."""
        self.told.set()
        self.ended.set()

    def run(self, views: Views, lock: str, work: Callable[[], None]) -> None:
        """Does the work whenever this process has the views' lock of this name.

        The work returns once `ended` is set, or when there is nothing left to do at all.
        """
        stands_by = False
        while True:
            self.ended.clear()
            if self.told.is_set():
                return
            try:
                with contextlib.ExitStack() as held:
                    if self._has_lock(held, views, lock):
                        if stands_by:
                            logger.info("taking over: the active one is gone", lock=lock)
                        stands_by = False
                        self._work(work)
                        if not self.ended.is_set():
                            return
                        continue
                if not stands_by:
                    logger.info("standing by: another process is active", lock=lock)
                stands_by = True
            except TemporarilyUnavailable as error:
                logger.warning("trying again in a moment", reason=error.message)
            self.ended.wait(STANDBY_S)

    def _has_lock(self, held: contextlib.ExitStack, views: Views, lock: str) -> bool:
        try:
            held.enter_context(views.lock(lock, 0.0, self.ended.set))
        except AlreadyRunning:
            return False
        return True

    def _work(self, work: Callable[[], None]) -> None:
        self.is_active = True
        try:
            work()
        finally:
            self.is_active = False


class WorkerProcess:
    """One worker, from its start to its end."""

    def __init__(self, role: str, options: Mapping[str, Any]) -> None:
        """`options`: those of `worker_options` and the settings, as click gives them."""
        given = dict(options)
        lifeline_fd: int | None = given.pop("lifeline_fd")
        counts_fd: int | None = given.pop("counts_fd")
        metrics_port: int | None = given.pop("metrics_port")
        self.role = role
        self.is_alone = lifeline_fd is None
        """Whether it is no child of a server."""
        self.settings: Settings = settings_from(given)
        self.counts = WorkerCounts(counts_fd)
        # One that was killed could not say so.
        self.counts.set(ACTIVE[role], 0)
        self.turns = Turns()
        end_with_parent(lifeline_fd)
        configure_logs(self.settings.log_level, role)
        when_told_to_stop(self.turns.end, is_child=not self.is_alone)
        if metrics_port is not None and self.is_alone:
            # An HTTP server is half a megabyte that the children of a server need not have.
            page: Any = importlib.import_module("workers.worker_page")
            page.serve(self, self.settings.host, metrics_port)

    @property
    def ended(self) -> threading.Event:
        """Set when the work is to end."""
        return self.turns.ended

    @property
    def is_active(self) -> bool:
        """Whether it works, rather than stand by."""
        return self.turns.is_active

    def run(self, views: Views, lock: str, work: Callable[[], None]) -> None:
        """Does the work in its turns, until the process is told to end."""

        def counted() -> None:
            self.counts.set(ACTIVE[self.role], 1)
            try:
                work()
            finally:
                self.counts.set(ACTIVE[self.role], 0)

        self.turns.run(views, lock, counted)
