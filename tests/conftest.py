"""Servers shared by the tests of one session, and a factory for a test that wants its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import servers


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
