"""A projector and its log: it notices what others append, and a log that is not what it was."""

from __future__ import annotations

import os
import shutil
import statistics
import threading
import time
from pathlib import Path

import pytest

import workers.projector
from events.codec import Series, make_block
from events.errors import TemporarilyUnavailable
from events.event import JOURNAL, POINTS, Event, Partition
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.log import LogError
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED
from events.settings import Settings
from events.worker_counts import FOLD_ERRORS, FOLDED_EVENTS, WorkerCounts
from projections.folding import Checkpoint, Checkpoints
from projections.same_log import require_within
from projections.sqlite_views import SqliteViews
from tests.homes import open_home
from workers.projector import Projector
from workers.projector_process import prepare
from workers.stores import Stores, opened_stores


class FarLog(MemoryLog):
    """A log that others write to as well, who have no pipe to this projector."""

    is_near = False


@pytest.mark.parametrize("has_pipe", [False, True])
def test_what_others_append_is_folded_at_once(tmp_path: Path, has_pipe: bool) -> None:
    """Whether or not there is a pipe, which stays silent: half of the events are folded within
    100 ms, though nobody told of them; the projector ends when it is told to."""
    log, views = FarLog(), SqliteViews(tmp_path / "views.db", "memory")
    views.create()
    read_end, write_end = os.pipe()
    stop = threading.Event()
    projector = Projector(log, views)
    wake_fd = read_end if has_pipe else None
    thread = threading.Thread(target=projector.run, args=(stop, wake_fd))
    thread.start()
    took_s = []
    for number in range(1, 12):
        started = time.monotonic()
        created = ExperimentCreated(str(number), "mlflow-artifacts:/1", 1)
        log.append([EXPERIMENT_CREATED.new(str(number), created, time=1)])
        while views.checkpoints()[JOURNAL].position < number:
            assert time.monotonic() < started + 5
            time.sleep(0.002)
        took_s.append(time.monotonic() - started)
    stop.set()
    thread.join(5)
    os.close(read_end)
    os.close(write_end)
    assert not thread.is_alive()
    assert statistics.median(took_s) < 0.1, took_s
    views.close()


def test_a_log_that_has_lost_events_is_refused(tmp_path: Path) -> None:
    """Where views know more than the log holds, folding does not go on as if nothing had been; the
    same views on the whole log are fine."""
    log, views = MemoryLog(), SqliteViews(tmp_path / "views.db", "memory")
    views.create()
    created = ExperimentCreated("one", "mlflow-artifacts:/1", 1)
    log.append([EXPERIMENT_CREATED.new("1", created, time=1)])
    Projector(log, views).catch_up()
    require_within(log, views)
    with pytest.raises(LogError, match="folded to journal 1, but the log ends at 0"):
        require_within(MemoryLog(), views)
    views.close()


def test_no_process_starts_on_a_log_that_was_shortened(tmp_path: Path) -> None:
    """Where an older copy of the log was restored no server, role or command opens the stores, and
    each says why; nor does a projector whose turn comes once it was restored."""
    home = open_home(tmp_path / "home")
    home.experiment("1", "before")
    home.close()
    shutil.copy(home.folder / "log.db", tmp_path / "older.db")
    home = open_home(tmp_path / "home")
    home.experiment("2", "since")
    home.fold()
    home.close()
    with opened_stores(Settings(home=home.folder), with_lake=False):
        pass
    for file in home.folder.glob("log.db*"):
        file.unlink()
    shutil.copy(tmp_path / "older.db", home.folder / "log.db")
    why = "folded to journal 2, but the log ends at 1: it has lost events"
    with (
        pytest.raises(LogError, match=why),
        opened_stores(Settings(home=home.folder), with_lake=False),
    ):
        pass
    restored = open_home(home.folder)
    stores = Stores(Settings(), restored.log, restored.views, restored.gc.artifacts)
    with pytest.raises(LogError, match=why):
        prepare(stores)
    restored.close()


class Broken(MemoryLog):
    """A log that has lost an event of the journal, until it is brought back."""

    is_whole = False

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """See Log.read."""
        if partition == JOURNAL and after == 1 and not self.is_whole:
            raise LogError("the log has no event journal 2 but has later ones")
        return super().read(partition, after, limit)


def test_a_lane_whose_events_are_lost_stops_and_says_so(tmp_path: Path) -> None:
    """The checkpoint, which /health shows, has the reason; the other lane goes on; and so does this
    one once the log is whole again."""
    log, views = Broken(), SqliteViews(tmp_path / "views.db", "memory")
    views.create()
    for number in ("1", "2", "3"):
        created = ExperimentCreated(number, "mlflow-artifacts:/1", 1)
        log.append([EXPERIMENT_CREATED.new(number, created, time=1)])
        log.append([POINTS_LOGGED.new("r", make_block([(Series("m"), 1, 1, 1.0)]), time=1)])
    projector = Projector(log, views)
    for _ in range(2):
        projector.step(JOURNAL, 1)
        projector.step(POINTS)
    found = views.checkpoints()
    assert (found[JOURNAL].position, found[POINTS].position) == (1, 3)
    assert "no event journal 2" in str(found[JOURNAL].stopped)
    log.is_whole = True
    Projector(log, views).catch_up()
    assert (views.checkpoints()[JOURNAL].position, views.checkpoints()[JOURNAL].stopped) == (
        3,
        None,
    )
    views.close()


def test_views_that_took_the_place_of_others_skip_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that were read for views which are further are not folded into ones that are not."""
    log, views = MemoryLog(), SqliteViews(tmp_path / "views.db", "memory")
    views.create()
    for number in ("1", "2", "3"):
        created = ExperimentCreated(number, "mlflow-artifacts:/1", 1)
        log.append([EXPERIMENT_CREATED.new(number, created, time=1)])
    projector = Projector(log, views)
    further = Checkpoints({JOURNAL: Checkpoint(2)})
    with monkeypatch.context() as patched:
        patched.setattr(views, "checkpoints", lambda: further)
        projector.step(JOURNAL)
    assert views.checkpoints()[JOURNAL].position == 0
    projector.catch_up()
    assert views.checkpoints()[JOURNAL].position == 3
    views.close()


class Flaky(MemoryLog):
    """A log that fails twice before it can be read: it is away, and then something else."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = [OSError("what?"), TemporarilyUnavailable("away")]

    def read(self, partition: Partition, after: int, limit: int) -> list[Event]:
        """See Log.read."""
        if self.failures:
            raise self.failures.pop()
        return super().read(partition, after, limit)


def test_folding_that_failed_is_tried_again_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was: then all is folded, and /metrics tells how often."""
    monkeypatch.setattr(workers.projector, "RETRY_FAILED_S", 0.01)
    log, views, counts = Flaky(), SqliteViews(tmp_path / "views.db", "memory"), WorkerCounts()
    views.create()
    log.append([EXPERIMENT_CREATED.new("1", ExperimentCreated("e", "a", 1), time=1)])
    stop = threading.Event()
    projector = Projector(log, views, counts=counts)
    thread = threading.Thread(target=projector.run, args=(stop, None))
    thread.start()
    deadline = time.monotonic() + 10
    while not counts.value(FOLDED_EVENTS["journal"]):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    stop.set()
    thread.join(5)
    assert counts.value(FOLD_ERRORS) == 2
    views.close()
