"""The servers that Runfold can build on, each with what starts it for a developer and the tests.

Another one is a file with the functions `missing` and `make`, and a line here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from infra.backends import kafka, mariadb, postgresql, versitygw
from infra.backends.service import Service


@dataclass(frozen=True)
class Backend:
    """How to run one kind of server."""

    missing: Callable[[], str | None]
    """What this machine lacks to run it, or None."""
    make: Callable[[int | None], Service]
    """One on an empty folder and a port, by default a free one; not started yet."""


BACKENDS: dict[str, Backend] = {
    "postgresql": Backend(postgresql.missing, postgresql.make),
    "mariadb": Backend(mariadb.missing, mariadb.make),
    "versitygw": Backend(versitygw.missing, versitygw.make),
    "kafka": Backend(kafka.missing, kafka.make),
}
