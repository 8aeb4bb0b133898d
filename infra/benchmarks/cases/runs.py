"""Runs: creating them, searching them, paging through them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.bodies import post
from infra.benchmarks.checks import wrong_statuses
from infra.benchmarks.fill import fill, searched_run
from infra.benchmarks.load import Outcome, run_load, same_request
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, QUERIES, RUNFOLD
from infra.benchmarks.run_data import QUERY, RunData, batch_body, create_body
from infra.benchmarks.servers import Server

RUNS = 5_000
MANY_RUNS = 100_000
CONNECTIONS = 4
PARTS = 3
"""The runs are created in so many parts, each timed; the median counts."""
PAGE = 1_000
SEARCHES = {MLFLOW: 5, FASTTRACKML: 20, RUNFOLD: 20}
PAGINGS = {MLFLOW: 2, FASTTRACKML: 5, RUNFOLD: 5}
_RUN_ID = b'"run_id":'
_PLACEHOLDER = "@" * 32


class Creator:
    """Creates runs and logs to each all that it has; a Source."""

    def __init__(self, runs: Sequence[RunData]) -> None:
        self._creates = [post("runs/create", create_body(run)) for run in runs]
        self._batches = [post("runs/log-batch", batch_body(run, _PLACEHOLDER)) for run in runs]
        self._place = 0
        self._creating = True

    def __call__(self, answer: bytes) -> bytes | None:
        """The creation of the next run, or the batch for the one just created."""
        if self._creating:
            if self._place == len(self._creates):
                return None
            self._creating = False
            return self._creates[self._place]
        batch = self._batches[self._place].replace(_PLACEHOLDER.encode(), _run_id(answer))
        self._place += 1
        self._creating = True
        return batch


def _run_id(answer: bytes) -> bytes:
    """The run's id in the answer to its creation: quicker than decoding all of it."""
    start = answer.find(b'"', answer.find(_RUN_ID) + len(_RUN_ID)) + 1
    return answer[start : answer.find(b'"', start)]


def create_runs(bench: Bench, server: Server, count: int) -> None:
    """Creates the runs in parts, each timed."""
    numbers = range(count)
    for part in range(PARTS):
        of_part = [RunData(place) for place in numbers[part::PARTS]]
        creators = [Creator(of_part[place::CONNECTIONS]) for place in range(CONNECTIONS)]
        outcome = run_load(server.port, creators)
        bench.record("runs", server.name, len(of_part) / outcome.seconds)
        for problem in wrong_statuses(outcome):
            bench.problem(server.name, problem)
    latest = server.client().call(
        "POST", "runs/search", {"experiment_ids": ["0"], "max_results": 3}
    )
    for run in latest.get("runs", []):
        _check_run(bench, server.name, run)


def _check_run(bench: Bench, server: str, run: dict[str, dict[str, list[dict[str, str]]]]) -> None:
    """Compares all that a run has with what it was sent."""
    name = str(run["info"]["run_name"])
    wanted = RunData(int(name.removeprefix("run-")))
    data = run["data"]
    params = {param["key"]: param["value"] for param in data.get("params", [])}
    metrics = {metric["key"]: float(metric["value"]) for metric in data.get("metrics", [])}
    tags = {tag["key"]: tag["value"] for tag in data.get("tags", [])}
    if (
        params != wanted.params
        or metrics != wanted.metrics
        or not wanted.tags.items() <= (tags.items())
    ):
        bench.problem(server, f"{name} does not read back as it was logged")


def timed(server: Server, request: bytes, times: int) -> Outcome:
    """One request so many times, one after the other; the first, untimed, warms up."""
    run_load(server.port, [same_request(request, 1)])
    return run_load(server.port, [same_request(request, times)])


def search(bench: Bench, server: Server, count: int, prefix: str) -> None:
    """Times each search over so many runs, and compares what it finds."""
    for name in QUERIES:
        query = QUERY[name]
        outcome = timed(server, post("runs/search", query.body()), SEARCHES[server.name])
        bench.record(f"{prefix}{name}", server.name, 1000 * statistics.median(outcome.latencies_s))
        for problem in wrong_statuses(outcome):
            bench.problem(server.name, f"{name}: {problem}")
        if outcome.refused:
            continue
        runs = json.loads(outcome.last_body).get("runs", [])
        found = [run["info"]["run_name"] for run in runs]
        if found != query.expected(count):
            bench.problem(server.name, f"{name}: found {len(found)} runs, not the expected ones")


class Pager:
    """Asks for all pages, one after the other; a Source."""

    def __init__(self) -> None:
        self.found = 0
        self._started = False

    def __call__(self, answer: bytes) -> bytes | None:
        """The next page's request."""
        body = {"experiment_ids": ["0"], "max_results": PAGE}
        if self._started:
            page = json.loads(answer)
            self.found += len(page.get("runs", []))
            if not page.get("next_page_token"):
                return None
            body["page_token"] = page["next_page_token"]
        self._started = True
        return post("runs/search", body)


def _page(bench: Bench, server: Server, count: int) -> None:
    for _ in range(PAGINGS[server.name]):
        pager = Pager()
        outcome = run_load(server.port, [pager])
        # Reading the answers is the client's work: only the server's time counts.
        bench.record("page", server.name, sum(outcome.latencies_s))
        if pager.found != count:
            bench.problem(server.name, f"paging gave {pager.found} runs of {count}")


def _runs(bench: Bench, name: str) -> None:
    count = bench.scaled(RUNS, name, least=300)
    with bench.started(name) as server:
        create_runs(bench, server, count)
        if count < bench.scaled(RUNS):
            for row in (*(f"search-{query}" for query in QUERIES), "page"):
                bench.note(row, name, f"over {count:,} runs")
        bench.settle(server)
        search(bench, server, count, "search-")
        _page(bench, server, count)


def _many_runs(bench: Bench, name: str) -> None:
    count = bench.scaled(MANY_RUNS, least=1_000)
    folder = bench.home_of(name)
    fill(folder / "runfold-data", (e for place in range(count) for e in searched_run(place)))
    with bench.started(name, folder) as server:
        bench.settle(server)
        search(bench, server, count, "search-100k-")


CASES = (
    Case(
        "runs",
        "5,000 runs are created over 4 connections, then searched in seven ways, then paged",
        ("runs", *(f"search-{query}" for query in QUERIES), "page"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _runs,
        repeats=True,
    ),
    Case(
        "many-runs",
        "the same searches over 100,000 runs, which are put into the log directly",
        tuple(f"search-100k-{query}" for query in QUERIES),
        (RUNFOLD,),
        _many_runs,
    ),
)
