"""The projector: verdicts, checkpoints, and stopping rather than guessing."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from events.codec import Series, decode_block, make_block
from events.errors import TemporarilyUnavailable
from events.event import JOURNAL, POINTS, NewEvent, Partition
from events.experiments import (
    EXPERIMENT_CREATED,
    EXPERIMENT_DELETED,
    ExperimentCreated,
    ExperimentDeleted,
)
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED, Point, number_text
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_DELETED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunDeleted,
    RunTag,
)
from projections import folding
from projections.database import PROJECTOR, AlreadyRunning, Views
from projections.metrics import blocks, latest_metrics
from projections.opened_views import open_views
from projections.runs import params, runs, tags
from projections.schema import rejections
from projections.sqlite_views import SqliteViews
from projections.state import State
from workers.projector import Projector


def experiment(experiment_id: str, name: str) -> NewEvent:
    """An experiment's creation."""
    return EXPERIMENT_CREATED.new(
        experiment_id, ExperimentCreated(name, f"mlflow-artifacts:/{experiment_id}", 1), time=1
    )


def run(run_id: str, experiment_id: str = "1") -> NewEvent:
    """A run's creation."""
    created = RunCreated(experiment_id, "name", "user", 5, "mlflow-artifacts:/1/r/artifacts")
    return RUN_CREATED.new(run_id, created, time=5)


def batch(run_id: str, **fields: Any) -> NewEvent:
    """A batch with params, tags or metrics."""
    return RUN_BATCH_LOGGED.new(run_id, RunBatchLogged(**fields), time=6)


def points(run_id: str, *values: tuple[int, int, float]) -> NewEvent:
    """Points of the key `loss`: (step, timestamp, value)."""
    block = make_block([(Series("loss"), *value) for value in values])
    return POINTS_LOGGED.new(run_id, block, time=7)


@pytest.fixture
def views(views_uri: str) -> Iterator[Views]:
    """Empty views, on each kind of database."""
    made = open_views(views_uri, "memory")
    assert made.create()
    yield made
    made.close()


def rows(views: Views, table: sa.Table) -> list[tuple[Any, ...]]:
    """All rows of a table, in order of its key."""
    with views.read() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
        return [tuple(row) for row in found]


def folded(views: Views, *events: NewEvent) -> MemoryLog:
    """The views after these events; returns the log that holds them."""
    log = MemoryLog()
    log.append(events)
    Projector(log, views).catch_up()
    return log


def test_the_first_to_take_a_name_wins(views: Views) -> None:
    """Of two experiments with one name the later is rejected and leaves no row."""
    folded(views, experiment("1", "vision"), experiment("2", "vision"), experiment("3", "text"))
    assert rows(views, rejections) == [
        (2, "2", "RESOURCE_ALREADY_EXISTS", "Experiment(name=vision) already exists.")
    ]
    with views.read() as connection:
        ids = connection.exec_driver_sql("SELECT experiment_id FROM experiments").scalars().all()
    assert sorted(ids) == ["1", "3"]


def test_a_param_is_set_once(views: Views) -> None:
    """Another value is rejected; the same value again is accepted."""
    folded(
        views,
        experiment("1", "e"),
        run("r"),
        batch("r", params=[Param("lr", "0.1")]),
        batch("r", params=[Param("lr", "0.2")]),
        batch("r", params=[Param("lr", "0.1")]),
    )
    assert rows(views, params) == [("r", "lr", "0.1")]
    assert [row[0] for row in rows(views, rejections)] == [4]


def test_a_rejected_batch_leaves_nothing(views: Views) -> None:
    """A batch is all or nothing: its other params, tags and metrics are not kept either."""
    folded(
        views,
        experiment("1", "e"),
        run("r"),
        batch("r", params=[Param("lr", "0.1")]),
        batch(
            "r",
            params=[Param("new", "1"), Param("lr", "0.2")],
            tags=[RunTag("t", "1")],
            metrics=[Point("loss", 1.0, 1)],
        ),
    )
    assert rows(views, params) == [("r", "lr", "0.1")]
    assert rows(views, tags) == []
    assert rows(views, latest_metrics) == []


