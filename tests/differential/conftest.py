"""What the differential tests share beside the two servers."""

from collections.abc import Iterator

import pytest

from tests.differential.refusals import RefusalCheck
from tests.servers import Server
from tests.stacks import Stack
from workers.stores import open_log


@pytest.fixture(scope="session")
def refusal_check(shared_stack: Stack, stack_server: Server) -> Iterator[RefusalCheck]:
    """Checks every refusal of the server on a stack, on which nobody else writes meanwhile."""
    assert stack_server.process is not None
    log = open_log(shared_stack.log_uri, make=False)
    yield RefusalCheck(log)
    log.close()
