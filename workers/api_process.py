"""The API process: uvicorn over the application. The one module that joins `api` to the rest."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys
from typing import Any

import click
import structlog
import uvicorn

from api.app import Wiring, create_app
from events.log import LogError
from events.places import SettingError
from events.settings import Settings
from events.worker_counts import WorkerCounts
from workers.http_protocol import ExpressProtocol
from workers.lake_tidying import tidied
from workers.lifeline import end_with_parent
from workers.logs import configure_logs
from workers.options import server_options, settings_from
from workers.server import PORT_TAKEN, SETTING_REFUSED
from workers.stores import opened_stores

logger = structlog.get_logger(__name__)

BACKLOG = 2_048
STOP_S = 10

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's <malloc.h>."""
KEPT_BYTES = 8 << 20


@click.command("api")
@click.option("--wake-fd", type=int, hidden=True, help="Gives a byte when something was folded.")
@click.option("--notify-fd", type=int, hidden=True, help="Gets a byte when the log has grown.")
@click.option("--lifeline-fd", type=int, hidden=True, help="Ends with the supervisor.")
@click.option("--counts-fd", type=int, hidden=True, help="Memory shared with the workers.")
@server_options
def api_command(
    wake_fd: int | None,
    notify_fd: int | None,
    lifeline_fd: int | None,
    counts_fd: int | None,
    **options: Any,
) -> None:
    """Serve the API alone, as often as wanted on the same log and views.

    A `runfold worker projector` must fold beside it, and a `runfold worker sealer` should seal.
    """
    settings = settings_from(options)
    end_with_parent(lifeline_fd)
    _keep_freed_memory()
    configure_logs(settings.log_level, "api")
    listener = _listen(settings)
    try:
        with opened_stores(settings) as stores, tidied(stores):
            wiring = Wiring(
                settings,
                stores.log,
                stores.views,
                stores.artifacts,
                stores.lake,
                notify_fd,
                wake_fd,
                None if counts_fd is None else WorkerCounts(counts_fd),
            )
            address = f"http://{settings.host}:{settings.port}{settings.static_prefix}"
            logger.info("listening", address=address, home=str(settings.home))
            _server(wiring).run(sockets=[listener])
    except SettingError as error:
        click.echo(f"runfold: {error}", err=True)
        sys.exit(SETTING_REFUSED)
    except LogError as error:
        raise click.ClickException(str(error)) from error


def _keep_freed_memory() -> None:
    """Lets each of malloc's arenas keep what a chart or a large batch had, for the next one.

    By default it goes back to the system with each answer: of the processor time of a chart of
    100,000 points a third went into pages that were taken and cleared anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Only glibc has it.
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def _server(wiring: Wiring) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            create_app(wiring),
            loop="uvloop",
            http=ExpressProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=STOP_S,
            timeout_keep_alive=75,
            server_header=False,
            date_header=False,
        )
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            click.echo(
                f"runfold: port {settings.port} on {settings.host} is taken by another program: "
                "stop it, or give another --port.",
                err=True,
            )
            sys.exit(PORT_TAKEN)
        raise click.ClickException(
            f"can't listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    listener.listen(BACKLOG)
    return listener
