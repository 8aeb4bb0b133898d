"""SQL: what a query costs, rows streamed, and queries beside the load."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import nanoarrow
import numpy as np

from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.cases.logging import BATCH, check, streams_for, warm_up
from infra.benchmarks.cases.runs import timed
from infra.benchmarks.checks import wrong_statuses
from infra.benchmarks.curves import Points, training
from infra.benchmarks.fill import KEYS, created, fill, points_events, run_id_of
from infra.benchmarks.load import (
    Clients,
    Outcome,
    Source,
    http_request,
    run_load,
    run_loads,
    same_request,
)
from infra.benchmarks.memory import PeakMemory
from infra.benchmarks.rows import RUNFOLD
from infra.benchmarks.servers import HOME, Server

EMPTY_QUERIES = 20
STREAMED_ROWS = 1_000_000
STREAMED_TIMES = 4
"""The answer of which the memory is looked at is so many times as long."""
MEMORY_EVERY_S = 0.02
RUN_ID = run_id_of(1)
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
    rows = bench.scaled(STREAMED_ROWS, least=100_000)
    points = training(0, rows // KEYS, KEYS)
    with _with_points(bench, name, points) as server:
        seconds, peak_mb = _stream(bench, server, "FROM metrics", points)
    bench.record("sql-arrow", name, rows / seconds)
    bench.note("sql-arrow", name, f"{peak_mb:.0f} MB in all of the server's processes")
    points = training(0, STREAMED_TIMES * rows // KEYS, KEYS)
    with _with_points(bench, name, points) as server:
        # Of the same server, so that what it holds besides is in both.
        _, part_mb = _stream(bench, server, f"FROM metrics LIMIT {rows}")
        _, whole_mb = _stream(bench, server, "FROM metrics", points)
    bench.record("sql-arrow-memory", name, max(0.0, whole_mb - part_mb))
    bench.note("sql-arrow-memory", name, f"{whole_mb:.0f} MB after {part_mb:.0f} MB")


@contextlib.contextmanager
def _with_points(bench: Bench, name: str, points: Points) -> Iterator[Server]:
    """A server that rests over a run of these points."""
    folder = bench.home_of(name)
    fill(folder / HOME, (created(RUN_ID, "streamed"), *points_events(RUN_ID, points)))
    with bench.started(name, folder) as server:
        bench.settle(server)
        yield server


def _stream(
    bench: Bench, server: Server, statement: str, points: Points | None = None
) -> tuple[float, float]:
    """Streams points as Arrow: the seconds that it takes, and the most memory in MB that the
    server's processes have meanwhile."""
    with PeakMemory(server.pid, every_s=MEMORY_EVERY_S) as peak:
        outcome = timed(server, sql(statement, "arrow"), 3)
    problems = list(wrong_statuses(outcome))
    if points is not None and not problems:
        problems += wrong_stream(outcome.last_body, points)
    for problem in problems:
        bench.problem(server.name, problem)
    return statistics.median(outcome.latencies_s), peak.mb


def wrong_stream(answer: bytes, points: Points) -> Iterator[str]:
    """Compares every point of an Arrow stream with what was logged, by key and step."""
    places = {key: place for place, key in enumerate(points.keys)}
    keys, steps, values = [], [], []
    stream = nanoarrow.ArrayStream.from_readable(answer)
    names = [field.name for field in stream.schema.fields]
    for chunk in stream.iter_chunks():
        column = {name: chunk.child(names.index(name)) for name in ("key", "step", "value")}
        keys.append(np.array([places[key] for key in column["key"].to_pylist()]))
        steps.append(_numbers(column["step"]))
        values.append(_numbers(column["value"]))
    found = [np.concatenate(parts) if parts else np.empty(0) for parts in (keys, steps, values)]
    order = np.lexsort((found[0], found[1]))
    if not np.array_equal(found[1][order], points.steps) or not np.array_equal(
        found[2][order], points.values
    ):
        yield f"{len(order):,} points came of {len(points):,}, or others"


def _numbers(column: Any) -> Any:
    """A column of numbers without nulls, as numpy has it: its buffer, not its objects."""
    return np.asarray(column.buffer(1))[column.offset : column.offset + len(column)]


def _beside(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        streams = streams_for(server, BATCH)
        warm_up(bench, server, streams)
        alone = run_load(server.port, streams, 2 * bench.options.seconds)
    with bench.started(name) as server:
        streams = streams_for(server, BATCH)
        warmed = warm_up(bench, server, streams)
        outcomes = [Outcome(), Outcome()]
        asker = Asker(outcomes[0], warmed.answered)
        groups = [Clients(streams), Clients([asker], QUERY_EVERY_S)]
        load, asking = run_loads(server.port, groups, 2 * bench.options.seconds, outcomes)
        rate = load.answered / load.seconds
        bench.record("sql-beside-rate", name, rate * BATCH.points)
        bench.record("sql-beside-share", name, 100 * rate / (alone.answered / alone.seconds))
        if asking.latencies_s:
            bench.record("sql-beside-query", name, 1000 * statistics.median(asking.latencies_s))
        bench.note("sql-beside-query", name, f"{asking.answered} queries")
        for problem in (*wrong_statuses(asking), *asker.problems):
            bench.problem(name, problem)
        check(bench, server, streams, load)


class Asker:
    """Asks for every key's curve again and again, and sees that each answer has all points that
    were acknowledged before it was asked for; a Source."""

    def __init__(self, load: Outcome, before: int = 0) -> None:
        """`before`: so many batches were acknowledged before the load began."""
        self._load = load
        self._before = before
        self._request = sql(ANALYTICAL)
        self._acknowledged: int | None = None
        self.problems: list[str] = []

    def __call__(self, answer: bytes) -> bytes:
        """The next query."""
        if self._acknowledged is not None:
            self._check(answer, self._acknowledged)
        self._acknowledged = (self._before + self._load.answered) * BATCH.points
        return self._request

    def _check(self, answer: bytes, acknowledged: int) -> None:
        rows = json.loads(answer).get("rows")
        # What is no answer is told by its status.
        points = acknowledged if rows is None else sum(row[2] for row in rows)
        if points < acknowledged:
            self.problems.append(
                f"a query saw {points:,} points of the {acknowledged:,} acknowledged before it"
            )


def _hostile(bench: Bench, name: str) -> None:
    with bench.started(name, flags=("--sql-seconds", "1", "--sql-memory", "300")) as server:
        streams = streams_for(server, BATCH)
        warm_up(bench, server, streams)
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


def _in_turn(place: int) -> Source:
    turn = place

    def source(_answer: bytes) -> bytes:
        nonlocal turn
        turn += 1
        return sql(HOSTILE[turn % len(HOSTILE)])

    return source


CASES = (
    Case("sql-empty", "a query of nothing", ("sql-empty",), (RUNFOLD,), _empty),
    Case(
        "sql-arrow",
        "every point as an Arrow stream",
        ("sql-arrow", "sql-arrow-memory"),
        (RUNFOLD,),
        _streamed,
    ),
    Case(
        "sql-beside",
        "one query a second over every point, beside the load of log-batch",
        ("sql-beside-rate", "sql-beside-share", "sql-beside-query"),
        (RUNFOLD,),
        _beside,
        repeats=True,
    ),
    Case(
        "sql-hostile",
        "trainings that log, 160 batches a second, beside two clients that send bombs",
        ("sql-hostile-p99", "sql-hostile-times"),
        (RUNFOLD,),
        _hostile,
        repeats=True,
    ),
)
