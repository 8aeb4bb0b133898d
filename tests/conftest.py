"""Servers shared by the tests of one session, and a factory for a test that wants its own."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import structlog

from infra.backends.service import Service
from tests import servers
from tests.backends import S3Place, fresh_database, fresh_place, running
from tests.stacks import STACKS, Stack, chosen_stacks, new_stack, started


@pytest.fixture(autouse=True)
def logs_as_at_first() -> Iterator[None]:
    """A command that a test runs sets up the logs of this process, which is not for the next."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """MLflow's own server, the judge of ours."""
    server = servers.mlflow(tmp_path_factory.mktemp("mlflow")).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def runfold_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A Runfold server on an empty home."""
    server = servers.runfold(tmp_path_factory.mktemp("runfold") / "home").start()
    yield server
    server.stop()


@pytest.fixture
def start_runfold() -> Iterator[Callable[..., servers.Server]]:
    """Starts Runfold on a given home (and flags); whatever still runs at the end is killed."""
    started: list[servers.Server] = []

    def start(home: Path, *flags: str) -> servers.Server:
        server = servers.runfold(home, *flags)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def start_role() -> Iterator[Callable[..., servers.Server]]:
    """Starts one role of Runfold alone on a given home; what still runs at the end is killed."""
    started: list[servers.Server] = []

    def start(
        home: Path, words: str, *flags: str, environment: Mapping[str, str] | None = None
    ) -> servers.Server:
        server = servers.role(home, words, *flags, environment=environment)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def stack_name(request: pytest.FixtureRequest) -> str:
    """The kind of stack that a test runs on; each of those that --stacks names in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared_stack(
    stack_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack for all tests of the session that leave it running."""
    with new_stack(stack_name, tmp_path_factory.mktemp(stack_name) / "home", request) as stack:
        yield stack


@pytest.fixture(scope="session")
def stack_server(shared_stack: Stack) -> Iterator[servers.Server]:
    """A server on it."""
    with started(shared_stack.server()) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Service]:
    """PostgreSQL, for all tests of the session."""
    yield from running("postgresql")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Service]:
    """MariaDB, for all tests of the session."""
    yield from running("mariadb")


@pytest.fixture(scope="session")
def kafka() -> Iterator[Service]:
    """Kafka, for all tests of the session."""
    yield from running("kafka")


@pytest.fixture
def postgresql_uri(postgresql: Service) -> Iterator[str]:
    """An empty database on PostgreSQL."""
    yield from fresh_database(postgresql)


@pytest.fixture
def mariadb_uri(mariadb: Service) -> Iterator[str]:
    """An empty database on MariaDB."""
    yield from fresh_database(mariadb)


@pytest.fixture
def kafka_uri(kafka: Service) -> str:
    """A prefix on Kafka that no topic has yet."""
    return f"{kafka.uri}/test-{os.urandom(4).hex()}"


@pytest.fixture
def own_kafka() -> Iterator[Service]:
    """A Kafka that the test may stop and kill."""
    yield from running("kafka")


@pytest.fixture
def own_postgresql() -> Iterator[Service]:
    """A PostgreSQL that the test may stop and kill."""
    yield from running("postgresql")


@pytest.fixture
def own_mariadb() -> Iterator[Service]:
    """A MariaDB that the test may stop and kill."""
    yield from running("mariadb")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Service]:
    """An S3 server, for all tests of the session."""
    yield from running("versitygw")


@pytest.fixture
def own_s3_server() -> Iterator[Service]:
    """An S3 server that the test may stop and kill."""
    yield from running("versitygw")


@pytest.fixture
def s3_place(s3_server: Service, monkeypatch: pytest.MonkeyPatch) -> S3Place:
    """An empty place in a bucket, whose credentials are in the environment."""
    return fresh_place(s3_server).entered(monkeypatch)


@pytest.fixture
def own_s3_place(own_s3_server: Service, monkeypatch: pytest.MonkeyPatch) -> S3Place:
    """Such a place on the server that the test may stop and kill."""
    return fresh_place(own_s3_server).entered(monkeypatch)


@pytest.fixture(params=("sqlite", "postgresql", "mariadb"))
def views_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where views can be made: on each kind of database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'views.db'}"
    return str(request.getfixturevalue(f"{request.param}_uri"))


@pytest.fixture(params=("postgresql", "mariadb"))
def server_uri(request: pytest.FixtureRequest) -> str:
    """An empty database on each kind of server."""
    return str(request.getfixturevalue(f"{request.param}_uri"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What whole servers are tested on, and how long the longest tests go on; the full lengths are
    in docs/backends.md."""
    parser.addoption(
        "--stacks",
        default="",
        help=f"What tests of whole servers run on, all by default: {','.join(STACKS)}.",
    )
    parser.addoption(
        "--storm-seconds",
        type=float,
        default=5.0,
        help="How long six writers append to a database server beside a reader.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each test that takes a stack on each of the chosen ones."""
    if "stack_name" in metafunc.fixturenames:
        names = chosen_stacks(metafunc.config)
        metafunc.parametrize("stack_name", names, indirect=True, scope="session")


_SERVICES = {"postgresql", "mariadb", "kafka", "s3_server", "views_uri", "server_uri"} | {
    f"own_{name}" for name in ("postgresql", "mariadb", "kafka", "s3_server")
}
"""The fixtures that start a service of `infra.backends`. A module whose tests ask for them by their
names as they go says so with a mark of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that infra/scripts/test runs side by side."""
    for item in items:
        if item.get_closest_marker("measures"):
            continue
        fixtures = getattr(item, "fixturenames", ())
        if "stack_name" in fixtures:
            item.add_marker("stack")
        elif item.path.parent.name == "faults":
            item.add_marker("faults")
        elif item.path.parent.name == "acceptance" or not _SERVICES.isdisjoint(fixtures):
            item.add_marker("services")