def test_writing_to_a_deleted_or_missing_run_is_rejected(views: Views) -> None:
    """A deleted run takes nothing, and a run that never was is not made by logging to it."""
    folded(
        views,
        experiment("1", "e"),
        run("r"),
        RUN_DELETED.new("r", RunDeleted(), time=9),
        batch("r", tags=[RunTag("t", "1")]),
        batch("nobody", tags=[RunTag("t", "1")]),
        run("orphan", "99"),
    )
    codes = [(row[0], row[2]) for row in rows(views, rejections)]
    assert codes == [
        (4, "INVALID_PARAMETER_VALUE"),
        (5, "RESOURCE_DOES_NOT_EXIST"),
        (6, "RESOURCE_DOES_NOT_EXIST"),
    ]
    assert len(rows(views, runs)) == 1


def test_the_latest_metric_does_not_depend_on_the_order(views: Views, tmp_path: Path) -> None:
    """The greatest (step, timestamp, value) is the latest, whichever came first."""
    values = [(1, 5, 0.5), (3, 1, float("nan")), (3, 1, -2.0), (2, 9, 9.0), (3, 1, 0.0)]
    start = (experiment("1", "e"), run("r"))
    folded(views, *start, *(points("r", value) for value in values))
    other = SqliteViews(tmp_path / "other.db", "memory")
    other.create()
    folded(other, *start, points("r", *reversed(values)))
    assert rows(views, latest_metrics) == rows(other, latest_metrics)
    (latest,) = rows(views, latest_metrics)
    assert latest == ("r", "loss", 0.0, 1, 3, True)
    other.close()


def test_the_latest_metric_does_not_depend_on_the_batches(tmp_path: Path) -> None:
    """Points of both lanes give the same latest values folded at once and one by one, in any
    order, with every tie there can be and as many keys as no statement takes at once."""
    chance = random.Random(7)
    values = (float("nan"), 0.0, -0.0, -2.0, 3.5, float("inf"), float("-inf"))
    given = [
        (f"key-{chance.randrange(100)}", chance.choice((-1, 0, 2**62)), chance.randrange(2), value)
        for value in values * 40
    ]
    found = []
    for limit in (1_000, 1, 7):
        chance.shuffle(given)
        log = MemoryLog()
        log.append([experiment("1", "e"), run("r")])
        for start in range(0, len(given), 5):
            some = given[start : start + 5]
            logged = [Point(key, number_text(v), time, step) for key, step, time, v in some]
            block = make_block([(Series(key), step, time, v) for key, step, time, v in some])
            on_points = POINTS_LOGGED.new("r", block, time=7)
            log.append([chance.choice((batch("r", metrics=logged), on_points))])
        folded_views = SqliteViews(tmp_path / f"{limit}.db", "memory")
        folded_views.create()
        projector = Projector(log, folded_views)
        for partition in (JOURNAL, POINTS):
            while projector.step(partition, limit):
                continue
        found.append(rows(folded_views, latest_metrics))
        folded_views.close()
    best: dict[str, tuple[Any, ...]] = {}
    for key, step, time, v in given:
        is_nan = math.isnan(v)
        point = (step, time, 0.0 if is_nan else v, is_nan)
        best[key] = max(best.get(key, point), point)
    wanted = [("r", key, v, time, step, is_nan) for key, (step, time, v, is_nan) in best.items()]
    assert found == [sorted(wanted)] * 3


