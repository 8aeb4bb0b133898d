"""Kills the server's processes and the broker under load; the writers' journals are the judge."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from events.kafka_log import init_log
from events.kafka_settings import KafkaAccess
from infra.backends.service import Service
from tests.faults.conftest import Connect
from tests.faults.judge import judge, read_journal
from tests.faults.test_crashes import (
    SEAL_OFTEN,
    SEED,
    WRITERS,
    check_the_load_was_real,
    crash,
    start_writer,
)
from tests.servers import BIN, Server

CRASHES = ("api", "broker", "projector", "api", "projector", "server", "broker", "projector")
ROUNDS = 16
PARTITIONS = 3
BROKER_AWAY_S_MAX = 2.0


@pytest.mark.timeout(900)
def test_crashes_of_server_and_broker_under_load(
    tmp_path: Path,
    own_kafka: Service,
    start_runfold: Callable[..., Server],
    connect: Connect,
) -> None:
    """Whoever is killed, the API, the projector, all of the server or Kafka's broker: each
    acknowledged write is there once, each refused one never, each unknown one at most once and
    whole, and the views are what the log says."""
    uri = f"{own_kafka.uri}/crashes"
    init_log(uri, KafkaAccess(), PARTITIONS)
    server = start_runfold(tmp_path / "home", "--log-uri", uri, *SEAL_OFTEN)
    experiment_id = connect(server).experiment("crashes")
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(server, experiment_id, journal, number)
        for number, journal in enumerate(journals)
    ]
    chance = random.Random(SEED)
    try:
        for number in range(ROUNDS):
            time.sleep(chance.uniform(1.0, 3.0))
            assert [writer.poll() for writer in writers] == [None] * WRITERS
            who = CRASHES[number % len(CRASHES)]
            if who == "broker":
                own_kafka.end(signal.SIGKILL)
                time.sleep(chance.uniform(0.0, BROKER_AWAY_S_MAX))
                own_kafka.start()
            else:
                crash(server, who)
        # Until the last broker's start is over, and its clients have found it.
        time.sleep(10.0)
    finally:
        for writer in writers:
            writer.communicate(timeout=120)
    told = [read_journal(journal) for journal in journals]
    check_the_load_was_real([one for journal in told for one in journal])
    assert judge(connect(server), experiment_id, told) == []
    verified = subprocess.run(
        [BIN / "runfold", "verify", "--home", tmp_path / "home", "--log-uri", uri],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
