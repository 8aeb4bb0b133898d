"""Connections to a server that are closed when their test ends."""

from collections.abc import Callable, Iterator

import pytest

from tests.backends import LOGS, log_flags
from tests.faults.wire import Wire
from tests.servers import Server, runfold

Connect = Callable[[Server], Wire]


@pytest.fixture
def connect() -> Iterator[Connect]:
    opened: list[Wire] = []

    def one(server: Server) -> Wire:
        opened.append(Wire(server.url))
        return opened[-1]

    yield one
    for wire in opened:
        wire.close()


@pytest.fixture(scope="session", params=LOGS)
def each_log_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with each kind of log."""
    if request.param == "sqlite":
        yield request.getfixturevalue("runfold_server")
        return
    with log_flags(request.param, request) as flags:
        server = runfold(tmp_path_factory.mktemp(request.param) / "home", *flags).start()
        yield server
        server.kill()
