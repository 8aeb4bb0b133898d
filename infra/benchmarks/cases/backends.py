"""Past one machine: the log on PostgreSQL and on Kafka, one and two API processes, reads after
writes. The views are on PostgreSQL, and every part is a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from collections.abc import Sequence
from functools import partial

from infra.benchmarks.bench import Bench, Case, wait_for_views
from infra.benchmarks.bodies import API
from infra.benchmarks.cases.logging import BATCH, WARM_UP_S, check, loaded, streams_for
from infra.benchmarks.checks import wrong_points, wrong_statuses
from infra.benchmarks.client import TIMEOUT_S, Refused
from infra.benchmarks.load import ADDRESS, Clients, Outcome, run_loads
from infra.benchmarks.memory import wait_until_quiet
from infra.benchmarks.parts import backed, service
from infra.benchmarks.results import percentile
from infra.benchmarks.rows import MLFLOW, RUNFOLD
from infra.benchmarks.servers import Server

VIEWS = "postgresql"
ROUNDS = 3
"""One process and two take turns, so that a slow moment of the machine hits both."""
READS = 300
PAUSE_S_MAX = 0.03
"""Before each write, so that it meets whoever looks every so often at another moment each time."""


def _on_runfold(bench: Bench, log: str) -> None:
    """All that is measured with the log there, over one installation."""
    with (
        backed(bench.home_of(RUNFOLD), log, VIEWS) as parts,
        parts.part("worker projector"),
        parts.part("worker sealer") as sealer,
        parts.part("api") as api,
        parts.part("api") as other,
    ):
        for _ in range(ROUNDS):
            load_side_by_side(bench, log, log, [api])
            wait_until_quiet(sealer.pid)
            load_side_by_side(bench, log, f"{log}-two", [api, other])
            wait_until_quiet(sealer.pid)
        taken = reads_after_writes(bench, api, bench.scaled(READS, least=20))
        bench.record(f"{log}-fresh", RUNFOLD, percentile(taken, 0.5) * 1000)
        bench.record(f"{log}-fresh-p99", RUNFOLD, percentile(taken, 0.99) * 1000)


def load_side_by_side(bench: Bench, log: str, row: str, apis: Sequence[Server]) -> None:
    """Loads the API processes side by side, waits for the views, and counts back."""
    for api in apis:
        wait_for_views(api)
    streams = streams_for(apis[0], BATCH)
    groups = [Clients(streams[place :: len(apis)], port=api.port) for place, api in enumerate(apis)]
    outcomes = run_loads(apis[0].port, groups, WARM_UP_S)
    outcomes = [*outcomes, *run_loads(apis[0].port, groups, bench.options.seconds)]
    measured = outcomes[len(apis) :]
    bench.record(f"{log}-lag", RUNFOLD, max(wait_for_views(api) for api in apis))
    bench.record(row, RUNFOLD, rate(measured))
    problems = [problem for outcome in outcomes for problem in wrong_statuses(outcome)]
    for problem in problems or wrong_points(apis[-1].client(), streams):
        bench.problem(RUNFOLD, problem)


def rate(outcomes: Sequence[Outcome]) -> float:
    """Points a second of loads that ran side by side."""
    seconds = max(one.ended for one in outcomes) - min(one.started for one in outcomes)
    return sum(one.answered for one in outcomes) * BATCH.points / seconds


def reads_after_writes(bench: Bench, api: Server, count: int) -> list[float]:
    """How long each read of a run took, in seconds, that began when a point was just logged to it;
    one after the other over one connection."""
    run_id = api.client().create_run("read")
    pauses = random.Random(0)
    taken: list[float] = []
    stale = 0
    connection = http.client.HTTPConnection(ADDRESS, api.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        for step in range(count):
            time.sleep(pauses.uniform(0, PAUSE_S_MAX))
            point = {"run_id": run_id, "key": "m", "value": step, "timestamp": step, "step": step}
            _ask(connection, "POST", "runs/log-metric", json.dumps(point))
            begun = time.perf_counter()
            answer = _ask(connection, "GET", f"runs/get?run_id={run_id}")
            taken.append(time.perf_counter() - begun)
            stale += not is_fresh(answer, step)
    if stale:
        bench.problem(RUNFOLD, f"{stale} of {count} reads did not see the write before them")
    return taken


def is_fresh(answer: bytes, step: int) -> bool:
    """Whether the answer of runs/get has the point of this step, whose value is the same."""
    metrics = json.loads(answer)["run"]["data"].get("metrics", [])
    return [(int(one.get("step", 0)), one["value"]) for one in metrics] == [(step, step)]


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> bytes:
    """The answer over a connection that stays open. Raises Refused for any status but 200."""
    connection.request(method, API + path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise Refused(f"{method} {path}: {response.status} {answer[:300]!r}")
    return answer


def _on_mlflow(bench: Bench) -> None:
    """The same load on MLflow over a PostgreSQL of its own."""
    with service(VIEWS) as database:
        # The driver that MLflow's own images have.
        uri = database.uri.replace("postgresql:", "postgresql+psycopg2:")
        with bench.started(MLFLOW, flags=("--backend-store-uri", uri)) as server:
            streams = streams_for(server, BATCH)
            outcome = loaded(bench, server, streams)
            bench.record("postgresql", MLFLOW, outcome.answered * BATCH.points / outcome.seconds)
            check(bench, server, streams, outcome)


def _on(log: str, bench: Bench, name: str) -> None:
    if name == MLFLOW:
        _on_mlflow(bench)
    else:
        _on_runfold(bench, log)


def _case(log: str, title: str, servers: tuple[str, ...]) -> Case:
    rows = (log, f"{log}-two", f"{log}-lag", f"{log}-fresh", f"{log}-fresh-p99")
    about = f"log on {title}, views on PostgreSQL: one API process, two, and reads after writes"
    return Case(log, about, rows, servers, partial(_on, log), repeats=True)


CASES = (
    _case("postgresql", "PostgreSQL", (MLFLOW, RUNFOLD)),
    _case("kafka", "Kafka", (RUNFOLD,)),
)
