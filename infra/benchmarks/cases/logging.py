"""Logging: points in batches and one by one, many connections, a minute long, with readers."""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infra.benchmarks.bench import Bench, Case, wait_for_views
from infra.benchmarks.bodies import ROUND_BYTES_MAX, Shape, Stream, get, post
from infra.benchmarks.checks import wrong_points, wrong_statuses
from infra.benchmarks.load import Clients, Outcome, Source, http_request, run_load, run_loads
from infra.benchmarks.memory import PeakMemory
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, RUNFOLD, SERVERS, YARDSTICK
from infra.benchmarks.servers import YARDSTICK_FILE, Server

POINT_BYTES = 110
WARM_UP_S = 1.0
LAG_EVERY_S = 0.2
READ_EVERY_S = 0.05
READER_RUNS = 120


@dataclass(frozen=True)
class Load:
    """How points are sent."""

    points: int
    connections: int
    runs: int
    keys: int = 20

    @property
    def shape(self) -> Shape:
        """The requests of one connection: as many as memory allows, but few enough to be built
        quickly."""
        batches = ROUND_BYTES_MAX // (self.points * POINT_BYTES) * 8 // self.connections
        return Shape(self.points, self.keys, max(10, min(500, batches)))


BATCH = Load(points=1_000, connections=8, runs=8)
SMALL_BATCH = Load(points=50, connections=8, runs=8, keys=10)
SINGLE = Load(points=1, connections=16, runs=16, keys=1)
ONE_RUN = Load(points=100, connections=64, runs=1)


def streams_for(server: Server, load: Load) -> list[Stream]:
    """The requests of all connections, for runs that are made now."""
    if server.name == YARDSTICK:
        runs = [uuid.uuid4().hex for _ in range(load.runs)]
    else:
        client = server.client()
        runs = [client.create_run(f"run-{place}") for place in range(load.runs)]
    places = zip(itertools.cycle(runs), range(load.connections), strict=False)
    return [Stream(run_id, place, load.shape) for run_id, place in places]


def warm_up(bench: Bench, server: Server, streams: Sequence[Stream]) -> Outcome:
    """Loads the server for a moment that does not count: every process has had requests then."""
    warmed = run_load(server.port, streams, WARM_UP_S)
    for problem in wrong_statuses(warmed):
        bench.problem(server.name, f"warming up: {problem}")
    return warmed


def loaded(bench: Bench, server: Server, streams: Sequence[Stream]) -> Outcome:
    """What the load gave, once the server was warm."""
    warm_up(bench, server, streams)
    return run_load(server.port, streams, bench.options.seconds)


def check(bench: Bench, server: Server, streams: Sequence[Stream], outcome: Outcome) -> None:
    """Notes every answer that is not 200, and whatever does not read back as it was sent."""
    problems = list(wrong_statuses(outcome))
    if server.name == YARDSTICK:
        problems += _wrong_rows(server, streams)
    elif not problems:
        problems += wrong_points(server.client(), streams)
    for problem in problems:
        bench.problem(server.name, problem)


def _wrong_rows(server: Server, streams: Sequence[Stream]) -> Iterable[str]:
    with sqlite3.connect(server.folder / YARDSTICK_FILE) as connection:
        (count,) = connection.execute("SELECT count(*) FROM points").fetchone()
    sent = sum(stream.sent for stream in streams)
    if count != sent:
        yield f"{count} rows stored of {sent}"


