"""`POST /api/2.0/runfold/sql`: answers, formats, errors with their place, limits, turns."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.ipc
import pyarrow.parquet
import pytest

from projections.query_process import FOLDERS
from tests import servers
from tests.faults.processes import descendants

SECONDS = 2.0
ROWS_MAX = 200_000
GONE_S_MAX = 30.0
FOREVER = "SELECT count(*) FROM range(1000000000000)"
MANY = "SELECT range AS i, range * 1.5::DOUBLE AS v, 'r' || range AS s FROM range({})"
VALUES = """SELECT 9223372036854775807 AS big, 170141183460469231731687303715884105727 AS huge,
  0.10::DECIMAL(5, 2) AS exact, 'NaN'::DOUBLE AS n, '-Infinity'::DOUBLE AS i, NULL AS nothing,
  'a "b",' || chr(10) AS s, TIMESTAMP '2026-01-02 03:04:05.678' AS t, [1.5, 'NaN'::DOUBLE] AS l,
  {'k': 1, 'm': DATE '2026-01-02'} AS d, 'x'::BLOB AS b, true AS y"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server with two experiments, each of one run, and two turns for queries."""
    home = tmp_path_factory.mktemp("sql") / "home"
    flags = ("--sql-seconds", str(SECONDS), "--sql-rows", str(ROWS_MAX), "--sql-memory", "300")
    started = servers.runfold(home, *flags).start()
    for name in ("one", "two"):
        body = post(started, "mlflow/experiments/create", {"name": name}).json()
        assert isinstance(body, dict)
        log_run(started, body["experiment_id"], f"run-{name}")
    yield started
    started.stop()


def post(server: servers.Server, path: str, body: object, **headers: str) -> servers.Answer:
    sent = {"Content-Type": "application/json", **headers}
    data = json.dumps(body).encode()
    return servers.send(server.url, "POST", f"/api/2.0/{path}", data, sent)


def ask(server: servers.Server, statement: str, **more: object) -> servers.Answer:
    return post(server, "runfold/sql", {"statement": statement, **more})


def rows(server: servers.Server, statement: str, **more: object) -> list[Any]:
    answer = ask(server, statement, **more)
    assert answer.status == 200, answer.body[:500]
    found = answer.json()
    assert isinstance(found, dict)
    assert found["row_count"] == len(found["rows"])
    return list(found["rows"])


def log_run(server: servers.Server, experiment_id: str, name: str) -> str:
    created = post(
        server, "mlflow/runs/create", {"experiment_id": experiment_id, "run_name": name}
    ).json()
    assert isinstance(created, dict)
    run_id = str(created["run"]["info"]["run_id"])
    metrics = [{"key": "loss", "value": n / 2, "timestamp": n, "step": n} for n in range(100)]
    assert (
        post(server, "mlflow/runs/log-batch", {"run_id": run_id, "metrics": metrics}).status == 200
    )
    return run_id


def queries_at_work(server: servers.Server) -> int:
    answer = servers.send(server.url, "GET", "/health", headers={"Accept": "application/json"})
    found = answer.json()
    assert isinstance(found, dict)
    return int(found["sql"]["running"])


def wait_until_idle(server: servers.Server) -> None:
    deadline = time.monotonic() + 10
    while queries_at_work(server) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert queries_at_work(server) == 0


def test_a_query_sees_every_write_before_it(server: servers.Server) -> None:
    """A point is in the answer of the next query, unsealed as it is, each time anew."""
    run_id = log_run(server, "0", "fresh")
    for n in range(20):
        body = {"run_id": run_id, "key": "late", "value": n, "timestamp": n, "step": n}
        assert post(server, "mlflow/runs/log-metric", body).status == 200
        found = rows(
            server,
            "SELECT count(*), max(value) FROM metrics WHERE key = $k",
            parameters={"k": "late"},
        )
        assert found == [[n + 1, float(n)]]


