"""What clients are told while the views' database is away, and that all is well once it is back."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from infra.backends.service import Service
from tests.backends import fresh_database
from tests.faults.conftest import Connect
from tests.faults.judge import judge, read_journal
from tests.faults.processes import descendants
from tests.faults.test_crashes import start_writer
from tests.faults.wire import Wire
from tests.servers import BIN, Server, send

AWAY_S = {"postgresql": (6.0, 30.0), "mariadb": (6.0, 6.0)}
"""How long each is silent, and then dead."""
WRITERS = 4
WAIT_MAX_S = 3.0
ANSWER_S_MAX = WAIT_MAX_S + 7.0
"""Past the bound a read still has to find out that its connection is dead, on a busy machine."""
BACK_S_MAX = 20.0
SEAL_OFTEN = ("--seal-points", "2000", "--seal-age", "2", "--export-age", "2")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=AWAY_S)
def database(request: pytest.FixtureRequest) -> Service:
    """A server that the test may stop and kill."""
    service: Service = request.getfixturevalue(f"own_{request.param}")
    return service


@pytest.fixture
def uri(database: Service) -> Iterator[str]:
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


def test_the_views_database_is_away(
    tmp_path: Path,
    database: Service,
    uri: str,
    start_runfold: Callable[..., Server],
    connect: Connect,
) -> None:
    """Metrics of known runs are accepted at once all the time, reads answer 503 with Retry-After
    soon; once it is back reads are fresh, and of what four writers sent nothing is lost, twice, or
    there by halves."""
    home = tmp_path / "home"
    flags = ["--views-uri", uri, "--wait-max", str(WAIT_MAX_S)]
    server = start_runfold(home, *flags, *SEAL_OFTEN)
    wire = connect(server)
    experiment_id = wire.experiment("away")
    known = Known(server, wire, wire.run(wire.experiment("known"), "r"))
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(server, experiment_id, path, number) for number, path in enumerate(journals)
    ]
    try:
        for away, seconds in zip((stopped, killed), AWAY_S[database.name], strict=True):
            time.sleep(2.0)
            known.log()
            known.require_all()
            with away(database):
                known.use_while_away(seconds)
            known.wait_until_back()
            known.require_all()
        time.sleep(2.0)
        assert [writer.poll() for writer in writers] == [None] * WRITERS
    finally:
        for writer in writers:
            writer.communicate(timeout=90)
    told = [read_journal(path) for path in journals]
    assert judge(connect(server), experiment_id, told) == []
    command = [str(BIN / "runfold"), "verify", "--home", str(home), "--views-uri", uri]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@dataclass
class Known:
    """A run that the server knew before the views' database went away."""

    server: Server
    wire: Wire
    run_id: str
    logged: int = 0

    def log(self) -> None:
        """Logs one point more."""
        step = self.logged
        point = {"run_id": self.run_id, "key": "m", "value": step, "timestamp": 1, "step": step}
        assert self.wire.post("runs/log-metric", point).status == 200
        self.logged += 1

    def require_all(self) -> None:
        """What was logged is what is read."""
        expected = [(step, float(step)) for step in range(self.logged)]
        assert self.wire.history(self.run_id, "m") == expected

    def use_while_away(self, seconds: float) -> None:
        """Writes and reads for so long, and each is answered as it should be."""
        ends = time.monotonic() + seconds
        targets = cycle(
            (
                f"/api/2.0/mlflow/runs/get?run_id={self.run_id}",
                f"/api/2.0/mlflow/metrics/get-history?run_id={self.run_id}&metric_key=m",
                "/api/2.0/mlflow/experiments/get?experiment_id=0",
            )
        )
        while time.monotonic() < ends:
            with soon():
                self.log()
            with soon():
                read = send(self.server.url, "GET", next(targets))
            assert (read.status, "retry-after" in read.headers) == (503, True), read.body
            with soon():
                assert send(self.server.url, "GET", "/health").status == 200
            time.sleep(0.05)  # So that there is not too much to read in the end.

    def wait_until_back(self) -> None:
        """Reads are refused for a moment more at most."""
        returned = time.monotonic()
        while (reply := self.wire.get("runs/get", run_id=self.run_id)).status != 200:
            assert reply.status == 503, reply
            assert time.monotonic() < returned + BACK_S_MAX, self.server.tail()
            time.sleep(0.2)


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """Around a call that must be answered without a long wait."""
    started = time.monotonic()
    yield
    assert time.monotonic() < started + ANSWER_S_MAX
