"""The benchmark's questions over all runs, asked of a small study: what SQL answers, what REST in a
loop answers, and that wrong answers are told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from infra.benchmarks.cases.questions import (
    TABLE_SQL,
    read_best,
    read_curve,
    read_table,
    wrong_table,
)
from infra.benchmarks.cases.sql import Asker, wrong_stream
from infra.benchmarks.curves import Points
from infra.benchmarks.fill import fill, searched_run
from infra.benchmarks.load import Outcome
from infra.benchmarks.peer_fill import FILES, fill_runs, fill_study
from infra.benchmarks.rest_answers import Loop, rest_best, rest_curve, rest_table
from infra.benchmarks.rows import FASTTRACKML, MLFLOW
from infra.benchmarks.run_data import RunData
from infra.benchmarks.study import (
    BEST_SQL,
    CURVE_SQL,
    EXPERIMENTS,
    KEYS,
    PARTS,
    QUANTILES,
    STEPS,
    Study,
    experiment_ids,
    experiment_of,
    wanted_best,
    wanted_curve,
    wrong_best,
    wrong_curve,
)
from tests import servers

STUDY = Study(2 * EXPERIMENTS)
TABLE_RUNS = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server over a study, and over runs with params, metrics and tags in another experiment."""
    home = tmp_path_factory.mktemp("study") / "home"
    runs = (
        event
        for place in range(STUDY.runs, STUDY.runs + TABLE_RUNS)
        for event in searched_run(place)
    )
    fill(home, (*STUDY.events(), *runs))
    started = servers.runfold(home).start()
    yield started
    started.stop()


def ask(server: servers.Server, statement: str, form: str = "json") -> bytes:
    """The answer to a query."""
    body = json.dumps({"statement": statement, "format": form}).encode()
    sent = {"Content-Type": "application/json"}
    answer = servers.send(server.url, "POST", "/api/2.0/runfold/sql", body, sent)
    assert answer.status == 200, answer.body[:500]
    return answer.body


def loop(server: servers.Server) -> Loop:
    return Loop(int(server.url.rpartition(":")[2]))


def table_of(places: range) -> dict[str, dict[str, object]]:
    return {
        f"{place:032x}": {
            **{f"params.{key}": value for key, value in RunData(place).params.items()},
            **{f"metrics.{key}": value for key, value in RunData(place).metrics.items()},
        }
        for place in places
    }


def test_sql_finds_the_curve_and_the_best_runs(server: servers.Server) -> None:
    """Both are what numpy finds in what was logged, and no other curve and no other run passes."""
    values = STUDY.values()
    curve = read_curve(ask(server, CURVE_SQL))
    assert curve.shape == (PARTS, 1 + len(QUANTILES))
    assert list(wrong_curve(curve, wanted_curve(values))) == []
    best = read_best(ask(server, BEST_SQL))
    assert list(best) == experiment_ids()
    assert list(wrong_best(best, wanted_best(values))) == []
    assert list(wrong_curve(curve, wanted_curve(values[1:])))
    assert list(wrong_best(best, wanted_best(values + 1)))


def test_rest_in_a_loop_finds_the_same(server: servers.Server) -> None:
    """What the peers are asked gives the same answers, in as many calls as their limits allow."""
    values = STUDY.values()
    with loop(server) as calls:
        curve = rest_curve(MLFLOW, calls, experiment_ids())
        assert calls.calls == 2
        best = rest_best(MLFLOW, calls, experiment_ids())
    assert list(wrong_curve(curve, wanted_curve(values))) == []
    assert list(wrong_best(best, wanted_best(values))) == []


def test_sql_and_rest_find_the_table(server: servers.Server) -> None:
    """Each cell of each run is what was logged."""
    wanted = table_of(range(STUDY.runs, STUDY.runs + TABLE_RUNS))
    assert read_table(ask(server, TABLE_SQL, "arrow")) == wanted
    with loop(server) as calls:
        assert rest_table(calls) == wanted


