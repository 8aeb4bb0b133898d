"""A projector and its log: it notices what others append, and a log that is not what it was."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from events.event import JOURNAL
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.log import LogError
from events.memory_log import MemoryLog
from projections.sqlite_views import SqliteViews
from workers.projector import Projector, require_within


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
