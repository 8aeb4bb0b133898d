"""What clients are told while nothing is folded: no stale reads, no writes that seem to fail."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.conftest import Connect
from tests.faults.processes import of_role
from tests.faults.wire import Wire
from tests.servers import Server, send

WAIT_MAX_S = "0.5"


@pytest.fixture
def stalled(tmp_path: Path, start_runfold: Callable[..., Server]) -> Iterator[tuple[Server, int]]:
    """A server, and its folding process, which the test may stop with SIGSTOP."""
    server = start_runfold(tmp_path / "home", "--wait-max", WAIT_MAX_S)
    worker = of_role(server, "projector")
    assert worker is not None
    yield server, worker
    os.kill(worker, signal.SIGCONT)


def test_a_read_that_can_not_be_fresh(stalled: tuple[Server, int], connect: Connect) -> None:
    """A read past the bound is a 503 that says when to try again; who asked for any answer gets
    the old one; once folding goes on the read is fresh."""
    server, worker = stalled
    wire = connect(server)
    run_id = wire.run(wire.experiment("stalled"), "r")
    point = {"run_id": run_id, "key": "m", "value": 1.5, "timestamp": 1}
    os.kill(worker, signal.SIGSTOP)
    assert wire.post("runs/log-metric", point).status == 200
    target = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=m"
    late = send(server.url, "GET", target)
    assert (late.status, "retry-after" in late.headers) == (503, True)
    assert b"TEMPORARILY_UNAVAILABLE" in late.body
    old = send(server.url, "GET", target, headers={"Runfold-Consistency": "eventual"})
    assert (old.status, b"1.5" in old.body) == (200, False)
    os.kill(worker, signal.SIGCONT)
    assert wire.history(run_id, "m") == [(0, 1.5)]


def test_a_write_that_waits_for_its_verdict(stalled: tuple[Server, int], connect: Connect) -> None:
    """A durable event is never answered with an error for being folded late, however late."""
    server, worker = stalled
    wire = connect(server)
    wire.experiment("waiting")
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        writes = [pool.submit(create_experiment, server, "fought over") for _ in range(2)]
        with pytest.raises(TimeoutError):
            writes[0].result(timeout=3 * float(WAIT_MAX_S))
        os.kill(worker, signal.SIGCONT)
        statuses = [write.result() for write in writes]
    assert sorted(statuses) == [200, 400]


def test_a_write_whose_verdict_is_certain(stalled: tuple[Server, int], connect: Connect) -> None:
    """A run and its params need no fold to be answered, while nobody else writes; the second value
    for a param is refused all the same."""
    server, worker = stalled
    wire = connect(server)
    experiment_id = wire.experiment("certain")
    os.kill(worker, signal.SIGSTOP)
    run_id = wire.run(experiment_id, "r")
    assert set_param(server, run_id, "first") == 200
    assert set_param(server, run_id, "second") == 400
    os.kill(worker, signal.SIGCONT)
    assert wire.run_data(run_id)["params"] == {"p": "first"}


def create_experiment(server: Server, name: str) -> int:
    """The status of creating an experiment."""
    wire = Wire(server.url)
    try:
        return wire.post("experiments/create", {"name": name}).status
    finally:
        wire.close()


def set_param(server: Server, run_id: str, value: str) -> int:
    """The status of setting the run's one param."""
    wire = Wire(server.url)
    try:
        return wire.post(
            "runs/log-parameter", {"run_id": run_id, "key": "p", "value": value}
        ).status
    finally:
        wire.close()