def test_folding_goes_on_where_the_rows_stand(views: Views) -> None:
    """Small steps fold each event once: rows and checkpoint move together."""
    log = MemoryLog()
    log.append([experiment("1", "e")])
    log.append([run(f"r{number}") for number in range(10)])
    for _ in range(4):
        Projector(log, views).step(JOURNAL, limit=3)
    assert len(rows(views, runs)) == 10
    assert views.checkpoints()[JOURNAL].position == 11
    assert Projector(log, views).step(JOURNAL) == 0


def test_each_partition_has_a_checkpoint_and_stops_alone(views: Views) -> None:
    """The points lane of a divided log is folded partition by partition: all rows are those of an
    undivided one, and an event that can't be folded holds up its own partition only."""
    log = MemoryLog(points_partitions=3)
    log.append([experiment("1", "a"), *(run(f"r{number}") for number in range(9))])
    log.append([points(f"r{number % 9}", (number, number, 0.5)) for number in range(45)])
    bad = NewEvent("points", "points.logged", 99, "r0", 1, b"")
    log.append([bad, points("r0", (99, 99, 1.0))])
    Projector(log, views).catch_up()
    checkpoints = views.checkpoints()
    stopped = {one for one in log.partitions() if checkpoints[one].stopped is not None}
    (event, *_) = log.about("points", "r0")
    assert stopped == {Partition("points", event.partition)}
    for partition in log.partitions():
        missing = 2 if partition in stopped else 0
        assert checkpoints[partition].position == log.head(partition) - missing
    assert f"{Partition('points', event.partition)} " in str(
        checkpoints[Partition("points", event.partition)].stopped
    )
    latest = {(row[0], row[-2]) for row in rows(views, latest_metrics)}
    assert len(latest) == 9