def _log_batch(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        streams = streams_for(server, BATCH)
        with PeakMemory(server.pid) as peak:
            outcome = loaded(bench, server, streams)
        bench.record("log-batch", name, outcome.answered * BATCH.points / outcome.seconds)
        if name in (MLFLOW, FASTTRACKML):
            # Runfold's is taken from the long run, where it is greatest.
            bench.record("load-memory", name, peak.mb)
        check(bench, server, streams, outcome)


def _log_small_batch(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        streams = streams_for(server, SMALL_BATCH)
        outcome = loaded(bench, server, streams)
        rate = outcome.answered * SMALL_BATCH.points / outcome.seconds
        bench.record("log-batch-50", name, rate)
        check(bench, server, streams, outcome)


def _log_metric(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        streams = streams_for(server, SINGLE)
        outcome = loaded(bench, server, streams)
        bench.record("log-metric", name, outcome.answered / outcome.seconds)
        bench.record("log-metric-p99", name, outcome.percentile_ms(0.99))
        check(bench, server, streams, outcome)


def _one_run(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        streams = streams_for(server, ONE_RUN)
        outcome = loaded(bench, server, streams)
        bench.record("one-run", name, outcome.answered * ONE_RUN.points / outcome.seconds)
        failed = sum(n for status, n in outcome.refused.items() if status >= 500 or status == 0)
        bench.record("one-run-5xx", name, failed)
        check(bench, server, streams, outcome)


class LagWatch:
    """Asks /health how far the views are behind; a Source."""

    def __init__(self) -> None:
        self.lags: list[int] = []
        self._request = http_request("GET", "/health")

    def __call__(self, answer: bytes) -> bytes:
        """Takes the last answer in and asks again."""
        if answer:
            lanes = json.loads(answer).get("lanes", {})
            self.lags.append(sum(lane["lag"] for lane in lanes.values()))
        return self._request


def _sustained(bench: Bench, name: str) -> None:
    seconds = bench.options.sustained_seconds
    with bench.started(name) as server:
        streams = streams_for(server, BATCH)
        watch = LagWatch()
        with PeakMemory(server.pid) as peak:
            outcome, _ = run_loads(
                server.port, [Clients(streams), Clients([watch], LAG_EVERY_S)], seconds
            )
            wait_for_views(server)
            lag_s = time.perf_counter() - outcome.ended
        bench.record("sustained", name, outcome.answered * BATCH.points / outcome.seconds)
        bench.record("sustained-lag", name, lag_s)
        bench.record("load-memory", name, peak.mb)
        if watch.lags:
            bench.note(
                "sustained-lag", name, f"at most {max(watch.lags)} events behind under the load"
            )
        check(bench, server, streams, outcome)


def _beside(bench: Bench, name: str) -> None:
    with bench.started(name) as server:
        client = server.client()
        for place in range(READER_RUNS):
            other = client.create_run(f"other-{place}")
        streams = streams_for(server, BATCH)
        search: Source = _again(post("runs/search", {"experiment_ids": ["0"], "max_results": 100}))
        groups = [
            Clients(streams),
            Clients([_again(get(f"runs/get?run_id={other}"))], READ_EVERY_S),
            Clients([search], READ_EVERY_S),
        ]
        load, getting, searching = run_loads(server.port, groups, 2 * bench.options.seconds)
        bench.record("beside-rate", name, load.answered * BATCH.points / load.seconds)
        for row, outcome in (("beside-get", getting), ("beside-search", searching)):
            bench.record(row, name, outcome.percentile_ms(0.99))
            bench.note(row, name, f"{outcome.answered} reads")
            for problem in wrong_statuses(outcome):
                bench.problem(name, problem)
        if len(json.loads(searching.last_body or b"{}").get("runs", [])) != 100:
            bench.problem(name, "a search did not give 100 runs")
        check(bench, server, streams, load)


def _again(request: bytes) -> Source:
    return lambda _answer: request


CASES = (
    Case(
        "log-batch",
        "log-batch with 1,000 points of 20 keys, 8 connections to 8 runs",
        ("log-batch",),
        SERVERS,
        _log_batch,
        repeats=True,
    ),
    Case(
        "log-batch-50",
        "log-batch with 50 points of 10 keys, 8 connections to 8 runs",
        ("log-batch-50",),
        SERVERS,
        _log_small_batch,
        repeats=True,
    ),
    Case(
        "log-metric",
        "log-metric, one point a request, 16 connections to 16 runs",
        ("log-metric", "log-metric-p99"),
        SERVERS,
        _log_metric,
        repeats=True,
    ),
    Case(
        "one-run",
        "log-batch with 100 points, 64 connections to the same run",
        ("one-run", "one-run-5xx"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _one_run,
        repeats=True,
    ),
    Case(
        "sustained",
        "the load of log-batch for a minute: rate, memory, and how soon the views have caught up",
        ("sustained", "sustained-lag", "load-memory"),
        (RUNFOLD,),
        _sustained,
    ),
    Case(
        "beside",
        "runs/get and runs/search, twenty of each a second, beside the load of log-batch",
        ("beside-rate", "beside-get", "beside-search"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _beside,
        repeats=True,
    ),
)
