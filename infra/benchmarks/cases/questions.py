"""Questions over all runs: by SQL, and by REST in a loop, which is all that the peers have."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import nanoarrow
import numpy as np

from infra.benchmarks.bench import Bench, Case
from infra.benchmarks.cases.disk import wait_until_sealed
from infra.benchmarks.cases.sql import sql
from infra.benchmarks.checks import wrong_statuses
from infra.benchmarks.fill import fill, run_id_of, searched_run
from infra.benchmarks.load import run_load, same_request
from infra.benchmarks.peer_fill import fill_runs, fill_study
from infra.benchmarks.rest_answers import Loop, rest_best, rest_curve, rest_table
from infra.benchmarks.rows import FASTTRACKML, MLFLOW, RUNFOLD
from infra.benchmarks.run_data import METRICS, PARAMS, RunData
from infra.benchmarks.servers import HOME, Server
from infra.benchmarks.study import (
    BEST_SQL,
    CURVE_SQL,
    EXPERIMENTS,
    Best,
    Curve,
    Study,
    experiment_ids,
    wanted_best,
    wanted_curve,
    wrong_best,
    wrong_curve,
)

RUNS = 2_000
TABLE_RUNS = 5_000
TENTH = 10
ASKED = 7
LOOPS = 3
BETWEEN_S = 0.5
"""Until the next query's process stands ready, as it does where a person asks."""
SEALED_WITHIN_S = 600.0
SEAL_SOON = ("--seal-age", "2", "--export-age", "1")
COLUMNS = (
    *(f"params.param_{place}" for place in range(PARAMS)),
    *(f"metrics.metric_{place}" for place in range(METRICS)),
)
TABLE_SQL = f"""
SELECT run_id, {", ".join(f'"{column}"' for column in COLUMNS)} FROM run_table('0')
"""
Table = dict[str, dict[str, Any]]
T = TypeVar("T")


def read_curve(answer: bytes) -> Curve:
    """The curve in the answer to CURVE_SQL."""
    rows = json.loads(answer)["rows"]
    return np.array([[mean, *quantiles] for _part, mean, quantiles in rows])


def read_best(answer: bytes) -> Best:
    """The best runs in the answer to BEST_SQL."""
    return {one: (run_id, value) for one, run_id, value in json.loads(answer)["rows"]}


def read_table(answer: bytes) -> Table:
    """The runs in the answer to TABLE_SQL, which is Arrow."""
    stream = nanoarrow.ArrayStream.from_readable(answer)
    names, columns = stream.to_columns_pysequence()
    return {
        row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in zip(*columns, strict=True)
    }


def wrong_table(found: Table, count: int) -> Iterator[str]:
    """Compares every cell of the runs with what was logged."""
    wanted = {run_id_of(place): RunData(place) for place in range(count)}
    wrong = [
        run_id
        for run_id, data in wanted.items()
        if found.get(run_id)
        != {
            **{f"params.{key}": value for key, value in data.params.items()},
            **{f"metrics.{key}": value for key, value in data.metrics.items()},
        }
    ]
    if wrong or len(found) != count:
        yield f"{len(found)} of {count} runs came, {len(wrong)} of them not as they were logged"


def _ask(bench: Bench, server: Server, row: str, statement: str, form: str = "json") -> bytes:
    """Times a query, which is asked now and then; its answer."""
    latencies = []
    answer = b""
    # The first one reads the files into memory, as whoever asks often finds them.
    for _ in range(ASKED + 1):
        outcome = run_load(server.port, [same_request(sql(statement, form), 1)])
        latencies.append(outcome.latencies_s[0])
        answer = outcome.last_body
        if problems := list(wrong_statuses(outcome)):
            raise RuntimeError(problems[0])
        time.sleep(BETWEEN_S)
    bench.record(row, server.name, statistics.median(latencies[1:]))
    bench.note(row, server.name, f"the first one {latencies[0]:.2g} s")
    return answer