def test_a_wrong_table_is_told() -> None:
    """A run too few, a run too many, and a cell that differs."""
    whole = table_of(range(3))
    assert list(wrong_table(whole, 3)) == []
    assert list(wrong_table(whole, 2))
    assert list(wrong_table(whole, 4))
    whole[f"{1:032x}"]["metrics.metric_3"] = 2.0
    assert list(wrong_table(whole, 3))


def test_a_wrong_stream_is_told(server: servers.Server) -> None:
    """The Arrow stream of a run's points is compared point for point."""
    run_id = STUDY.run_ids()[3]
    answer = ask(server, f"FROM metrics WHERE run_id = '{run_id}'", "arrow")
    points = STUDY.points_of(3)
    assert list(wrong_stream(answer, points)) == []
    changed = points.values.copy()
    changed[-1] += 1
    other = Points(points.keys, points.index, points.steps, points.timestamps, changed)
    assert list(wrong_stream(answer, other))


def test_a_stale_answer_is_told() -> None:
    """A query beside the load must see what was acknowledged before it, and may see more."""
    load = Outcome()
    asker = Asker(load)
    asker(b"")
    for acknowledged, seen in ((2, 0), (3, 2_500), (3, 3_000)):
        load.statuses[200] = acknowledged
        asker(json.dumps({"rows": [["key", 0, seen]]}).encode())
    assert asker.problems == []
    asker(json.dumps({"rows": [["key", 0, 2_999]]}).encode())
    assert len(asker.problems) == 1


@pytest.mark.parametrize("name", [MLFLOW, FASTTRACKML])
def test_a_peer_s_file_gets_all_points(name: str, tmp_path: Path) -> None:
    """The rows that a peer's tables get are the study's and the runs', each once."""
    own = {MLFLOW: "", FASTTRACKML: ", iter, context_id"}[name]
    last = {MLFLOW: "", FASTTRACKML: ", last_iter, context_id"}[name]
    space = {MLFLOW: "", FASTTRACKML: ", namespace_id"}[name]
    number = {MLFLOW: "", FASTTRACKML: ", row_num"}[name]
    value = {MLFLOW: "value", FASTTRACKML: "value_str"}[name]
    with closing(sqlite3.connect(tmp_path / FILES[name])) as made:
        for statement in (
            f"experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,"
            f" last_update_time{space})",
            "runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
            f" start_time, source_version, lifecycle_stage, artifact_uri, experiment_id{number})",
            f"metrics (key, value, timestamp, run_uuid, step, is_nan{own})",
            f"latest_metrics (key, value, timestamp, step, is_nan, run_uuid{last})",
            f"params (key, {value}, run_uuid)",
            "tags (key, value, run_uuid)",
        ):
            made.execute(f"CREATE TABLE {statement}")
    study = Study(2)
    fill_study(name, tmp_path, study)
    fill_runs(name, tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / FILES[name])) as filled:

        def rows(statement: str) -> list[tuple[object, ...]]:
            return filled.execute(statement).fetchall()

        assert rows("SELECT count(*) FROM experiments") == [(EXPERIMENTS,)]
        points = study.points_of(1)
        run_id = study.run_ids()[1]
        found = rows(f"SELECT value FROM metrics WHERE run_uuid = '{run_id}' ORDER BY step, key")
        assert np.array_equal(np.array(found)[:, 0], points.values)
        of_run = f"FROM latest_metrics WHERE run_uuid = '{run_id}'"
        assert rows(f"SELECT count(*), min(step), max(step) {of_run}") == [
            (KEYS, STEPS - 1, STEPS - 1)
        ]
        experiment = f"SELECT experiment_id FROM runs WHERE run_uuid = '{run_id}' AND name != ''"
        assert rows(experiment) == [(int(experiment_of(1)),)]
        assert rows(f"SELECT key, {value} FROM params ORDER BY key") == sorted(
            RunData(0).params.items()
        )
        assert rows("SELECT count(*) FROM tags") == [(2 + 1 + len(RunData(0).tags),)]