def test_json_keeps_every_value(server: servers.Server) -> None:
    """Whole numbers of any size are exact, what is no number is a text, the rest as documented."""
    answer = ask(server, VALUES)
    assert b"9223372036854775807,170141183460469231731687303715884105727,0.10," in answer.body
    found = json.loads(answer.body)
    assert found["rows"][0][3:] == [
        *("NaN", "-Infinity", None, 'a "b",\n', "2026-01-02 03:04:05.678", [1.5, "NaN"]),
        *({"k": 1, "m": "2026-01-02"}, "eA==", True),
    ]
    assert [column["type"] for column in found["columns"]][:3] == [
        *("BIGINT", "HUGEINT", "DECIMAL(5,2)")
    ]
    assert answer.headers["content-type"] == "application/json"


def test_every_format_has_the_same_rows(server: servers.Server) -> None:
    """NDJSON, CSV, Arrow and Parquet say what JSON says, also where there are no rows."""
    statement = MANY.format(1_000)
    expected = rows(server, statement)
    lines = ask(server, statement, format="ndjson").body.decode().splitlines()
    assert [list(json.loads(line).values()) for line in lines] == expected
    table = list(csv.reader(io.StringIO(ask(server, statement, format="csv").body.decode())))
    assert table[0] == ["i", "v", "s"]
    assert [[int(i), float(v), s] for i, v, s in table[1:]] == expected
    arrow = pyarrow.ipc.open_stream(ask(server, statement, format="arrow").body).read_all()
    assert [list(row.values()) for row in arrow.to_pylist()] == expected
    data = io.BytesIO(ask(server, statement, format="parquet").body)
    assert pyarrow.parquet.read_table(data).equals(arrow)
    none = MANY.format(0)
    assert rows(server, none) == []
    assert ask(server, none, format="csv").body == b"i,v,s\n"
    assert ask(server, none, format="ndjson").body == b""
    empty = pyarrow.ipc.open_stream(ask(server, none, format="arrow").body).read_all()
    assert (empty.num_rows, empty.schema) == (0, arrow.schema)


def test_csv_can_be_read_back(server: servers.Server) -> None:
    """Quotes, commas, line ends, an empty text and a null are told apart."""
    statement = "SELECT * FROM (VALUES ('a\"b'), ('c,d'), (chr(10)), (''), (NULL)) t(a)"
    body = ask(server, statement, format="csv").body
    assert body == b'a\n"a""b"\n"c,d"\n"\n"\n""\n\n'


def test_names_that_come_twice(server: servers.Server) -> None:
    """Columns of one name are all there, by position in JSON and by a number in NDJSON."""
    assert rows(server, "SELECT 1 AS a, 2 AS a") == [[1, 2]]
    line = ask(server, "SELECT 1 AS a, 2 AS a", format="ndjson").body
    assert json.loads(line) == {"a": 1, "a_1": 2}


@pytest.mark.parametrize(
    ("parameters", "statement"),
    [
        ([2, "x"], "SELECT ? + 1, $2::VARCHAR"),
        ({"n": 2, "s": "x"}, "SELECT $n + 1, $s::VARCHAR"),
    ],
)
def test_parameters(server: servers.Server, parameters: object, statement: str) -> None:
    """Parameters come by place and by name, and are values whatever is in them."""
    assert rows(server, statement, parameters=parameters) == [[3, "x"]]
    quoted = {"s": "'; DROP VIEW runs; --"}
    assert rows(server, "SELECT $s AS s", parameters=quoted) == [[quoted["s"]]]


@pytest.mark.parametrize(
    "statement",
    [
        *(
            "SELECT 1 AS a",
            "WITH a AS (SELECT 1) FROM a",
            "FROM range(1)",
            "VALUES (1)",
            "(SELECT 1)",
        ),
        *(
            "DESCRIBE runs",
            "SUMMARIZE params",
            "SHOW TABLES",
            "TABLE experiments",
            "SELECT 1;;-- x",
        ),
        *(
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE FROM runs",
            "PIVOT (SELECT 1 a) ON a USING count(*)",
        ),
        *("SELECT now()", "SELECT 'é' AS \"ü\";", "FROM query('SELECT 1')"),
    ],
)
@pytest.mark.parametrize("format", ["json", "ndjson", "csv", "arrow", "parquet"])
def test_every_kind_of_query(server: servers.Server, statement: str, format: str) -> None:
    """Each kind of statement that only reads is answered in each format."""
    answer = ask(server, statement, format=format)
    assert (answer.status, len(answer.body) > 0) == (200, True), answer.body[:500]


