"""The benchmark's cases past one machine: their targets, the load on several API processes, what
their checks find, and how they start Runfold in parts. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.benchmarks import report
from infra.benchmarks.bench import Bench, Options
from infra.benchmarks.cases.backends import (
    is_fresh,
    load_side_by_side,
    rate,
    reads_after_writes,
)
from infra.benchmarks.load import Clients, Outcome, http_request, run_loads, same_request
from infra.benchmarks.parts import backed
from infra.benchmarks.peers import Peers
from infra.benchmarks.results import Results, row_met, verdicts
from infra.benchmarks.rows import MLFLOW, ROWS, RUNFOLD
from infra.benchmarks.servers import Server
from tests import servers

ROW = {row.name: row for row in ROWS}


def bench_in(folder: Path) -> Bench:
    """A bench with the shortest loads."""
    return Bench(Options(seconds=0.2, repeat=1), Peers(folder / "peers"), folder)


def as_measured(server: servers.Server) -> Server:
    """The benchmark's own view of a server of the tests."""
    assert server.process is not None
    return Server(RUNFOLD, server.port, server.folder, server.process)


def test_two_api_processes_are_set_against_one() -> None:
    """The row is met where two take as much as one, and the table says what it is compared with."""
    made = Results()
    made.record("kafka", RUNFOLD, 100)
    made.record("kafka-two", RUNFOLD, 100)
    (verdict,) = verdicts(made, ROW["kafka-two"])
    assert (verdict.wanted, verdict.reached, verdict.met) == ("1 × one API process", "1 ×", True)
    made.values["kafka-two"][RUNFOLD] = [99.0]
    assert row_met(made, ROW["kafka-two"]) is False


def test_each_log_is_set_against_the_mlflow_that_the_issue_names() -> None:
    """Kafka against MLflow on SQLite, of the first case; PostgreSQL against it on PostgreSQL."""
    made = Results()
    for row, name, value in (
        ("log-batch", MLFLOW, 10),
        ("postgresql", MLFLOW, 20),
        ("kafka", RUNFOLD, 80),
        ("postgresql", RUNFOLD, 199),
    ):
        made.record(row, name, value)
    (kafka,), (postgresql,) = verdicts(made, ROW["kafka"]), verdicts(made, ROW["postgresql"])
    assert (kafka.wanted, kafka.met) == ("8 × MLflow on SQLite", True)
    assert (postgresql.wanted, postgresql.met) == ("10 × MLflow on PostgreSQL", False)


def test_loads_side_by_side_count_as_one() -> None:
    """From the first one's start to the last one's end, all of their points."""
    first = Outcome(started=10.0, ended=14.0, statuses={200: 6, 503: 9})
    second = Outcome(started=10.0, ended=15.0, statuses={200: 4})
    assert rate([first, second]) == 2_000.0


@contextmanager
def counting() -> Iterator[tuple[int, list[str]]]:
    """The port of a server that answers 200 to everything, and the paths that it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    # Not daemons: the server's end waits for each connection's thread, which closes its socket.
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def test_a_group_of_connections_can_have_a_port_of_its_own() -> None:
    """One load goes to two servers at once, each of which gets what is meant for it."""
    with counting() as (first, of_first), counting() as (second, of_second):
        groups = [
            Clients([same_request(http_request("GET", "/a"), 3)]),
            Clients([same_request(http_request("GET", "/b"), 2)], port=second),
        ]
        outcomes = run_loads(first, groups)
    assert [one.answered for one in outcomes] == [3, 2]
    assert of_first == ["/a"] * 3
    assert of_second == ["/b"] * 2


def test_a_read_is_fresh_where_it_has_the_last_point() -> None:
    """An older point, or none, is a read that did not see the write before it."""

    def answer(*metrics: dict[str, object]) -> bytes:
        return json.dumps({"run": {"data": {"metrics": metrics}}}).encode()

    assert is_fresh(answer({"key": "m", "value": 7.0, "step": 7}), 7)
    assert is_fresh(answer({"key": "m", "value": 0.0}), 0)
    assert not is_fresh(answer({"key": "m", "value": 6.0, "step": 6}), 7)
    assert not is_fresh(b'{"run": {"data": {}}}', 0)


def test_a_case_counts_back_what_it_has_sent(
    runfold_server: servers.Server, tmp_path: Path
) -> None:
    """A load over two addresses and reads after writes fill their rows."""
    bench, api = bench_in(tmp_path), as_measured(runfold_server)
    load_side_by_side(bench, "kafka", "kafka-two", [api, api])
    assert len(reads_after_writes(bench, api, 5)) == 5
    assert bench.results.problems == {}
    assert bench.results.values["kafka-two"][RUNFOLD][0] > 1_000
    assert bench.results.values["kafka-lag"][RUNFOLD][0] < 10


def test_parts_say_where_everything_is(tmp_path: Path) -> None:
    """Without servers below, the parts share a home folder and no flag is needed."""
    with backed(tmp_path / "all", "sqlite", "sqlite") as parts:
        assert (parts.flags, parts.services) == ([], {})
        assert parts.home.is_dir()


def test_a_table_of_another_name_has_no_charts(tmp_path: Path) -> None:
    """Some cases alone don't write over the charts of a whole run."""
    made = Results()
    made.record("idle", RUNFOLD, 200)
    head = report.Head("infra/scripts/benchmark", {}, {}, {}, {})
    report.write(made, head, tmp_path, "results-backends")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"results-backends.json", "results-backends.md"}
    assert "Charts" not in (tmp_path / "results-backends.md").read_text()


def test_a_peer_that_lacks_a_driver_is_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that an earlier version of the benchmark made gets what this one needs."""
    installed: list[list[str]] = []

    def run(command: list[str], **_: object) -> None:
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True, exist_ok=True)
        else:
            installed.append(command)

    monkeypatch.setattr(subprocess, "run", run)
    peers = Peers(tmp_path)
    program = peers.program(MLFLOW)
    assert len(installed) == 1
    assert any(word.startswith("psycopg2-binary==") for word in installed[0])
    assert peers.program(MLFLOW) == program
    assert len(installed) == 1
    (program.parent.parent / "installed").write_text("")
    peers.program(MLFLOW)
    assert len(installed) == 2
