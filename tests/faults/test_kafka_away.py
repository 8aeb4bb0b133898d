"""A broker that is there and answers nothing: who does not need it is not held up by it."""

import signal
import threading
import time
from collections.abc import Callable
from os import kill
from pathlib import Path

import pytest
import requests

from events.group_commit import STALLED_S
from events.kafka_log import init_log
from events.kafka_settings import KafkaAccess
from infra.backends.service import Service
from tests.faults.conftest import Connect
from tests.faults.wire import Wire
from tests.servers import Server

WRITERS = 4
HANGS_S = STALLED_S + 5.0
ANSWER_S_MAX = 1.0
BACK_S_MAX = 20.0


class Writer(threading.Thread):
    """Logs one point after the other, each under a step of its own, and keeps the answers."""

    def __init__(self, url: str, run_id: str, key: str) -> None:
        super().__init__(daemon=True)
        self._wire = Wire(url)
        self._point = {"run_id": run_id, "key": key, "value": 1.0, "timestamp": 1}
        self.key = key
        self.ended = threading.Event()
        self.statuses: dict[int, int] = {}

    def run(self) -> None:
        """Until it is told to end."""
        step = 0
        while not self.ended.is_set():
            step += 1
            reply = self._wire.post("runs/log-metric", {**self._point, "step": step})
            self.statuses[step] = reply.status
            if reply.status != 200:
                time.sleep(0.2)
        self._wire.close()


class Balancer(threading.Thread):
    """Asks whether requests are to go there, and for the metrics, and keeps the answers."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.ended = threading.Event()
        self.ready: set[int] = set()
        self.metrics: set[tuple[int, bool]] = set()

    def run(self) -> None:
        """Until it is told to end."""
        while not self.ended.wait(0.1):
            self.ready.add(requests.get(f"{self._url}/ready", timeout=60).status_code)
            found = requests.get(f"{self._url}/metrics", timeout=60)
            self.metrics.add((found.status_code, "\nrunfold_log_up 0\n" in found.text))


def slowest(url: str, run_id: str, until: float) -> float:
    """How long the slowest answer took of those that need no broker, beside some that do."""
    worst = 0.0
    balancer = Balancer(url)
    balancer.start()
    stale = {"Runfold-Consistency": "eventual"}
    asked = (f"{url}/version", f"{url}/api/2.0/mlflow/runs/get?run_id={run_id}")
    while time.monotonic() < until:
        for place in asked:
            began = time.monotonic()
            assert requests.get(place, headers=stale, timeout=60).status_code == 200
            worst = max(worst, time.monotonic() - began)
        time.sleep(0.05)
    balancer.ended.set()
    assert (balancer.ready, balancer.metrics) == ({503}, {(200, True)})
    return worst


@pytest.mark.timeout(180)
def test_a_broker_that_hangs_holds_up_no_other_request(
    tmp_path: Path,
    own_kafka: Service,
    start_runfold: Callable[..., Server],
    connect: Connect,
) -> None:
    """While writes wait for the broker, what needs none is answered as ever, also beside a balancer
    and a scrape, who are told that it is away; writes are refused after a while, fresh reads too;
    and once the broker goes on each write that was on its way is acknowledged, those that were
    refused are not there, and the others are there once."""
    uri = f"{own_kafka.uri}/hangs"
    init_log(uri, KafkaAccess(), 2)
    server = start_runfold(tmp_path / "home", "--log-uri", uri)
    wire = connect(server)
    run_id = wire.run("0", "r")
    writers = [Writer(server.url, run_id, f"m{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(2.0)
    assert own_kafka.process is not None
    kill(own_kafka.process.pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)
        under_way = [len(writer.statuses) + 1 for writer in writers]
        late = Writer(server.url, run_id, "late")
        hung = time.monotonic() + HANGS_S
        worst = slowest(server.url, run_id, hung)
        late.start()
        time.sleep(1.0)
        assert set(late.statuses.values()) == {503}
        assert wire.get("runs/get", run_id=run_id).status == 503
    finally:
        kill(own_kafka.process.pid, signal.SIGCONT)
    back = time.monotonic() + BACK_S_MAX
    while 200 not in late.statuses.values():
        assert time.monotonic() < back, "no write was taken after the broker went on"
        time.sleep(0.05)
    for writer in [*writers, late]:
        writer.ended.set()
        writer.join(60)
    print(f"the slowest answer without a broker took {worst * 1000:.0f} ms")
    assert worst < ANSWER_S_MAX
    assert [writer.statuses[step] for writer, step in zip(writers, under_way, strict=True)] == [
        200
    ] * WRITERS
    for writer in [*writers, late]:
        taken = sorted(step for step, status in writer.statuses.items() if status == 200)
        assert sorted(step for step, _ in wire.history(run_id, writer.key)) == taken
