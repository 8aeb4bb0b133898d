"""Connections to a server that are closed when their test ends."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.wire import Wire
from tests.servers import Server

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