def test_a_failing_batch_moves_neither_rows_nor_checkpoint(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the write fails at the end of the batch, nothing of it is there."""
    log = MemoryLog()
    log.append([experiment("1", "e")])
    projector = Projector(log, views)

    def broken(_state: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("projections.state.State.flush", broken)
        with pytest.raises(OSError, match="disk full"):
            projector.step(JOURNAL)
    assert views.checkpoints()[JOURNAL].position == 0
    assert projector.step(JOURNAL) == 1


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (NewEvent("journal", "run.teleported", 1, "r", 1, b"{}"), "does not know"),
        (NewEvent("journal", "run.created", 99, "r", 1, b"{}"), "does not know"),
        (NewEvent("journal", "run.created", 1, "r", 1, b"{not json"), "DecodeError"),
        (NewEvent("journal", "run.created", 1, "r", 1, b"{}"), "missing required"),
    ],
)
def test_what_can_not_be_folded_stops_its_lane(views: Views, event: NewEvent, reason: str) -> None:
    """An unknown or broken event stops the journal there: named, not skipped; the rest stays."""
    log = folded(views, experiment("1", "e"), run("a"), event, run("b"), points("a", (1, 1, 1.0)))
    checkpoints = views.checkpoints()
    assert checkpoints[JOURNAL].position == 2
    stopped = checkpoints[JOURNAL].stopped
    assert stopped is not None
    assert "journal 3" in stopped
    assert reason in stopped
    assert [row[0] for row in rows(views, runs)] == ["a"]
    # The other lane goes on, and so do appends.
    assert checkpoints[POINTS].position == 1
    assert log.append([run("c")]) == [5]


def test_a_broken_block_stops_the_points_lane_only(views: Views) -> None:
    """Bytes that are no block of points stop the points lane; the journal goes on."""
    log = folded(
        views,
        experiment("1", "e"),
        run("a"),
        points("a", (1, 1, 1.0)),
        NewEvent("points", "points.logged", 1, "a", 1, b"\x07rubbish"),
        points("a", (2, 2, 2.0)),
    )
    assert views.checkpoints()[POINTS].position == 1
    assert views.checkpoints()[JOURNAL].stopped is None
    log.append([run("b")])
    Projector(log, views).catch_up()
    assert len(rows(views, runs)) == 2


def test_folding_goes_on_once_the_stop_is_mended(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version that knows the event folds it and all behind it."""
    events = [experiment("1", "e"), run("a"), run("b")]
    log = MemoryLog()
    log.append(events)
    with monkeypatch.context() as patch:
        patch.setattr("projections.folding._TYPES", {("experiment.created", 1): EXPERIMENT_CREATED})
        Projector(log, views).catch_up()
        assert views.checkpoints()[JOURNAL].stopped is not None
    Projector(log, views).catch_up()
    assert views.checkpoints()[JOURNAL].stopped is None
    assert len(rows(views, runs)) == 2


def test_only_one_process_folds(tmp_path: Path) -> None:
    """Whoever comes second is told that another folds these views."""
    with (
        SqliteViews(tmp_path / "views.db", "log").lock(PROJECTOR),
        pytest.raises(AlreadyRunning, match="already"),
        SqliteViews(tmp_path / "views.db", "log").lock(PROJECTOR),
    ):
        pass
    with SqliteViews(tmp_path / "views.db", "log").lock(PROJECTOR):
        assert (tmp_path / "views.db.lock").exists()


def test_views_of_other_code_or_another_log_are_made_again(tmp_path: Path) -> None:
    """SqliteViews carry the fingerprint of their log and folds; what does not match is replaced."""
    first = SqliteViews(tmp_path / "views.db", "log-a")
    assert first.create()
    assert not first.create()
    second = SqliteViews(tmp_path / "views.db", "log-b")
    with pytest.raises(TemporarilyUnavailable, match="again"):
        second.checkpoints()
    assert second.create()
    assert second.checkpoints()[JOURNAL].position == 0
    first.close()
    second.close()


def test_a_run_that_logs_point_by_point_leaves_few_blocks(views: Views) -> None:
    """Small blocks are joined as they come; no point is lost or doubled by that."""
    log = MemoryLog()
    log.append([experiment("1", "e"), run("r")])
    projector = Projector(log, views)
    for step in range(300):
        log.append([points("r", (step, step, float(step)))])
        projector.step(POINTS)
    stored = rows(views, blocks)
    assert len(stored) < 40
    steps = [step for row in stored for step in decode_block(row[3]).steps.tolist()]
    assert sorted(steps) == list(range(300))


def test_half_a_deletion_is_never_kept(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an event that changes many rows at once fails half way, all of it is taken back."""
    log = folded(views, experiment("1", "e"), run("a"))

    def broken(_state: Any, _event: Any, _data: Any) -> None:
        raise OSError("half way")

    key = ("experiment.deleted", 1)
    with monkeypatch.context() as patch:
        folds = folding._FOLDS[key]
        patch.setitem(folding._FOLDS, key, [*folds, broken])
        log.append([run("b"), EXPERIMENT_DELETED.new("1", ExperimentDeleted(), time=9), run("c")])
        Projector(log, views).catch_up()
        assert views.checkpoints()[JOURNAL].position == 3
        assert "half way" in str(views.checkpoints()[JOURNAL].stopped)
        assert {row[7] for row in rows(views, runs)} == {"active"}
        assert len(rows(views, runs)) == 2
    Projector(log, views).catch_up()
    assert {row[7] for row in rows(views, runs)} == {"deleted"}
    assert len(rows(views, runs)) == 2


def test_a_batch_leaves_no_cursor_open(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor of a batch is closed with it, not by the garbage collector in some other thread,
    where it would reset a statement in use."""
    states: list[State] = []

    def kept(connection: sa.Connection) -> State:
        states.append(State(connection))
        return states[-1]

    monkeypatch.setattr("projections.folding.State", kept)
    folded(views, experiment("1", "e"), run("r"), points("r", (1, 1, 1.0)))
    assert len(states) == 2
    for state in states:
        with pytest.raises(Exception, match=r"(?i)closed"):
            state.fetch("SELECT 1", ())
