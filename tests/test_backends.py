"""The real servers that tests and developers start."""

import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from infra.backends.postgresql import RESTART_AT_ONCE
from infra.backends.service import Service

pytestmark = pytest.mark.services

FIXTURES = ("postgresql_uri", "mariadb_uri")


@pytest.mark.parametrize("fixture", FIXTURES)
def test_each_test_has_an_empty_database(fixture: str, request: pytest.FixtureRequest) -> None:
    """Tables can be made in it, and none is there before."""
    engine = sa.create_engine(request.getfixturevalue(fixture))
    assert sa.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE one (value INTEGER)")
        connection.exec_driver_sql("INSERT INTO one VALUES (1)")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT value FROM one").scalar() == 1
    engine.dispose()


@pytest.mark.parametrize("by", [RESTART_AT_ONCE, signal.SIGKILL])
def test_a_server_starts_again_after_it_was_killed(
    own_postgresql: Service, by: signal.Signals
) -> None:
    """What was committed is there after the server was ended at once and started again."""
    engine = sa.create_engine(own_postgresql.uri)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE one (value INTEGER)")
    own_postgresql.end(by)
    own_postgresql.start()
    engine.dispose()
    assert sa.inspect(engine).get_table_names() == ["one"]
    engine.dispose()


def test_a_developer_starts_them_by_name() -> None:
    """The command says where each server is, and takes it away when it ends."""
    from_catalog = [sys.executable, "-m", "infra.backends"]
    asked = subprocess.run([*from_catalog, "oracle"], capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "postgresql" in asked.stdout
