"""The roles alone, many of each, on one folder: what one does the others see, and one that dies is
replaced."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from infra.backends.service import Service
from tests.faults.conftest import Connect
from tests.faults.judge import ACKNOWLEDGED, UNKNOWN, Told, judge, read_journal
from tests.faults.test_crashes import SEAL_OFTEN, start_writer
from tests.servers import BIN, Server, send
from tests.stacks import Stack, new_stack

Start = Callable[..., Server]

WRITERS = 4
DEATHS = 3
"""Of each role."""
TAKEOVER_S_MAX = 10.0
DONE_S_MAX = 30.0


def eventually(what: str, holds: Callable[[], bool], seconds: float = DONE_S_MAX) -> float:
    """Waits until something holds; returns how long that took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begun


def is_active(worker: Server) -> bool:
    """Whether a worker works, rather than stand by."""
    return send(worker.url, "GET", "/ready").body == b"active"


@dataclass
class Pair:
    """Two workers of one role."""

    active: Server
    standby: Server

    def lose(self) -> float:
        """Kills the active one and starts it again, as the standby of the other; returns the
        seconds until that one was active."""
        self.active.kill()
        took_s = eventually("taken over", partial(is_active, self.standby))
        self.active, self.standby = self.standby, self.active
        self.standby.start()
        return took_s


def two_of(start: Start, words: str, *flags: str) -> Pair:
    """Two of a role, of which one works."""
    active = start(words, *flags)
    eventually("active", lambda: is_active(active))
    standby = start(words, *flags)
    eventually("standing by", lambda: '"standing by' in standby.tail())
    assert not is_active(standby)
    return Pair(active, standby)


