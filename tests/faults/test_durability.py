"""A 200 leaves after an fsync that began after its event was written, seen in the system calls."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import servers
from tests.faults import system_calls
from tests.faults.wire import Wire
from tests.servers import Server

CLIENTS = 8
ROUNDS = 6
LOG = "/log.db-wal"


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Server]:
    """A server whose system calls go to the file `trace`."""
    servers.require(shutil.which("strace") is not None, "strace")
    server = servers.runfold(tmp_path / "home")
    server.command = [*system_calls.COMMAND, str(tmp_path / "trace"), *server.command]
    yield server.start()
    server.kill()


def end_traced(server: Server) -> None:
    """Stops the server that strace started; strace ends by itself then, its file complete."""
    assert server.process is not None
    strace = server.process.pid
    [child] = Path(f"/proc/{strace}/task/{strace}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    server.process.wait(60)


def log_everything(url: str, experiment_id: str, client: int) -> list[str]:
    """Writes in each way, on both lanes; tells the marker that each request carried."""
    markers: list[str] = []

    def mark() -> str:
        markers.append(f"mark-{client}-{len(markers)}-end")
        return markers[-1]

    wire = Wire(url)
    run_id = wire.run(experiment_id, mark())
    calls: list[tuple[str, Callable[[], dict[str, object]]]] = [
        ("runs/log-metric", lambda: {"key": mark(), "value": 0.5, "timestamp": 1}),
        ("runs/log-parameter", lambda: {"key": mark(), "value": "v"}),
        ("runs/set-tag", lambda: {"key": mark(), "value": "v"}),
        ("runs/log-batch", lambda: {"metrics": [{"key": mark(), "value": 2, "timestamp": 1}]}),
        ("runs/log-batch", lambda: {"tags": [{"key": mark(), "value": "v"}]}),
    ]
    for _ in range(ROUNDS):
        for path, body in calls:
            wire.done(path, {"run_id": run_id, **body()})
        wire.experiment(mark())
    wire.close()
    return markers


def test_an_answer_waits_for_its_fsync(traced: Server, tmp_path: Path) -> None:
    """Under eight clients, every 200 of every kind of write leaves after its event's fsync."""
    wire = Wire(traced.url)
    experiment_id = wire.experiment("durable")
    wire.close()
    with ThreadPoolExecutor(CLIENTS) as pool:
        logged = pool.map(
            lambda client: log_everything(traced.url, experiment_id, client), range(CLIENTS)
        )
        markers = [marker for client in logged for marker in client]
    end_traced(traced)
    calls = system_calls.parse((tmp_path / "trace").read_text(errors="replace").splitlines())
    assert len(markers) == CLIENTS * (ROUNDS * 6 + 1)
    assert system_calls.early_answers(calls, markers, LOG) == []


REQUEST = '7  read(9<socket:[1]>, "POST / HTTP/1.1 m-1", 99) = 20'
WRITTEN = '8  pwrite64(5</h/log.db-wal>, "..m-1..", 4096, 0) = 4096'
SYNC = "8  fsync(5</h/log.db-wal>) = 0"
SYNC_BEGINS = "8  fsync(5</h/log.db-wal> <unfinished ...>"
SYNC_ENDS = "8  <... fsync resumed>) = 0"
OTHER_SYNC = "8  fsync(6</h/views.db-wal>) = 0"
ANSWER = '7  write(9<socket:[1]>, "HTTP/1.1 200 OK", 15) = 15'


@pytest.mark.parametrize(
    ("lines", "fine"),
    [
        ([REQUEST, WRITTEN, SYNC, ANSWER], True),
        ([REQUEST, WRITTEN, SYNC_BEGINS, SYNC_ENDS, ANSWER], True),
        ([REQUEST, WRITTEN, ANSWER, SYNC], False),
        ([REQUEST, WRITTEN, SYNC_BEGINS, ANSWER, SYNC_ENDS], False),
        ([REQUEST, SYNC_BEGINS, WRITTEN.replace("8 ", "6 "), SYNC_ENDS, ANSWER], False),
        ([REQUEST, SYNC, WRITTEN, ANSWER], False),
        ([REQUEST, WRITTEN, OTHER_SYNC, ANSWER], False),
        ([REQUEST, ANSWER], False),
        ([WRITTEN, SYNC, ANSWER], False),
    ],
)
def test_the_judge_sees_an_early_answer(lines: list[str], fine: bool) -> None:
    """A sync that is missing, too early, unfinished or of another file does not count."""
    complaints = system_calls.early_answers(system_calls.parse(lines), ["m-1"], LOG)
    assert (complaints == []) == fine, complaints
