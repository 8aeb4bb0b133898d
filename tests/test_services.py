"""What handlers read through, while the views are being made."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import pytest

from api.services import Reader
from api.watch import Watch
from events.codec import Series, make_block
from events.errors import TemporarilyUnavailable
from events.event import POINTS, Partition
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.log import Log
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED
from projections.experiments import name_holder
from projections.sqlite_views import SqliteViews
from workers.projector import Projector


def log_with_experiment() -> Log:
    """A log with one experiment, `vision`."""
    log = MemoryLog()
    created = ExperimentCreated("vision", "mlflow-artifacts:/1", 1)
    log.append([EXPERIMENT_CREATED.new("1", created, time=1)])
    return log


async def holder_of_vision(log: Log, views: SqliteViews, wait_max_s: float) -> str | None:
    """Who has the name `vision`, asked without waiting for fresh views."""
    watch = Watch(views, wait_max_s, lambda: None)
    polling = asyncio.create_task(watch.run())
    reader = Reader(log, views, watch)
    try:
        return await reader.now(name_holder, "vision")
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
        reader.close()


def test_a_check_at_the_start_waits_for_the_views(tmp_path: Path) -> None:
    """A request that comes before the first views are there is answered once they are."""
    log = log_with_experiment()

    def make_views() -> None:
        time.sleep(0.3)
        made = SqliteViews(tmp_path / "views.db", "memory")
        made.create()
        Projector(log, made).catch_up()
        made.close()

    worker = threading.Thread(target=make_views)
    worker.start()
    views = SqliteViews(tmp_path / "views.db", "memory")
    assert asyncio.run(holder_of_vision(log, views, 20.0)) == "1"
    worker.join()
    views.close()


def test_a_check_without_views_ends_at_the_bound(tmp_path: Path) -> None:
    """Where no views come the answer is the 503 that says so."""
    views = SqliteViews(tmp_path / "views.db", "memory")
    with pytest.raises(TemporarilyUnavailable, match="Try again"):
        asyncio.run(holder_of_vision(log_with_experiment(), views, 0.3))


def test_a_read_waits_for_every_partition(tmp_path: Path) -> None:
    """Fresh means folded up to the head of each partition, not of the first or the fullest."""
    log = MemoryLog(points_partitions=3)
    block = make_block([(Series("loss"), 1, 1, 0.5)])
    log.append([POINTS_LOGGED.new(f"r{number}", block, time=1) for number in range(12)])
    views = SqliteViews(tmp_path / "views.db", "memory")
    views.create()
    projector = Projector(log, views)

    async def is_fresh() -> bool:
        watch = Watch(views, 0.1, lambda: None)
        reader = Reader(log, views, watch)
        try:
            await reader.read(lambda _connection: None)
        except TemporarilyUnavailable:
            return False
        finally:
            reader.close()
        return True

    for partition in log.partitions():
        assert log.head(partition) > 0 or partition.lane == "journal"
        assert not asyncio.run(is_fresh())
        projector.step(partition)
    assert asyncio.run(is_fresh())
    views.close()


def test_views_that_were_replaced_by_older_ones_answer_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was heard of the views' freshness may be of others: a snapshot that lacks an event is
    not answered from, and the read goes on once it is folded."""
    log = log_with_experiment()
    views = SqliteViews(tmp_path / "views.db", "memory")
    views.create()

    async def heard(_needed: object) -> None:
        return

    async def read() -> tuple[str | None, bool]:
        watch = Watch(views, 5.0, lambda: None)
        monkeypatch.setattr(watch, "wait", heard)
        reader = Reader(log, views, watch)
        reading = asyncio.create_task(reader.read(name_holder, "vision"))
        await asyncio.sleep(0.1)
        early = reading.done()
        Projector(log, views).catch_up()
        found = await reading
        reader.close()
        return found, early

    assert asyncio.run(read()) == ("1", False)
    views.close()


class FarLog(MemoryLog):
    """A log that takes a while to say where it stands."""

    is_near = False

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def heads(self) -> dict[Partition, int]:
        """See Log.heads."""
        found = super().heads()
        self.looks += 1
        time.sleep(0.05)
        return found


def test_one_look_at_a_log_that_is_far_serves_all_who_asked_before_it(tmp_path: Path) -> None:
    """Who asks while a look is on its way shares the next one, which sees all that was
    acknowledged before they asked."""
    log = FarLog()
    block = make_block([(Series("loss"), 1, 1, 0.5)])
    views = SqliteViews(tmp_path / "views.db", "memory")

    async def look() -> tuple[int, list[int]]:
        reader = Reader(log, views, Watch(views, 1.0, lambda: None))
        first = asyncio.create_task(reader.heads())
        await asyncio.sleep(0.02)
        log.append([POINTS_LOGGED.new("r", block, time=1)])
        others = await asyncio.gather(*(reader.heads() for _ in range(20)))
        reader.close()
        return (await first)[POINTS], [heads[POINTS] for heads in others]

    assert asyncio.run(look()) == (0, [1] * 20)
    assert log.looks == 2
    views.close()
