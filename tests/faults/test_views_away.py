"""What clients are told while the views' database is away, and that all is well once it is back."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.backends.service import Service
from tests.backends import fresh_database
from tests.faults.conftest import Connect
from tests.faults.judge import judge, read_journal
from tests.faults.processes import descendants
from tests.faults.wire import Wire
from tests.servers import BIN, Server, send

AWAY_S = 30.0
WRITERS = 4
SEED = 20_261_121
WAIT_MAX_S = 3.0
ANSWER_S_MAX = WAIT_MAX_S + 7.0
"""Past the bound a read still has to find out that its connection is dead, on a busy machine."""
BACK_S_MAX = 20.0
SEAL_OFTEN = ("--seal-points", "2000", "--seal-age", "2", "--export-age", "2")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=("postgresql", "mariadb"))
def database(request: pytest.FixtureRequest) -> Service:
    """A server that the test may stop and kill."""
    service: Service = request.getfixturevalue(f"own_{request.param}")
    return service


@pytest.fixture
def views_uri(database: Service) -> Iterator[str]:
    """An empty database there."""
    yield from fresh_database(database)


@contextlib.contextmanager
def stopped(database: Service) -> Iterator[None]:
    """It takes connections and says nothing, as one whose machine hangs or whose network is cut."""
    assert database.process is not None
    pids = list(descendants(database.process.pid))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def killed(database: Service) -> Iterator[None]:
    """It died, and is started again in the end."""
    database.kill()
    yield
    database.start()


@pytest.mark.parametrize("away", [stopped, killed])
def test_the_views_database_is_away(
    tmp_path: Path,
    database: Service,
    views_uri: str,
    start_runfold: Callable[..., Server],
    connect: Connect,
    away: Callable[[Service], contextlib.AbstractContextManager[None]],
) -> None:
    """Metrics of known runs are accepted at once all the time, reads answer 503 with Retry-After
    soon; once it is back reads are fresh, and of what four writers sent nothing is lost, twice, or
    there by halves."""
    home = tmp_path / "home"
    flags = ["--views-uri", views_uri, "--wait-max", str(WAIT_MAX_S)]
    server = start_runfold(home, *flags, *SEAL_OFTEN)
    wire = connect(server)
    experiment_id = wire.experiment("away")
    run_id = wire.run(wire.experiment("known"), "r")
    wire.done("runs/log-metric", point(run_id, 0))
    assert wire.history(run_id, "m") == [(0, 0.0)]
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(server, experiment_id, path, SEED + number)
        for number, path in enumerate(journals)
    ]
    try:
        time.sleep(3.0)
        with away(database):
            sent = while_away(server, wire, run_id)
        returned = time.monotonic()
        while (reply := wire.get("runs/get", run_id=run_id)).status != 200:
            assert reply.status == 503, reply
            assert time.monotonic() < returned + BACK_S_MAX, server.tail()
            time.sleep(0.2)
        assert wire.history(run_id, "m") == [(step, float(step)) for step in range(sent + 1)]
        time.sleep(3.0)
        assert [writer.poll() for writer in writers] == [None] * WRITERS
    finally:
        for writer in writers:
            writer.communicate(timeout=90)
    told = [read_journal(path) for path in journals]
    assert judge(connect(server), experiment_id, told) == []
    command = [str(BIN / "runfold"), "verify", "--home", str(home), "--views-uri", views_uri]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def start_writer(
    server: Server, experiment_id: str, journal: Path, seed: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.faults.writer", server.url, experiment_id]
    command += [str(journal), journal.name, str(seed)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def point(run_id: str, step: int) -> dict[str, object]:
    return {"run_id": run_id, "key": "m", "value": float(step), "timestamp": 1, "step": step}


def while_away(server: Server, wire: Wire, run_id: str) -> int:
    """Writes and reads for as long as it takes; returns the last step that was written."""
    ends, step = time.monotonic() + AWAY_S, 0
    targets = [
        f"/api/2.0/mlflow/runs/get?run_id={run_id}",
        f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=m",
        "/api/2.0/mlflow/experiments/get?experiment_id=0",
    ]
    while time.monotonic() < ends:
        step += 1
        with soon():
            assert wire.post("runs/log-metric", point(run_id, step)).status == 200
        with soon():
            read = send(server.url, "GET", targets[step % len(targets)])
        assert (read.status, "retry-after" in read.headers) == (503, True), read.body
        with soon():
            assert send(server.url, "GET", "/health").status == 200
    return step


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """Around a call that must be answered without a long wait."""
    started = time.monotonic()
    yield
    assert time.monotonic() < started + ANSWER_S_MAX
