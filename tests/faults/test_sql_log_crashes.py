"""Crashes of the server, of its parts and of the database with the log; the writers' journals are
the judge."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.backends.postgresql import RESTART_AT_ONCE
from infra.backends.service import Service
from tests.faults.conftest import Connect
from tests.faults.judge import judge, read_journal
from tests.faults.test_crashes import SEED, WRITERS, crash, start_writer
from tests.servers import BIN, Server

ROUNDS = 12
CRASHES = ("database", "api", "projector")
SEALING = ("--seal-points", "2000", "--seal-age", "2")
ENDED_BY = {"postgresql": RESTART_AT_ONCE, "mariadb": signal.SIGKILL}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ENDED_BY)
def test_crashes_with_the_log_on_a_database_server(
    name: str,
    tmp_path: Path,
    start_runfold: Callable[..., Server],
    connect: Connect,
    request: pytest.FixtureRequest,
) -> None:
    """After crashes of the database, of the API and of the projector each acknowledged write is
    there once, each refused one never, each unknown one at most once and whole, and the views are
    what the log says."""
    database: Service = request.getfixturevalue(f"own_{name}")
    place = ("--log-uri", database.uri)
    server = start_runfold(tmp_path / "home", *place, *SEALING)
    experiment_id = connect(server).experiment("crashes")
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(server, experiment_id, journal, number)
        for number, journal in enumerate(journals)
    ]
    chance = random.Random(SEED)
    try:
        for number in range(ROUNDS):
            time.sleep(chance.uniform(0.5, 2.0))
            assert [writer.poll() for writer in writers] == [None] * WRITERS
            role = CRASHES[number % len(CRASHES)]
            if role == "database":
                database.end(ENDED_BY[name])
                time.sleep(chance.choice((0.0, 0.5)))
                database.start()
            else:
                crash(server, role)
        time.sleep(1.0)
    finally:
        for writer in writers:
            writer.communicate(timeout=60)
    told = [read_journal(journal) for journal in journals]
    statuses = Counter(status for journal in told for one in journal for status in one.statuses)
    assert statuses[200] > 300, statuses
    assert statuses[503] > 0, statuses
    assert judge(connect(server), experiment_id, told) == []
    verified = subprocess.run(
        [BIN / "runfold", "verify", "--home", tmp_path / "home", *place],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
