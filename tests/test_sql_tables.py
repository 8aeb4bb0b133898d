"""The tables of SQL queries say what REST says, whatever happened and however it is stored."""

import contextlib
import math
from pathlib import Path
from typing import Any

import duckdb
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from events import experiments as experiment_events
from events.codec import Block, Series, decode_block, make_block
from events.experiments import ExperimentCreated
from events.metrics import POINTS_LOGGED
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_DELETED,
    RUN_PURGED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunDeleted,
    RunPurged,
    RunTag,
)
from projections.query_forks import Forks
from projections.query_points import POINTS_FILE, read_parts
from projections.query_process import (
    FOLDERS,
    Child,
    Job,
    QueryFailed,
    QueryLimits,
    RunningQuery,
)
from projections.sql_snapshot import SegmentGone, take_snapshot
from projections.sql_tables import TABLES, with_tables
from tests.sql_cases import SqlCase, Tables, as_rest_says, without_times
from tests.test_replay import EVENTS, IDS

DOCS = Path(__file__).parent.parent / "docs"
VALUES = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.0)

numbers = st.integers(0, 20)
steps = st.one_of(
    st.tuples(st.just("run"), st.sampled_from(sorted(EVENTS["run"])), numbers),
    st.tuples(st.just("run"), st.just("points of all kinds"), numbers),
    st.tuples(st.just("model"), st.sampled_from(sorted(EVENTS["model"])), numbers),
    st.tuples(st.just("experiment"), st.sampled_from(sorted(EVENTS["experiment"])), numbers),
    st.tuples(st.sampled_from(["fold", "export", "seal", "round"]), st.just(""), numbers),
)


class Player:
    """Plays random steps on a case; ids are used once, as a server uses them."""

    def __init__(self, case: SqlCase) -> None:
        self.case = case
        self.ids: dict[str, list[str]] = {"experiment": [], "run": [], "model": []}
        for kind in ("experiment", "experiment", "run", "run", "model"):
            self.play(kind, "created", len(self.ids[kind]))

    def play(self, kind: str, what: str, number: int) -> None:
        """One step."""
        case = self.case
        if kind not in EVENTS:
            case.projector.catch_up()
            if kind == "export":
                case.exporter.round()
            elif kind == "seal":
                case.sealer.seal_all()
            elif kind == "round":
                case.sealer.round()
            return
        ids = self.ids[kind]
        if what.startswith("created"):
            ids.append(IDS[kind].format(len(ids) + 1))
            case.given(*_made(kind, what, number, ids[-1]))
        else:
            case.given(*_made(kind, what, number, ids[number % len(ids)]))


def _made(kind: str, what: str, number: int, subject: str) -> tuple[Any, str, Any]:
    if what == "points of all kinds":
        points = [
            (Series(f"k{n % 2}", *(["m-1", "data", "1"] if n % 3 else [])), n % 4, n % 3, value)
            for n, value in enumerate(VALUES, number % 5)
        ]
        return POINTS_LOGGED, subject, make_block(points)
    event_type, payload = EVENTS[kind][what](number)
    return event_type, subject, payload


def check(case: SqlCase) -> Tables:
    """SQL's tables are REST's, of all experiments and of each by itself."""
    told = as_rest_says(case)
    assert repr(without_times(case.tables())) == repr(told)
    for experiment_id in ("1", "2"):
        own = {
            table.name: [row for row in told[table.name] if experiment_id in _home(table.name, row)]
            for table in TABLES
        }
        assert repr(without_times(case.tables({experiment_id}))) == repr(own)
    return told


