"""Points folded by many processes at once: who folds what, and that the rows come out the same."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from events.codec import Series, make_block
from events.event import JOURNAL, Lane, NewEvent, Partition
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.kafka_log import KafkaLog, init_log
from events.kafka_settings import KafkaAccess
from events.log import PointsShare
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED, Point
from events.runs import RUN_BATCH_LOGGED, RUN_CREATED, RunBatchLogged, RunCreated, RunTag
from projections.folding import Checkpoint, Checkpoints
from projections.lake import Lake
from projections.metrics import blocks
from projections.sqlite_views import SqliteViews
from tests.homes import content
from workers import projector_process
from workers.maintenance import fold_to_head
from workers.projector import Projector
from workers.shares import Shares

RUNS = ("ra", "rb", "rc")
EVENTS = 900
PARTITIONS = 4
WAIT_S = 30.0


@pytest.fixture
def views(tmp_path: Path) -> Iterator[SqliteViews]:
    """Empty views."""
    made = SqliteViews(tmp_path / "shared.db", "memory")
    made.create()
    yield made
    made.close()


class Scattered(MemoryLog):
    """A log in which the points of a run are in all partitions, as after partitions were added."""

    def __init__(self) -> None:
        super().__init__(PARTITIONS)
        self._next = itertools.cycle(range(PARTITIONS))

    def partition_of(self, lane: Lane, subject: str) -> Partition:
        """See CopyTarget.partition_of."""
        return super().partition_of(lane, subject) if lane == "journal" else self._of_points()

    def _of_points(self) -> Partition:
        return Partition("points", next(self._next))


def begin_runs(log: MemoryLog) -> None:
    """Creates the runs."""
    created = ExperimentCreated("e", "mlflow-artifacts:/1", 1)
    log.append([EXPERIMENT_CREATED.new("1", created, time=1)])
    for run_id in RUNS:
        named = RunCreated("1", run_id, "u", 1, "uri", [RunTag("mlflow.runName", run_id)])
        log.append([RUN_CREATED.new(run_id, named, time=2)])


def logged(number: int) -> NewEvent:
    """A few points; now and then in the journal, where params may come with them."""
    run_id = RUNS[number % len(RUNS)]
    if number % 9 == 0:
        batch = RunBatchLogged(metrics=[Point(f"k{number % 4}", float(number), number % 7, number)])
        return RUN_BATCH_LOGGED.new(run_id, batch, time=3)
    points = [(Series(f"k{n}"), number, number % 7, number / 3) for n in range(4)]
    return POINTS_LOGGED.new(run_id, make_block(points), time=3)


def test_points_of_one_run_folded_by_many_at_once_are_all_there_once(
    views: SqliteViews, tmp_path: Path
) -> None:
    """Three fold the same partitions, which no group would have them do, and a fourth the journal:
    what came of it is what one alone makes of the log, and no block is there twice or gone."""
    log = Scattered()
    begin_runs(log)
    points = {Partition("points", number) for number in range(PARTITIONS)}
    wants: list[set[Partition]] = [points, points, points, {JOURNAL}]
    stop = threading.Event()
    opened = [SqliteViews(tmp_path / "shared.db", "memory") for _ in wants]
    threads = [
        threading.Thread(
            target=Projector(log, own, shares=Shares(partial(set, one))).run, args=(stop, None)
        )
        for own, one in zip(opened, wants, strict=True)
    ]
    for thread in threads:
        thread.start()
    for number in range(EVENTS):
        log.append([logged(number)])
        time.sleep(0.001)
    until = time.monotonic() + WAIT_S
    heads = log.heads()
    while any(views.checkpoints()[one].position < head for one, head in heads.items()):
        assert time.monotonic() < until, views.checkpoints()
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    one_alone = SqliteViews(tmp_path / "views.db", "memory")
    fold_to_head(log, one_alone)
    assert content(views, Lake(tmp_path / "lake")) == content(one_alone, Lake(tmp_path))
    with views.read() as connection:
        stored = connection.execute(sa.select(sa.func.sum(blocks.c.points))).scalar()
    journal = len([number for number in range(EVENTS) if number % 9 == 0])
    assert stored == (EVENTS - journal) * 4 + journal
    for one in (*opened, one_alone):
        one.close()


def test_what_another_has_left_lying_is_folded_by_who_has_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not at once, for its projector may be slow; then for as long as nobody else goes on with it
    and partitions are not shared out anew; and never by one that has no journal."""
    other, mine = Partition("points", 0), Partition("points", 1)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    given = {JOURNAL, mine}
    shares, follower = Shares(lambda: set(given)), Shares(lambda: {mine})

    def looked(position: int, head: int, after_s: float) -> bool:
        now[0] += after_s
        checkpoints = Checkpoints({other: Checkpoint(position), mine: Checkpoint(3)})
        heads = {JOURNAL: 0, other: head, mine: 9}
        assert set(follower.look(heads, checkpoints)) == {mine}
        return other in shares.look(heads, checkpoints)

    assert [looked(5, 9, 1.0), looked(5, 9, 1.9), looked(5, 9, 0.2)] == [False, False, True]
    shares.folded(other, 7)
    assert looked(7, 9, 0.1)
    shares.folded(other, 9)
    assert [looked(9, 9, 5.0), looked(9, 12, 0.1)] == [True, True]
    assert [looked(10, 12, 0.1), looked(10, 12, 1.0), looked(12, 12, 5.0)] == [False] * 3
    assert [looked(12, 13, 1.0), looked(12, 13, 2.1)] == [False, True]
    given.add(Partition("points", 2))
    assert [looked(12, 13, 0.1), looked(12, 13, 2.1)] == [False, True]


def test_only_who_has_the_lock_folds_the_journal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it has it; its share of the points it folds all the time."""
    monkeypatch.setattr(projector_process, "prepare", lambda _stores: None)
    mine, ended = Partition("points", 1), threading.Event()
    process: Any = SimpleNamespace(ended=ended)
    share: Any = SimpleNamespace(mine=lambda: {mine})
    projector = projector_process.SharingProjector(process, process, share)
    assert set(projector._given()) == {mine}
    leading = threading.Thread(target=projector._lead)
    leading.start()
    until = time.monotonic() + 10
    while set(projector._given()) != {JOURNAL, mine}:
        assert time.monotonic() < until
        time.sleep(0.005)
    ended.set()
    leading.join(10)
    assert set(projector._given()) == {mine}


def shared(members: list[PointsShare], wanted: list[int]) -> None:
    """Waits until each member has so many partitions, and all have all."""
    until = time.monotonic() + WAIT_S
    while True:
        found = [set(member.mine()) for member in members]
        if [len(one) for one in found] == wanted and len(set().union(*found)) == PARTITIONS:
            return
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_partitions_are_shared_out_and_moved(kafka_uri: str) -> None:
    """One member has all; of two each has half; one that leaves gives its half back."""
    init_log(kafka_uri, KafkaAccess(), PARTITIONS)
    with closing(KafkaLog(kafka_uri, KafkaAccess())) as log:
        one = log.share_points()
        shared([one], [PARTITIONS])
        other = log.share_points()
        shared([one, other], [PARTITIONS // 2, PARTITIONS // 2])
        one.close()
        shared([other], [PARTITIONS])
        other.close()
