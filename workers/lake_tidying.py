"""Keeps a machine's copies of a lake in S3 to those that the views still name."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import structlog

from events.errors import RunfoldError
from projections.lake_exports import known_exports
from projections.segments import known_paths
from workers.stores import Stores

logger = structlog.get_logger(__name__)

ROUND_S = 30.0


@contextlib.contextmanager
def tidied(stores: Stores) -> Iterator[None]:
    """Tidies up from a thread meanwhile; a lake that is in a folder needs none."""
    if not stores.lake.is_remote:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(stores, stop), name="lake", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _run(stores: Stores, stop: threading.Event) -> None:
    def known() -> set[str]:
        with stores.views.read() as connection:
            return known_paths(connection) | known_exports(connection)

    while not stop.wait(ROUND_S):
        try:
            stores.lake.tidy(known)
            # Nothing else says so while nobody asks for what is not here.
            stores.lake.ready()
        except (OSError, RunfoldError) as error:
            logger.warning("the lake in S3 is not well", reason=str(error))