def _loop(bench: Bench, server: Server, row: str, answer: Callable[[Loop], T]) -> T:
    """Times a question that is answered by calls; the answer."""
    seconds = []
    with Loop(server.port) as loop:
        found = answer(loop)
        calls = loop.calls
        for _ in range(LOOPS):
            started = time.perf_counter()
            found = answer(loop)
            seconds.append(time.perf_counter() - started)
    bench.record(row, server.name, statistics.median(seconds))
    bench.note(row, server.name, f"{calls} calls" if calls > 1 else "1 call")
    return found


def _study_by_sql(bench: Bench, study: Study, rows: tuple[str, str]) -> None:
    folder = bench.home_of(RUNFOLD)
    fill(folder / HOME, study.events())
    with bench.started(RUNFOLD, folder, SEAL_SOON) as server:
        bench.settle(server)
        wait_until_sealed(server, SEALED_WITHIN_S)
    values = study.values()
    with bench.started(RUNFOLD, folder) as server:
        curve = read_curve(_ask(bench, server, rows[0], CURVE_SQL))
        best = read_best(_ask(bench, server, rows[1], BEST_SQL))
    _check_study(bench, RUNFOLD, curve, best, values)


def _study_by_rest(bench: Bench, name: str, study: Study, rows: tuple[str, str]) -> None:
    folder = bench.home_of(name)
    _make_tables(bench, name, folder)
    fill_study(name, folder, study)
    values = study.values()
    with bench.started(name, folder) as server:
        asked = experiment_ids()
        curve = _loop(bench, server, rows[0], lambda loop: rest_curve(name, loop, asked))
        best = _loop(bench, server, rows[1], lambda loop: rest_best(name, loop, asked))
    _check_study(bench, name, curve, best, values)


def _make_tables(bench: Bench, name: str, folder: Path) -> None:
    with bench.started(name, folder) as server:
        server.client().call("POST", "runs/search", {"experiment_ids": ["0"], "max_results": 1})


def _check_study(bench: Bench, name: str, curve: Curve, best: Best, values: Any) -> None:
    for problem in (
        *wrong_curve(curve, wanted_curve(values)),
        *wrong_best(best, wanted_best(values)),
    ):
        bench.problem(name, problem)


def _study(bench: Bench, name: str) -> None:
    runs = bench.scaled(RUNS)
    tenth = Study(max(EXPERIMENTS, runs // TENTH))
    rows = ("sql-curve-tenth", "sql-best-tenth")
    if name != RUNFOLD:
        _study_by_rest(bench, name, tenth, rows)
        return
    _study_by_sql(bench, Study(max(EXPERIMENTS, runs)), ("sql-curve", "sql-best"))
    _study_by_sql(bench, tenth, rows)


def _table_by_sql(bench: Bench, count: int, row: str) -> None:
    folder = bench.home_of(RUNFOLD)
    fill(folder / HOME, (event for place in range(count) for event in searched_run(place)))
    with bench.started(RUNFOLD, folder, SEAL_SOON) as server:
        bench.settle(server)
    with bench.started(RUNFOLD, folder) as server:
        found = read_table(_ask(bench, server, row, TABLE_SQL, "arrow"))
    for problem in wrong_table(found, count):
        bench.problem(RUNFOLD, problem)


def _table(bench: Bench, name: str) -> None:
    count = bench.scaled(TABLE_RUNS, least=100)
    tenth = count // TENTH
    if name == RUNFOLD:
        _table_by_sql(bench, count, "sql-table")
        _table_by_sql(bench, tenth, "sql-table-tenth")
        return
    folder = bench.home_of(name)
    _make_tables(bench, name, folder)
    fill_runs(name, folder, tenth)
    with bench.started(name, folder) as server:
        found = _loop(bench, server, "sql-table-tenth", rest_table)
    for problem in wrong_table(found, tenth):
        bench.problem(name, problem)


CASES = (
    Case(
        "sql-study",
        "a mean and quantile curve, and the best run at a step, over 100 million points of 2,000 "
        "runs; and over a tenth of them, which the peers answer by REST in a loop",
        ("sql-curve", "sql-curve-tenth", "sql-best", "sql-best-tenth"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _study,
    ),
    Case(
        "sql-table",
        "run_table of 5,000 runs with 20 columns; and of 500, which the peers page through",
        ("sql-table", "sql-table-tenth"),
        (MLFLOW, FASTTRACKML, RUNFOLD),
        _table,
    ),
)
