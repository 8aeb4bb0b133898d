"""A worker's own port: /metrics, /health and /ready, for what watches over it."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import click
import structlog

from events.counters import CONTENT_TYPE, Exposition
from events.worker_counts import WorkerCounts

logger = structlog.get_logger(__name__)

SILENT_S = 10.0
"""A client that sends or takes nothing for so long is given up."""


class Shown(Protocol):
    """What is told of a worker."""

    role: str
    counts: WorkerCounts

    @property
    def is_active(self) -> bool:
        """Whether it works, rather than stand by."""


def serve(process: Shown, host: str, port: int) -> ThreadingHTTPServer:
    """Answers on this port from now on, in threads that end with the process.

    Raises click.ClickException where the port can't be had.
    """

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        timeout = SILENT_S
        server_version = "runfold"
        sys_version = ""

        def do_GET(self) -> None:
            """Answers a GET."""
            status, content_type, body = answer(process, self.path)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a scrape every few seconds is no news."""

    class Server(ThreadingHTTPServer):
        """The port."""

        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise click.ClickException(
            f"can't listen on {host}:{port} for --metrics-port: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    logger.info("metrics", address=f"http://{host}:{server.server_port}/metrics")
    return server


def answer(process: Shown, target: str) -> tuple[int, str, bytes]:
    """The status, content type and body for a path.

    A standby is as ready as the active one: it can take over.
    """
    path = target.partition("?")[0]
    if path == "/metrics":
        exposition = Exposition()
        process.counts.write(exposition, [process.role])
        return 200, CONTENT_TYPE, exposition.text()
    if path == "/health":
        return 200, "text/plain", b"OK"
    if path == "/ready":
        return 200, "text/plain", b"active" if process.is_active else b"standing by"
    return 404, "text/plain", b"There is /metrics, /health and /ready."
