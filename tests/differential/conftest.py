"""What the differential tests share beside the two servers."""

import pytest

from tests.differential.refusals import RefusalCheck
from tests.servers import Server


@pytest.fixture(scope="session")
def refusal_check(runfold_server: Server) -> RefusalCheck:
    """Checks every refusal of the shared Runfold server, on which only these tests write."""
    assert runfold_server.home is not None
    return RefusalCheck(runfold_server.home)
