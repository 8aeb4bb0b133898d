"""SQL: what a query costs, rows streamed, and queries beside the load."""

from __future__ import annotations

import json
import statistics
import time

from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.cases.logging import BATCH, check, loaded, streams_for
from infra.benchmarks.cases.runs import timed
from infra.benchmarks.checks import wrong_statuses
from infra.benchmarks.fill import fill, run_with_points
from infra.benchmarks.load import Clients, Source, http_request, run_load, run_loads, same_request
from infra.benchmarks.memory import PeakMemory
from infra.benchmarks.rows import RUNFOLD

EMPTY_QUERIES = 20
STREAMED_ROWS = 1_000_000
QUERY_EVERY_S = 1.0
BATCH_EVERY_S = 0.05
"""Trainings that log, rather than a load that leaves no processor free in the first place."""
ANALYTICAL = """
WITH span AS (SELECT min(step) AS first, (max(step) - min(step)) // 100 + 1 AS width FROM metrics)
SELECT key, (step - first) // width AS part, count(*) AS points, avg(value) AS mean,
  approx_quantile(value, 0.5) AS middle, min(value) AS least, max(value) AS greatest
FROM metrics, span GROUP BY ALL ORDER BY ALL
"""
"""What a page about running trainings asks: each key's curve over all runs, in a hundred parts, of
every point that there is."""
HOSTILE = (
    "SELECT count(*) FROM range(1000000000000)",
    "SELECT list(range) FROM range(3000000000)",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t",
    "SELECT * FROM range(2000000000) ORDER BY hash(range)",
)


def sql(statement: str, form: str = "json") -> bytes:
    """The request for a query."""
    body = json.dumps({"statement": statement, "format": form}).encode()
    return http_request("POST", "/api/2.0/runfold/sql", body)


def _empty(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        request = sql("SELECT 42")
        # The first one starts its process; from then on a spare is ready.
        latencies = []
        for _ in range(EMPTY_QUERIES):
            outcome = run_load(server.port, [same_request(request, 1)])
            for problem in wrong_statuses(outcome):
                bench.problem(name, problem)
            latencies.append(outcome.latencies_s[0])
            time.sleep(0.3)
        bench.record("sql-empty", name, 1000 * statistics.median(latencies[1:]))
        bench.note("sql-empty", name, f"{1000 * latencies[0]:.0f} ms without a spare process")


def _streamed(bench: Bench, name: str) -> None:
    home = bench.home_of(name)
    rows = bench.scaled(STREAMED_ROWS, least=100_000)
    fill(home, run_with_points("0" * 31 + "1", rows))
    with bench.started(name, home) as server:
        bench.settle(server)
        with PeakMemory(server.pid) as peak:
            outcome = timed(server, sql("FROM metrics", "arrow"), 3)
        for problem in wrong_statuses(outcome):
            bench.problem(name, problem)
        bench.record("sql-arrow", name, rows / statistics.median(outcome.latencies_s))
        bench.note("sql-arrow", name, f"{peak.mb:.0f} MB in all of the server's processes")


def _beside(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        streams = streams_for(server, BATCH)
        alone = loaded(bench, server, streams)
    with bench.started(name) as server:
        streams = streams_for(server, BATCH)
        groups = [Clients(streams), Clients([_again(sql(ANALYTICAL))], QUERY_EVERY_S)]
        load, asking = run_loads(server.port, groups, 2 * bench.options.seconds)
        rate = load.answered / load.seconds
        bench.record("sql-beside-rate", name, rate * BATCH.points)
        bench.record("sql-beside-share", name, 100 * rate / (alone.answered / alone.seconds))
        if asking.latencies_s:
            bench.record("sql-beside-query", name, 1000 * statistics.median(asking.latencies_s))
        bench.note("sql-beside-query", name, f"{asking.answered} queries")
        for problem in wrong_statuses(asking):
            bench.problem(name, problem)
        check(bench, server, streams, load)


def _hostile(bench: Bench, name: str) -> None:
    with bench.started(name, flags=("--sql-seconds", "1", "--sql-memory", "300")) as server:
        streams = streams_for(server, BATCH)
        training = Clients(streams, BATCH_EVERY_S)
        (alone,) = run_loads(server.port, [training], bench.options.seconds)
        bombs = Clients([_in_turn(place) for place in range(2)])
        beside, _ = run_loads(server.port, [training, bombs], 2 * bench.options.seconds)
        bench.record("sql-hostile-p99", name, beside.percentile_ms(0.99))
        bench.note("sql-hostile-p99", name, f"{alone.percentile_ms(0.99):.1f} ms without")
        bench.record(
            "sql-hostile-times", name, beside.percentile_ms(0.99) / alone.percentile_ms(0.99)
        )
        check(bench, server, streams, beside)


def _again(request: bytes) -> Source:
    return lambda _answer: request


def _in_turn(place: int) -> Source:
    turn = place

    def source(_answer: bytes) -> bytes:
        nonlocal turn
        turn += 1
        return sql(HOSTILE[turn % len(HOSTILE)])

    return source


CASES = (
    Case("sql-empty", "a query of nothing", ("sql-empty",), (RUNFOLD,), _empty),
    Case("sql-arrow", "every point as an Arrow stream", ("sql-arrow",), (RUNFOLD,), _streamed),
    Case(
        "sql-beside",
        "one query a second over every point, beside the load of log-batch",
        ("sql-beside-rate", "sql-beside-share", "sql-beside-query"),
        (RUNFOLD,),
        _beside,
    ),
    Case(
        "sql-hostile",
        "trainings that log, 160 batches a second, beside two clients that send bombs",
        ("sql-hostile-p99", "sql-hostile-times"),
        (RUNFOLD,),
        _hostile,
    ),
)
