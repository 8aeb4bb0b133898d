"""Crashes of the database that has the log, and of a server's parts; the writers' journals are the
judge."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from events.sql_writer import SETTLE_S
from infra.backends.postgresql import RESTART_AT_ONCE
from infra.backends.service import Service
from tests.faults.conftest import Connect
from tests.faults.judge import judge, read_journal
from tests.faults.test_crashes import SEED, WRITERS, crash, start_writer
from tests.servers import BIN, Server
from tests.stacks import on_database, started

ROUNDS = 12
CRASHES = ("database", "api", "projector")
ANSWERED_MIN = 30
"""So much is answered between two crashes, so that each meets a load, on any machine."""
ANSWER_S_MAX = 60.0
LONG_S = SETTLE_S + 2.0
"""Longer than the log waits to learn what became of an append."""
SEALING = ("--seal-points", "2000", "--seal-age", "2")
ENDED_BY = {"postgresql": RESTART_AT_ONCE, "mariadb": signal.SIGKILL}


def acknowledged(journals: Sequence[Path]) -> int:
    """How many answers the writers noted that were a success."""
    return sum(path.read_text().count('"status": 200') for path in journals if path.exists())


def wait_for_load(journals: Sequence[Path]) -> None:
    """Lets the writers get so far that the next crash meets them at work."""
    deadline = time.monotonic() + ANSWER_S_MAX
    wanted = acknowledged(journals) + ANSWERED_MIN
    while acknowledged(journals) < wanted:
        assert time.monotonic() < deadline, "nothing is answered any more"
        time.sleep(0.05)


def restart(database: Service, away_s: float) -> None:
    """Ends the database at once, as a crash of its machine does, and starts it after a while."""
    database.end(ENDED_BY[database.name])
    time.sleep(away_s)
    database.start()


def crash_by_turns(server: Server, database: Service, journals: Sequence[Path]) -> None:
    """Crashes one after the other, each while the writers write."""
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        wait_for_load(journals)
        time.sleep(chance.uniform(0.0, 0.5))
        role = CRASHES[number % len(CRASHES)]
        if role == "database":
            restart(database, LONG_S if number == 0 else chance.choice((0.0, 0.5)))
        else:
            crash(server, role)
    wait_for_load(journals)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ENDED_BY)
def test_crashes_with_everything_on_a_database_server(
    name: str, tmp_path: Path, connect: Connect, request: pytest.FixtureRequest
) -> None:
    """After crashes of the database, of the API and of the projector each acknowledged write is
    there once, each refused one never, each unknown one at most once and whole, and the views are
    what the log says."""
    database: Service = request.getfixturevalue(f"own_{name}")
    with (
        on_database(tmp_path / "home", database) as stack,
        started(stack.server(*SEALING)) as server,
    ):
        journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
        experiment_id = connect(server).experiment("crashes")
        writers = [
            start_writer(server, experiment_id, journal, number)
            for number, journal in enumerate(journals)
        ]
        try:
            crash_by_turns(server, database, journals)
            assert [writer.poll() for writer in writers] == [None] * WRITERS
        finally:
            for writer in writers:
                writer.communicate(timeout=60)
        told = [read_journal(journal) for journal in journals]
        statuses = Counter(status for journal in told for one in journal for status in one.statuses)
        print(name, statuses)
        assert {200, 400, 503} <= set(statuses), statuses
        assert judge(connect(server), experiment_id, told) == []
        command = [str(BIN / "runfold"), "verify", "--home", str(stack.home), *stack.flags]
        verified = subprocess.run(command, capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
