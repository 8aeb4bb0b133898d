"""Views with a lake over a log in memory, for tests of histories and of the sealer."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from events.codec import Series, make_block
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.memory_log import MemoryLog
from events.metrics import POINTS_LOGGED
from events.runs import RUN_CREATED, RUN_DELETED, RUN_PURGED, RunCreated, RunDeleted, RunPurged
from projections.history import Points, metric_history
from projections.lake import Lake, found_files
from projections.page_tokens import Position
from projections.sqlite_views import SqliteViews
from workers.projector import Projector
from workers.sealer import Sealer, SealerSettings

Point = tuple[str, int, int, float]
"""Key, step, timestamp, value."""
Answered = tuple[int, int, float, bool]
"""Timestamp, step, value (0 for NaN), whether it is NaN: the order of a history."""

SMALL = SealerSettings(merge_segments=2, retired_s=0.0, seal_age_s=0.0, round_s=0.0)


class LakeCase:
    """One experiment's runs, from events to histories."""

    def __init__(
        self, folder: Path, settings: SealerSettings = SMALL, lake: Lake | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = MemoryLog()
        self.lake = lake or Lake(folder / "lake")
        self.views = SqliteViews(folder / "views.db", self.log.identity.log_id)
        self.views.create()
        self.projector = Projector(self.log, self.views)
        self.sealer = Sealer(self.views, self.lake, settings)
        self.log.append([EXPERIMENT_CREATED.new("1", ExperimentCreated("one", "a", 1), time=1)])

    def create_run(self, run_id: str) -> None:
        created = RunCreated("1", run_id, "me", 1, "a")
        self.log.append([RUN_CREATED.new(run_id, created, time=1)])
        self.projector.catch_up()

    def log_points(self, run_id: str, points: Iterable[Point]) -> None:
        """One event, folded at once."""
        block = make_block([(Series(key), step, at, value) for key, step, at, value in points])
        self.log.append([POINTS_LOGGED.new(run_id, block, time=1)])
        self.projector.catch_up()

    def purge_run(self, run_id: str) -> None:
        self.log.append([RUN_DELETED.new(run_id, RunDeleted(), time=1)])
        self.log.append([RUN_PURGED.new(run_id, RunPurged(), time=1)])
        self.projector.catch_up()

    def history(self, run_id: str, key: str) -> list[Answered]:
        with self.views.read() as connection:
            points, _ = metric_history(connection, self.lake, run_id, key)
        return answered(points)

    def pages(self, run_id: str, key: str, limit: int) -> list[Answered]:
        """The same, page by page."""
        found: list[Answered] = []
        after: Position | None = None
        while True:
            with self.views.read() as connection:
                points, after = metric_history(connection, self.lake, run_id, key, limit, after)
            assert len(points) <= limit
            found += answered(points)
            if after is None:
                return found

    def files(self) -> list[str]:
        return sorted(file.path for file in found_files(self.lake))

    def close(self) -> None:
        self.sealer.close()
        self.views.close()


def answered(points: Points) -> list[Answered]:
    """Points as numbers that can be compared; NaN is none."""
    is_nan = np.isnan(points.values)
    values = np.where(is_nan, 0.0, points.values)
    columns = (points.timestamps, points.steps, values, is_nan)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def as_answered(points: Iterable[Point], key: str) -> list[Answered]:
    """The plainest reading of what the history of these points is: a sorted set."""
    found: set[Answered] = set()
    for name, step, timestamp, value in points:
        if name == key:
            is_nan = math.isnan(value)
            shown = 0.0 if is_nan else max(-sys.float_info.max, min(sys.float_info.max, value))
            found.add((timestamp, step, shown, is_nan))
    return sorted(found)
