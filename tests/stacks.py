"""The stacks that whole servers are tested on: what the log, the views, the lake and the artifacts
are kept in.

A test that takes the fixture `stack_server`, or makes a stack of its own for `stack_name`, runs on
each (`--stacks sqlite,mariadb` chooses). Another stack is a function here and a line in STACKS.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from events.kafka_log import init_log
from events.kafka_settings import KafkaAccess
from infra.backends.service import Service
from tests.backends import drop_views, fresh_database, fresh_place
from tests.servers import Server, runfold


@dataclass(frozen=True)
class Stack:
    """One empty place for all that a server keeps."""

    home: Path
    log_uri: str
    delete_views: Callable[[], None]
    """Deletes all views and the lake, as somebody does who wants them made anew; no server may
    run."""
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps_artifacts_in_s3(self) -> bool:
        """Whether they are not in a folder."""
        return "--artifacts-destination" in self.flags

    def server(self, *flags: str) -> Server:
        """A server that keeps everything there; not started yet."""
        return runfold(self.home, *self.flags, *flags, environment=self.environment)


@contextlib.contextmanager
def started(server: Server) -> Iterator[Server]:
    """The server, which is killed at the end."""
    try:
        yield server.start()
    finally:
        server.kill()


Maker = Callable[[Path, pytest.FixtureRequest], contextlib.AbstractContextManager[Stack]]


@contextlib.contextmanager
def _sqlite(home: Path, _request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Everything in the home folder."""
    yield Stack(home, f"sqlite:///{home / 'log.db'}", lambda: _delete_files(home))


@contextlib.contextmanager
def on_database(home: Path, service: Service) -> Iterator[Stack]:
    """The log and the views in one database of their own on this server."""
    with contextlib.contextmanager(fresh_database)(service) as uri:
        flags = ("--log-uri", uri, "--views-uri", uri)
        yield Stack(home, uri, lambda: _delete_on_server(home, uri), flags)


@contextlib.contextmanager
def _kafka(home: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The log on Kafka, under a prefix of its own, with three partitions of points; the views in a
    database of their own on PostgreSQL; the lake and the artifacts in S3."""
    uri = str(request.getfixturevalue("kafka").uri) + f"/stack-{os.urandom(4).hex()}"
    init_log(uri, KafkaAccess(), partitions=3)
    database: Service = request.getfixturevalue("postgresql")
    place = fresh_place(request.getfixturevalue("s3_server"))
    with contextlib.contextmanager(fresh_database)(database) as views_uri:

        def delete_views() -> None:
            _delete_on_server(home, views_uri)
            assert place.clear("lake/")

        flags = ["--log-uri", uri, "--views-uri", views_uri, "--lake-uri", f"{place.uri}/lake"]
        flags += ["--artifacts-destination", f"{place.uri}/artifacts"]
        yield Stack(home, uri, delete_views, flags, place.environment)


def _delete_on_server(home: Path, views_uri: str) -> None:
    assert drop_views(views_uri)
    for name in ("lake", "lake-cache"):
        shutil.rmtree(home / name, ignore_errors=True)


def _delete_files(home: Path) -> None:
    views = sorted(home.glob("views.db*"))
    assert views
    for file in views:
        file.unlink()
    shutil.rmtree(home / "lake", ignore_errors=True)


STACKS: dict[str, Maker] = {
    "sqlite": _sqlite,
    "postgresql": lambda home, request: on_database(home, request.getfixturevalue("postgresql")),
    "mariadb": lambda home, request: on_database(home, request.getfixturevalue("mariadb")),
    "kafka": _kafka,
}


def new_stack(
    name: str, home: Path, request: pytest.FixtureRequest
) -> contextlib.AbstractContextManager[Stack]:
    """An empty stack of this name, which goes at the end; the servers below it are shared."""
    return STACKS[name](home, request)


def chosen_stacks(config: pytest.Config) -> list[str]:
    """The stacks that --stacks names; all where it is not given."""
    named = config.getoption("--stacks")
    names = [name.strip() for name in named.split(",")] if named else list(STACKS)
    if unknown := set(names) - set(STACKS):
        raise pytest.UsageError(f"--stacks knows {', '.join(STACKS)}, not {', '.join(unknown)}")
    return names
