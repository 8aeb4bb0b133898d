"""Given events, the rows: an in-memory log with views that follow it, for tests of folds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from events.event import LANES, Lane, NewEvent
from events.experiments import EXPERIMENT_CREATED, ExperimentCreated
from events.memory_log import MemoryLog
from events.runs import RUN_CREATED, RunCreated
from projections.folding import fold_batch, read_checkpoint
from projections.schema import metadata, purged, rejections
from projections.scrubbing import kept_data


class Folds:
    """A log and its views. Every event is folded as it is given."""

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log = MemoryLog() if log is None else log
        self.engine = sa.create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        metadata.create_all(self.engine)
        self.time = 1_000

    def given(self, event_type: Any, subject: str, payload: Any) -> str | None:
        """Appends an event a little later than the last; its error code where it is rejected."""
        self.time += 1
        event: NewEvent = event_type.new(subject, payload, time=self.time)
        position = self.log.append([event])[0]
        self.catch_up()
        if event.lane != "journal":
            return None
        with self.engine.connect() as connection:
            return connection.execute(
                sa.select(rejections.c.error_code).where(rejections.c.position == position)
            ).scalar()

    def experiment(self, experiment_id: str = "1") -> None:
        """An active experiment."""
        created = ExperimentCreated(f"name of {experiment_id}", "mlflow-artifacts:/1", 1)
        self.given(EXPERIMENT_CREATED, experiment_id, created)

    def run(self, run_id: str = "run", experiment_id: str = "1") -> None:
        """An active run."""
        self.given(RUN_CREATED, run_id, RunCreated(experiment_id, "name", "", 1, "uri"))

    def catch_up(self, lanes: tuple[Lane, ...] = LANES) -> None:
        """Folds what the log holds, one lane after the other."""
        partitions = self.log.partitions()
        for partition in (one for lane in lanes for one in partitions if one.lane == lane):
            with self.engine.begin() as connection:
                after = read_checkpoint(connection, partition).position
                events = self.log.read(partition, after, 10_000)
                assert fold_batch(connection, partition, events).stopped is None

    def scrub(self) -> None:
        """Empties the events of what was purged, as gc does."""
        with self.engine.connect() as connection:
            subjects = connection.execute(sa.select(purged.c.subject)).scalars().all()
        self.log.scrub(subjects, kept_data)

    def rows(self, name: str) -> list[tuple[Any, ...]]:
        """All rows of a table, in order of its key."""
        table = metadata.tables[name]
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            return [tuple(row) for row in found]

    def content(self, *names: str) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of these tables."""
        return {name: self.rows(name) for name in names}

    def rebuilt(self, lanes: tuple[Lane, ...] = LANES) -> Folds:
        """Views made from the same log anew, folding the lanes in this order."""
        made = Folds(self.log)
        made.catch_up(lanes)
        return made