def _home(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[:1] if table == "experiments" else row[4:5] if table == "events" else row[1:2]


def seen_by_others(case: SqlCase) -> Tables:
    """The tables that plain DuckDB makes of the lake's folder."""
    with duckdb.connect() as connection:
        connection.execute((case.lake.folder / "open.sql").read_text())
        return {
            table.name: connection.execute(f"SELECT DISTINCT * FROM {table.name}").fetchall()
            for table in TABLES
        }


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(played=st.lists(steps, min_size=5, max_size=40))
def test_the_tables_say_what_rest_says(
    played: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any history, of whatever was exported and sealed on the way: not sealed, sealed,
    merged, and made again from the log; and the lake's folder says it too."""
    case = SqlCase(tmp_path_factory.mktemp("sql"))
    player = Player(case)
    for step in played:
        player.play(*step)
    case.projector.catch_up()
    told = check(case)
    case.exporter.round()
    assert repr(check(case)) == repr(told)
    case.sealer.seal_all()
    assert repr(check(case)) == repr(told)
    while case.sealer.round():
        continue
    case.exporter.round()
    assert repr(check(case)) == repr(told)
    assert repr(without_times(seen_by_others(case))) == repr(told)
    again = SqlCase(tmp_path_factory.mktemp("again"), case.log)
    again.projector.catch_up()
    assert repr(check(again)) == repr(told)
    again.close()
    case.close()


def a_case(folder: Path) -> SqlCase:
    """Two experiments with a run each."""
    case = SqlCase(folder)
    for number in ("1", "2"):
        created = ExperimentCreated(f"experiment {number}", "uri", 1)
        case.given(experiment_events.EXPERIMENT_CREATED, number, created)
        case.given(RUN_CREATED, f"run{number}", RunCreated(number, f"name{number}", "me", 1, "a"))
        case.given(
            RUN_BATCH_LOGGED,
            f"run{number}",
            RunBatchLogged([Param("lr", f"0.{number}")], [RunTag("team", number)]),
        )
        points = [(Series("loss"), step, step, 1 / (1 + step)) for step in range(100)]
        case.given(POINTS_LOGGED, f"run{number}", make_block(points))
    case.projector.catch_up()
    return case


def rows_of(file: Path) -> list[Any]:
    """All rows of a Parquet file, without what a path would add."""
    with duckdb.connect() as connection:
        return connection.execute(f"FROM read_parquet('{file}')").fetchall()


def parquet_bytes(case: SqlCase) -> str:
    """All that is in any file of the lake, as text."""
    found: list[Any] = []
    for file in case.lake.folder.rglob("*"):
        if file.is_file() and file.suffix != ".sql":
            assert file.suffix == ".parquet" or file.name.startswith(".lock-")
            if file.suffix == ".parquet":
                found += rows_of(file)
    return repr(found)


def test_a_purged_run_is_in_no_table_and_no_file(tmp_path: Path) -> None:
    """From the moment its purge is folded no query finds it; what gc does then leaves no byte."""
    case = a_case(tmp_path)
    case.sealer.seal_all()
    case.exporter.round()
    assert "run1" in parquet_bytes(case)
    case.given(RUN_DELETED, "run1", RunDeleted())
    case.given(RUN_PURGED, "run1", RunPurged())
    case.projector.catch_up()
    check(case)
    assert "run1" not in repr(case.tables())
    case.sealer.remove_purged()
    case.exporter.remove_purged()
    assert "run1" not in parquet_bytes(case)
    assert "run2" in parquet_bytes(case)
    check(case)
    case.close()


def test_a_snapshot_holds_nothing_of_other_experiments(tmp_path: Path) -> None:
    """No file of it, by name or content, has anything of an experiment that was not asked for."""
    for prepare in ("fresh", "exported", "changed again"):
        case = a_case(tmp_path / prepare)
        if prepare != "fresh":
            case.sealer.seal_all()
            case.exporter.round()
        if prepare == "changed again":
            for number in ("1", "2"):
                case.given(RUN_DELETED, f"run{number}", RunDeleted())
            case.given(RUN_PURGED, "run2", RunPurged())
            case.projector.catch_up()
        taken = case.snapshot({"1"})
        text = "".join(taken.statements)
        for file in taken.folder.rglob("*.parquet"):
            text += repr(rows_of(file)) + file.name
            text += str(file.relative_to(taken.folder))
        with (taken.folder / POINTS_FILE).open("rb") as points_file:
            plan, blocks = read_parts(points_file)
            text += repr(plan) + repr([(run_id, decode_block(data)) for run_id, data in blocks])
        assert "run1" in text
        assert "run2" not in text
        assert "experiment 2" not in text
        assert "experiment_id=2" not in text
        case.close()


def test_a_repeated_point_is_one_wherever_its_copies_are(tmp_path: Path) -> None:
    """A batch that was sent again after the first was sealed is seen once, before any merge."""
    case = a_case(tmp_path)
    case.sealer.seal_all()
    points = [(Series("loss"), step, step, 1 / (1 + step)) for step in range(90, 110)]
    case.given(POINTS_LOGGED, "run1", make_block(points))
    case.projector.catch_up()
    for _ in range(2):
        with case.connected() as connection:
            found = connection.execute(
                "SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_id = 'run1'"
            ).fetchall()
        assert found == [(110, 110)]
        case.exporter.round()
        case.sealer.seal_all()
    case.close()


def test_points_of_other_steps_are_read_without_distinct(tmp_path: Path) -> None:
    """A run that goes on where its segment ends needs no look for repeated points."""
    case = a_case(tmp_path)
    case.sealer.seal_all()
    case.exporter.round()
    case.given(POINTS_LOGGED, "run1", make_block([(Series("loss"), 100, 100, 0.5)]))
    case.projector.catch_up()
    with case.connected() as connection:
        made = connection.execute(
            "SELECT sql FROM duckdb_views() WHERE view_name = 'metrics'"
        ).fetchall()
    assert "DISTINCT" not in repr(made)
    assert "UNION ALL" in repr(made)
    case.close()


def asked_in_a_process(case: SqlCase, statement: str, memory_mb: int = 300) -> str:
    """What a query's own process answers, within its walls."""
    limits = QueryLimits(memory_mb=memory_mb)
    with (
        contextlib.closing(Forks()) as forks,
        contextlib.closing(Child(forks, case.lake.folder / FOLDERS, limits)) as child,
    ):
        taken = take_snapshot(case.views, case.log, case.lake, None, child.folder)
        query = RunningQuery(child, Job(statement, format="csv"), taken.statements)
        query.begin()
        return b"".join(iter(query.read, b"")).decode()


def test_a_query_s_process_makes_the_same_tables(tmp_path: Path) -> None:
    """It finds every point once: of segments, of one with a purged run, repeated, and unsealed."""
    case = a_case(tmp_path)
    statement = (
        "SELECT run_id, count(*) AS points, count(DISTINCT step) AS steps, min(step) AS least,"
        " max(timestamp_ms) AS latest, count(*) FILTER (WHERE isnan(value)) AS nans"
        " FROM metrics GROUP BY ALL ORDER BY ALL"
    )
    expected = ["run_id,points,steps,least,latest,nans"]
    assert asked_in_a_process(case, "SELECT count(*) FROM metrics").split() == [
        "count_star()",
        "200",
    ]
    case.sealer.seal_all()
    points = [(Series("loss"), step, step, 1 / (1 + step)) for step in range(90, 110)]
    case.given(POINTS_LOGGED, "run1", make_block([*points, (Series("loss"), 200, 1, math.nan)]))
    case.given(RUN_DELETED, "run2", RunDeleted())
    case.given(RUN_PURGED, "run2", RunPurged())
    case.projector.catch_up()
    expected.append("run1,111,111,0,109,1")
    assert asked_in_a_process(case, statement).split() == expected
    case.close()


def test_unsealed_points_count_against_the_memory_of_the_query(tmp_path: Path) -> None:
    """A query that has too little for them is ended with a reason: the server has no fault."""
    case = a_case(tmp_path)
    count = 400_000
    many = np.arange(count)
    block = Block([Series("loss")], np.zeros(count, np.uint32), many, many, many / 3)
    case.given(POINTS_LOGGED, "run1", block)
    case.projector.catch_up()
    with pytest.raises(QueryFailed, match="not sealed yet need more memory") as failed:
        asked_in_a_process(case, "SELECT count(*) FROM metrics", memory_mb=8)
    assert failed.value.is_limit
    assert asked_in_a_process(case, "SELECT count(*) FROM runs").split()[-1] == "2"
    case.close()


def test_an_export_writes_only_parts_that_changed(tmp_path: Path) -> None:
    """What did not change keeps its files, and what did has new ones, once each."""
    case = a_case(tmp_path)
    case.exporter.round()

    def files() -> dict[str, str]:
        return {
            f"{file.parent.parent.name}/{file.parent.name}": file.name
            for file in (case.lake.folder / ".exports").rglob("*.parquet")
        }

    before = files()
    case.exporter.round()
    assert files() == before
    case.given(RUN_BATCH_LOGGED, "run1", RunBatchLogged([Param("momentum", "0.9")]))
    case.projector.catch_up()
    case.exporter.round()
    after = files()
    changed = {name for name in after if after[name] != before[name]}
    assert changed - {"experiment_id=1/events"} == {"experiment_id=1/params"}
    check(case)
    case.close()


def test_a_file_that_vanished_is_told_and_the_folder_is_empty(tmp_path: Path) -> None:
    """The next try finds the folder as it was; once the file is there again it succeeds."""
    case = a_case(tmp_path)
    case.exporter.round()
    (file,) = (case.lake.folder / ".exports" / "experiment_id=2" / "tags").iterdir()
    hidden = file.rename(tmp_path / "hidden")
    folder = tmp_path / "given"
    folder.mkdir()
    with pytest.raises(SegmentGone):
        take_snapshot(case.views, case.log, case.lake, None, folder)
    assert list(folder.iterdir()) == []
    hidden.rename(file)
    assert take_snapshot(case.views, case.log, case.lake, None, folder).statements
    case.close()


def test_the_page_shows_the_tables_as_they_are_declared() -> None:
    """docs/sql.md's section of the tables is current."""
    page = (DOCS / "sql.md").read_text("utf-8")
    assert with_tables(page) == page, "run `python -m projections.sql_tables docs/sql.md`"