@pytest.fixture
def stack(stack_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack of the test's own."""
    with new_stack(stack_name, tmp_path / "home", request) as stack:
        yield stack


@pytest.fixture
def start_on_stack(stack: Stack, start_role: Start) -> Start:
    """Starts one role on it."""

    def start(words: str, *flags: str) -> Server:
        return start_role(stack.home, words, *stack.flags, *flags, environment=stack.environment)

    return start


def verify(stack: Stack) -> None:
    """The views are what the log gives."""
    done = subprocess.run(
        [str(BIN / "runfold"), "verify", "--home", str(stack.home), *stack.flags],
        env={**os.environ, **stack.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_the_load_was_real(told: Sequence[Sequence[Told]]) -> None:
    """Much was acknowledged, and the deaths met requests under way."""
    operations = [one for journal in told for one in journal]
    fates = Counter(one.fate for one in operations)
    assert fates[ACKNOWLEDGED] > 200, fates
    assert any(one.fate == UNKNOWN or one.repeated_after_loss for one in operations), fates


def test_each_role_dies_and_nothing_is_lost(
    stack: Stack, start_on_stack: Start, tmp_path: Path, connect: Connect
) -> None:
    """Two API processes write to one log while one of them, the active projector and the active
    sealer are killed again and again: the other API process goes on, each standby takes over within
    10 s, and every write is there once, whichever took it."""
    pairs = [
        two_of(start_on_stack, "worker projector"),
        two_of(start_on_stack, "worker sealer", *SEAL_OFTEN),
    ]
    apis = [start_on_stack("api") for _ in range(2)]
    wire = connect(apis[1])
    experiment_id, run_id = wire.experiment("roles"), wire.run(wire.experiment("beside"), "r")
    journals = [tmp_path / f"journal{number}" for number in range(WRITERS)]
    writers = [
        start_writer(api, experiment_id, journal, number)
        for number, (api, journal) in enumerate(zip(cycle(apis), journals, strict=False))
    ]
    try:
        for number in range(DEATHS):
            time.sleep(1.0)
            apis[0].kill()
            point = {"run_id": run_id, "key": "m", "value": number, "timestamp": 1, "step": number}
            wire.done("runs/log-metric", point)
            apis[0].start()
            for pair in pairs:
                assert pair.lose() < TAKEOVER_S_MAX
        time.sleep(1.0)
    finally:
        for writer in writers:
            writer.communicate(timeout=60)
    told = [read_journal(journal) for journal in journals]
    check_the_load_was_real(told)
    for api in apis:
        assert judge(connect(api), experiment_id, told) == []
        assert len(connect(api).history(run_id, "m")) == DEATHS
    for server in (*apis, *(one for pair in pairs for one in (pair.active, pair.standby))):
        server.stop()
    verify(stack)


def test_one_log_through_two_apis(tmp_path: Path, start_role: Start, connect: Connect) -> None:
    """What one API process was told 200 for, the other shows at once; of values for one param that
    race through both one wins; and a run deleted through one is closed on the other."""
    home = tmp_path / "home"
    start_role(home, "worker projector")
    one, other = (connect(start_role(home, "api")) for _ in range(2))
    experiment_id = one.experiment("shared")
    assert other.get("experiments/get-by-name", experiment_name="shared").status == 200
    run_id = other.run(experiment_id, "r")
    for number in range(20):
        writer, reader = (one, other) if number % 2 else (other, one)
        point = {"run_id": run_id, "key": "m", "value": number, "timestamp": 1, "step": number}
        writer.done("runs/log-metric", point)
        assert len(reader.history(run_id, "m")) == number + 1
    for name in range(10):
        param = {"run_id": run_id, "key": f"p{name}"}
        with ThreadPoolExecutor(2) as pool:
            racing = [
                pool.submit(wire.post, "runs/log-parameter", {**param, "value": value})
                for wire, value in ((one, "1"), (other, "2"))
            ]
            replies = [future.result() for future in racing]
        assert sorted(reply.status for reply in replies) == [200, 400]
        winner = "1" if replies[0].status == 200 else "2"
        assert one.run_data(run_id)["params"][f"p{name}"] == winner
    one.done("runs/delete", {"run_id": run_id})
    late = {"run_id": run_id, "key": "m", "value": 1.0, "timestamp": 1}
    eventually("refused", lambda: other.post("runs/log-metric", late).status == 400, seconds=1.0)


def test_an_api_is_ready_once_its_views_are_made(
    tmp_path: Path, start_role: Start, connect: Connect
) -> None:
    """Without views an API is alive and not ready, and says why; with them it is both."""
    home = tmp_path / "home"
    api = start_role(home, "api")
    answer = send(api.url, "GET", "/ready", headers={"Host": "balancer.corp"})
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert b"being made" in answer.body
    assert send(api.url, "GET", "/health").status == 200
    start_role(home, "worker projector")
    eventually("ready", lambda: send(api.url, "GET", "/ready").status == 200)
    connect(api).experiment("first")
    found = send(api.url, "GET", "/ready").json()
    assert isinstance(found, dict)
    assert found["lanes"]["journal"]["partitions"][0]["lag"] == 0


def test_an_api_without_its_log_is_not_ready(
    tmp_path: Path, start_role: Start, own_postgresql: Service
) -> None:
    """While the log's server is away /ready and /metrics say so; once it is back all is well."""
    flags = ("--log-uri", own_postgresql.uri)
    home = tmp_path / "home"
    start_role(home, "worker projector", *flags)
    api = start_role(home, "api", *flags)
    eventually("ready", lambda: send(api.url, "GET", "/ready").status == 200)
    assert b"\nrunfold_log_up 1\n" in send(api.url, "GET", "/metrics").body
    own_postgresql.end()
    eventually("not ready", lambda: send(api.url, "GET", "/ready").status == 503)
    assert b'"no log"' in send(api.url, "GET", "/ready").body
    assert b"\nrunfold_log_up 0\n" in send(api.url, "GET", "/metrics").body
    own_postgresql.start()
    eventually("ready again", lambda: send(api.url, "GET", "/ready").status == 200)


def test_gc_as_a_worker(
    tmp_path: Path, start_runfold: Start, start_role: Start, connect: Connect
) -> None:
    """What was deleted is gone for good a moment later, and the worker counts it."""
    home = tmp_path / "home"
    wire = connect(start_runfold(home))
    experiment_id = wire.experiment("e")
    kept, gone = wire.run(experiment_id, "kept"), wire.run(experiment_id, "gone")
    worker = start_role(home, "worker gc", "--older-than", "0s", "--interval", "1s")
    wire.done("runs/delete", {"run_id": gone})
    eventually("purged", lambda: wire.get("runs/get", run_id=gone).status == 404)
    assert wire.get("runs/get", run_id=kept).status == 200
    eventually(
        "counted",
        lambda: b"runfold_gc_purged_total 1\n" in send(worker.url, "GET", "/metrics").body,
    )


@pytest.mark.parametrize("words", ["api", "worker projector", "worker sealer", "worker gc"])
def test_a_role_ends_when_it_is_told_to(tmp_path: Path, start_role: Start, words: str) -> None:
    """SIGTERM ends each role in good order."""
    server = start_role(tmp_path / "home", words)
    server.stop()
    assert server.process is not None
    # uvicorn hands the signal on once it is done.
    ended = -signal.SIGTERM if words == "api" else 0
    assert server.process.returncode == ended, server.tail()
    assert "Traceback" not in server.tail(1_000)
