"""History: reading all points of a key, and the points that a chart needs."""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np

from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.bodies import get, log_batch
from infra.benchmarks.cases.runs import timed
from infra.benchmarks.checks import wrong_statuses
from infra.benchmarks.curves import Points, training
from infra.benchmarks.fill import created, fill, points_events, run_id_of
from infra.benchmarks.load import run_load
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, RUNFOLD
from infra.benchmarks.servers import Server

POINTS = 100_000
MANY_POINTS = 10_000_000
CHART_POINTS = 320
A_BATCH = 1_000
CONNECTIONS = 4
READS = 3
CHARTS = {MLFLOW: 5, RUNFOLD: 20}


def load_points(bench: Bench, server: Server, run_id: str, points: Points) -> None:
    """Logs points over HTTP."""
    requests = [log_batch(run_id, part) for part in points.parts(A_BATCH)]
    sources = [_each(requests[place::CONNECTIONS]) for place in range(CONNECTIONS)]
    for problem in wrong_statuses(run_load(server.port, sources)):
        bench.problem(server.name, problem)


def _each(requests: list[bytes]) -> Any:
    left = iter(requests)
    return lambda _answer: next(left, None)


def _read(bench: Bench, server: Server, run_id: str, points: Points) -> None:
    """Times the reading of all points, and compares each."""
    request = get(f"metrics/get-history?run_id={run_id}&metric_key={points.keys[0]}")
    outcome = timed(server, request, READS)
    for problem in wrong_statuses(outcome):
        bench.problem(server.name, problem)
    answer = json.loads(outcome.last_body)
    found = {
        (int(point.get("step", 0)), point["timestamp"], float(point["value"]))
        for point in answer.get("metrics", [])
    }
    sent = zip(
        points.steps.tolist(), points.timestamps.tolist(), points.values.tolist(), strict=True
    )
    if found != set(sent):
        bench.problem(server.name, f"{len(found):,} of {len(points):,} points read back, or others")
    bench.record("read", server.name, len(points) / statistics.median(outcome.latencies_s))


def chart(bench: Bench, server: Server, row: str, run_id: str, key: str, last: int) -> None:
    """Times a chart of a key with the steps from 0 to `last`, and looks at what it shows."""
    query = f"run_ids={run_id}&metric_key={key}&max_results={CHART_POINTS}"
    request = get(f"metrics/get-history-bulk-interval?{query}")
    outcome = timed(server, request, CHARTS[server.name])
    bench.record(row, server.name, 1000 * statistics.median(outcome.latencies_s))
    problems = list(wrong_statuses(outcome))
    if not problems:
        metrics = json.loads(outcome.last_body).get("metrics", [])
        steps = [int(point.get("step", 0)) for point in metrics]
        if not steps or steps[0] != 0 or steps[-1] != last or len(steps) < CHART_POINTS // 2:
            problems.append(f"a chart of {len(steps)} points, from {steps[:1]} to {steps[-1:]}")
    for problem in problems:
        bench.problem(server.name, problem)


def _history(bench: Bench, name: str) -> None:
    points = training(1, bench.scaled(POINTS, least=10_000), 1)
    with bench.started(name) as server:
        run_id = server.client().create_run()
        load_points(bench, server, run_id, points)
        bench.settle(server)
        _read(bench, server, run_id, points)
        if name != FASTTRACKML:
            chart(bench, server, "chart", run_id, points.keys[0], len(points) - 1)


def _long_chart(bench: Bench, name: str) -> None:
    count = bench.scaled(MANY_POINTS, least=100_000)
    folder = bench.home_of(name)
    run_id = run_id_of(1)
    points = training(2, count, 1)
    events = [created(run_id, "long")]
    fill(folder / "runfold-data", (*events, *points_events(run_id, points)))
    with bench.started(name, folder) as server:
        bench.settle(server)
        chart(bench, server, "chart-10m", run_id, points.keys[0], count - 1)
        # The server puts what it has in order by and by; each point must still be there.
        latest = server.client().latest(run_id)[points.keys[0]]
        if not np.isclose(latest[1], points.values[-1]):
            bench.problem(name, f"the latest value is {latest}")


CASES = (
    Case(
        "history",
        "100,000 points of one key are logged, read in full, and drawn with 320 points",
        ("read", "chart"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _history,
        repeats=True,
    ),
    Case(
        "long-chart",
        "320 points for the chart of a key with 10 million, which are put into the log directly",
        ("chart-10m",),
        (RUNFOLD,),
        _long_chart,
    ),
)