@pytest.mark.parametrize(
    ("statement", "message", "line", "column"),
    [
        ("SELECT *\n  FORM runs", 'syntax error at or near "runs"', 2, 8),
        ("SELECT run_idd\nFROM runs", "run_idd", 1, 8),
        ("SELECT 1,\n\n  nope(2)", "nope does not exist", 3, 3),
        ("SELECT *\nFROM\n   nowhere", "nowhere does not exist", 3, 4),
        ("SELECT 'é',\n 'abc'::INTEGER", "Could not convert string 'abc'", 2, 7),
        (f"SELECT {'1, ' * 200} x", '"x"', 1, 609),
        ("DROP VIEW runs", "Only queries can be run", None, None),
        ("SELECT 1; SELECT 2", "these are 2", None, None),
    ],
)
def test_an_error_says_where(
    server: servers.Server, statement: str, message: str, line: int | None, column: int | None
) -> None:
    """An error is MLflow's JSON with DuckDB's message and the place in the statement."""
    answer = ask(server, statement)
    found = answer.json()
    assert isinstance(found, dict)
    assert (answer.status, found["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert message in found["message"]
    assert (found.get("line"), found.get("column")) == (line, column), found["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "statement"),
        ({"statement": 5}, "statement"),
        ({"statement": "SELECT 1", "format": "xml"}, "'format'"),
        ({"statement": "SELECT 1", "max_rows": -1}, "'max_rows'"),
        ({"statement": "SELECT 1", "parameters": "x"}, "'parameters'"),
        ({"statement": "SELECT 1", "parameters": [{}]}, "'parameters[0]'"),
        ({"statement": "SELECT 1", "experiment_ids": ["x"]}, "'experiment_ids[0]'"),
        ({"statement": "x" * 100_001}, "100001 characters"),
    ],
)
def test_a_request_that_is_wrong(server: servers.Server, body: object, message: str) -> None:
    """What can't be taken is refused with the field's name."""
    answer = post(server, "runfold/sql", body)
    assert answer.status == 400, answer.body
    assert message in json.loads(answer.body)["message"]


def test_only_the_experiments_that_were_named(server: servers.Server) -> None:
    """A query finds what is of the experiments it may touch: one, both, none; all by default."""
    count = "SELECT run_name FROM runs WHERE run_name LIKE 'run-%' ORDER BY 1"
    found = rows(server, "SELECT name, experiment_id FROM experiments")
    ids = {name: experiment_id for name, experiment_id in found}
    assert rows(server, count) == [["run-one"], ["run-two"]]
    assert rows(server, count, experiment_ids=[ids["one"]]) == [["run-one"]]
    assert rows(server, count, experiment_ids=[ids["one"], ids["two"]]) == [
        ["run-one"],
        ["run-two"],
    ]
    assert rows(server, count, experiment_ids=[]) == []
    assert rows(server, count, experiment_ids=["987654"]) == []


def test_max_rows_cuts_and_says_so(server: servers.Server) -> None:
    """The caller's own bound leaves rows out in every format; JSON says whether it did."""
    for bound, truncated in ((3, True), (1_000, False), (1_001, False)):
        found = ask(server, MANY.format(1_000), max_rows=bound).json()
        assert isinstance(found, dict)
        assert (len(found["rows"]), found["truncated"]) == (min(bound, 1_000), truncated)
    body = ask(server, MANY.format(1_000), max_rows=3, format="arrow").body
    assert pyarrow.ipc.open_stream(body).read_all().num_rows == 3
    data = io.BytesIO(ask(server, MANY.format(1_000), max_rows=3, format="parquet").body)
    assert pyarrow.parquet.read_table(data).num_rows == 3


@pytest.mark.parametrize("format", ["json", "ndjson", "csv", "arrow", "parquet"])
def test_too_many_rows_is_never_a_whole_answer(server: servers.Server, format: str) -> None:
    """Past the server's bound there is an error, or an answer that has no end."""
    assert ask(server, MANY.format(ROWS_MAX), format=format).status == 200
    try:
        answer = ask(server, MANY.format(ROWS_MAX * 5), format=format)
    except http.client.IncompleteRead:
        return
    assert answer.status == 400
    assert f"more than {ROWS_MAX:,} rows" in json.loads(answer.body)["message"]


def test_time_is_bounded(server: servers.Server) -> None:
    """A query that would never end is ended, and its turn is free again."""
    started = time.monotonic()
    answer = ask(server, FOREVER)
    assert time.monotonic() - started < SECONDS + 3
    assert answer.status == 400
    assert json.loads(answer.body)["error_code"] == "BAD_REQUEST"
    assert f"longer than {SECONDS:g} seconds" in json.loads(answer.body)["message"]
    wait_until_idle(server)


def test_memory_is_bounded(server: servers.Server) -> None:
    """A query that wants more memory than it may have is told so."""
    answer = ask(server, "SELECT list(range) FROM range(1000000000)")
    assert answer.status == 400
    assert json.loads(answer.body)["error_code"] == "BAD_REQUEST"
    assert "emory" in json.loads(answer.body)["message"]


def test_queries_take_turns(server: servers.Server) -> None:
    """Two run at a time and some wait; who waits too long, or finds too many waiting, gets 429."""
    wait_until_idle(server)
    answers: list[servers.Answer] = []

    def one() -> None:
        answers.append(ask(server, FOREVER))

    threads = [threading.Thread(target=one) for _ in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if answer.status == 429]
    assert len(answers) == 14
    assert len([answer for answer in answers if answer.status == 400]) >= 4
    assert len(refused) >= 4
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert b"REQUEST_LIMIT_EXCEEDED" in refused[0].body
    wait_until_idle(server)
    assert rows(server, "SELECT 1") == [[1]]


@pytest.mark.parametrize(
    ("statement", "begun"), [(FOREVER, False), (MANY.format(10_000_000), True)]
)
def test_a_client_that_leaves_ends_its_query(
    server: servers.Server, statement: str, begun: bool
) -> None:
    """Before and while it is answered: the child is gone and its folder with it."""
    wait_until_idle(server)
    data = json.dumps({"statement": statement, "format": "csv"}).encode()
    head = (
        f"POST /api/2.0/runfold/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        if begun:
            assert client.recv(1_000).startswith(b"HTTP/1.1 200")
        else:
            time.sleep(0.5)
        assert queries_at_work(server) == 1
    started = time.monotonic()
    wait_until_idle(server)
    assert time.monotonic() - started < SECONDS / 2
    assert server.home is not None
    # A child that stands ready for the next query has an empty one.
    left = [
        path for folder in (server.home / "lake" / FOLDERS).iterdir() for path in folder.iterdir()
    ]
    assert left == []


def wait_until_gone(pids: list[int]) -> None:
    """Returns when none of these processes runs any more."""
    deadline = time.monotonic() + GONE_S_MAX
    while left := [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_forker_that_is_killed_is_replaced(server: servers.Server) -> None:
    """The process that makes the queries' processes dies, and the server answers the next query."""
    assert rows(server, "SELECT 1") == [[1]]
    wait_until_idle(server)
    assert server.process is not None
    forkers = [
        pid
        for pid in descendants(server.process.pid)
        if b"query_forker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    pids = list(descendants(forkers[0]))
    os.kill(forkers[0], signal.SIGKILL)
    wait_until_gone(pids)
    assert rows(server, "SELECT count(*) FROM runs WHERE run_name = 'run-one'") == [[1]]
    wait_until_idle(server)


def test_folders_of_dead_servers_are_swept(server: servers.Server) -> None:
    """What a server left that was killed in the middle of a query is gone after the next start."""
    assert server.home is not None
    folders = server.home / "lake" / FOLDERS

    def asked() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(server, FOREVER)

    thread = threading.Thread(target=asked)
    thread.start()
    time.sleep(0.5)
    assert server.process is not None
    pids = list(descendants(server.process.pid))
    server.kill()
    thread.join()
    # The forker and the queries are in no group of the server's: they end by themselves.
    wait_until_gone(pids)
    assert list(folders.iterdir())
    server.start()
    assert list(folders.iterdir()) == []
    assert rows(server, "SELECT count(*) FROM runs WHERE run_name = 'run-one'") == [[1]]
