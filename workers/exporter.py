"""The exporter: keeps the lake's Parquet files of runs, and what other engines see of the lake.

It works in rounds, under the lock of the views' generation that the sealer has too. What changed
since the last round is written anew, a part of an experiment at a time; each part is a file first
and then one transaction. A crash between the two leaves a file that no table names, and the next
start deletes it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from events.errors import TemporarilyUnavailable
from events.event import JOURNAL
from events.log import Log
from events.worker_counts import EXPORT_ERRORS, EXPORT_SECONDS, WorkerCounts
from projections.folding import read_checkpoint
from projections.lake import EXPORTS, DuckDB, Lake, open_duckdb
from projections.lake_changes import retired_exports
from projections.lake_exports import (
    EVENT_FILES_MAX,
    MARKS_MAX,
    Step,
    Writer,
    add_ranges,
    commit,
    due_experiments,
    due_parts,
    event_files,
    export_experiment,
    export_part,
    forget_ranges,
    get_state,
    is_of,
    known_exports,
    next_unranged,
    put_state,
    read_ranges,
    rewrite_events,
)
from projections.lake_listed import Listed
from projections.lake_locks import generation_lock, young_s
from projections.lake_published import LISTING_S, Published, wanted_folders
from projections.segments import ViewsDatabase, create_generation, generation_of, make_durable
from projections.sql_events import event_columns, read_events

logger = structlog.get_logger(__name__)

READ_EVENTS = 5_000


@dataclass(frozen=True)
class ExporterSettings:
    """When to export, and how much of the machine that may take."""

    export_age_s: float = 30.0
    """What changed is in the lake after about so long."""
    share: float = 0.1
    """At most this share of the time is spent on it."""
    retired_s: float = 60.0
    """A replaced file is kept so long for snapshots that are just being taken."""
    sweep_s: float = 600.0
    memory_mb: int = 120


class _Changed(Exception):
    """Other views took the place of those that were read; what was written is not used."""


class Exporter:
    """Exports one views database into its lake."""

    def __init__(
        self,
        views: ViewsDatabase,
        log: Log,
        lake: Lake,
        settings: ExporterSettings | None = None,
        counts: WorkerCounts | None = None,
    ) -> None:
        self._views = views
        self._log = log
        self._lake = lake
        self._settings = settings or ExporterSettings()
        self._counts = counts or WorkerCounts()
        self._published = Listed(lake) if lake.is_remote else Published(lake)
        self._grace_s = min(LISTING_S, self._settings.retired_s)
        self._must_tidy = False
        self._sweep_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Works in rounds until told to stop."""
        wait_s = min(1.0, self._settings.export_age_s)
        while not stop.wait(wait_s):
            started, waited_s = time.monotonic(), 0.0
            try:
                if not self.round(stop):
                    # The sealer, or gc, has the lake just now.
                    wait_s = min(1.0, self._settings.export_age_s)
                    continue
                waited_s = self._tidy(stop)
            except (TemporarilyUnavailable, _Changed):
                wait_s = min(1.0, self._settings.export_age_s)
                continue
            except Exception:
                if stop.is_set():
                    break
                logger.exception("exporting failed; trying again")
                self._counts.add(EXPORT_ERRORS)
            spent_s = time.monotonic() - started - waited_s
            self._counts.observe(EXPORT_SECONDS, spent_s)
            wait_s = max(self._settings.export_age_s, spent_s / self._settings.share)
            wait_s = max(0.0, wait_s - waited_s)

    def _tidy(self, stop: threading.Event) -> float:
        """Removes the folders that a round has replaced once nobody can be listing them any more,
        unless the next one does; returns the seconds that took."""
        started = time.monotonic()
        until = started + self._settings.export_age_s - self._grace_s
        while self._must_tidy and time.monotonic() < until and not stop.wait(self._grace_s):
            with self._writing(wait=False) as (writer, _):
                if writer is not None:
                    self._must_tidy = self._published.tidy(self._grace_s)
        return time.monotonic() - started

    def round(self, stop: threading.Event | None = None, *, wait: bool = False) -> bool:
        """Exports all that changed; False where another process works on the lake just now."""
        stop = stop or threading.Event()
        with self._writing(wait) as (writer, generation):
            if writer is None:
                return False
            started_ms = time.time_ns() // 1_000_000
            if time.monotonic() >= self._sweep_at:
                self._sweep(generation)
                self._sweep_at = time.monotonic() + self._settings.sweep_s
            for step in self._steps(writer):
                self._commit(generation, step)
                if stop.is_set():
                    return True
            self._range_segments(writer, generation)
            with self._views.read() as connection:
                wanted = wanted_folders(connection)
            self._must_tidy = self._published.sync(wanted, self._grace_s)
            self._delete_retired()
            with self._transaction(generation) as connection:
                put_state(connection, "exported_ms", started_ms)
        return True

    def remove_purged(self) -> None:
        """Leaves no file with anything of what was purged. The views must have folded the purge;
        with `retired_s` of 0 nothing old is left either."""
        self.round(wait=True)

    @contextlib.contextmanager
    def _writing(self, wait: bool) -> Iterator[tuple[Writer | None, str]]:
        """What writes files of the generation of the views as they are now, locked."""
        with self._views.read() as connection:
            generation = generation_of(connection)
        if generation is None:
            with self._views.write() as connection:
                generation = create_generation(connection)
        with generation_lock(self._views, self._lake, generation, wait=wait) as held:
            if not held:
                yield None, generation
                return
            writer = Writer(self._open_duckdb, self._lake, generation)
            with contextlib.closing(writer):
                yield writer, generation

    def _open_duckdb(self) -> DuckDB:
        self._lake.ready()
        return open_duckdb(memory_mb=self._settings.memory_mb, threads=1, temp=None)

    @contextlib.contextmanager
    def _transaction(self, generation: str) -> Iterator[sa.Connection]:
        with self._views.write() as connection:
            if generation_of(connection) != generation:
                raise _Changed("other views took the place of these")
            yield connection

    def _commit(self, generation: str, step: Step) -> None:
        try:
            with self._transaction(generation) as connection:
                commit(connection, step, time.time_ns() // 1_000_000)
        except TemporarilyUnavailable:
            # Whether it was committed all the same is not known; a sweep finds what was not.
            raise
        except BaseException:
            for file in step.files:
                if file.path is not None:
                    self._lake.discard(file.path)
            raise

    def _steps(self, writer: Writer) -> Iterator[Step]:
        """Everything that is due, each written and not yet part of the views."""
        # Read first: what is marked of an experiment as a whole is in the parts planned then.
        with self._views.read() as connection:
            marked = due_experiments(connection)
        while True:
            with self._views.read() as connection:
                parts = due_parts(connection)
            for part in parts:
                with self._views.read() as connection:
                    step = export_part(connection, writer, part)
                yield step
            # What is marked meanwhile is for the next round: the sealer waits for the lock.
            if sum(len(part.marks) for part in parts) < MARKS_MAX:
                break
        for experiment_id, kinds, changes in marked:
            with self._views.read() as connection:
                written = export_experiment(connection, writer, experiment_id, kinds)
            yield Step(files=written, experiment=(experiment_id, changes))
        yield from self._event_steps(writer)

    def _event_steps(self, writer: Writer) -> Iterator[Step]:
        seen: set[str] = set()
        with self._views.read() as connection:
            head = read_checkpoint(connection, JOURNAL).position
        while True:
            with self._views.read() as connection:
                after = get_state(connection, "events")
                found, reached = read_events(connection, self._log, after, READ_EVENTS)
            if reached == after:
                break
            step = Step(events=reached)
            for experiment_id, rows in found.items():
                # Parts are in the order of their positions.
                part = f"{reached:020}"
                raw = event_columns(rows)
                step.files.append(writer.rows(experiment_id, "events", part, raw))
            seen.update(found)
            yield step
            if reached >= head:
                break
        for experiment_id in sorted(seen):
            with self._views.read() as connection:
                if len(event_files(connection, experiment_id)) < EVENT_FILES_MAX:
                    continue
                step = Step(files=rewrite_events(connection, writer, experiment_id))
            yield step

    def _range_segments(self, writer: Writer, generation: str) -> None:
        while True:
            with self._views.read() as connection:
                found = next_unranged(connection)
            if found is None:
                return
            segment_id, path = found
            rows = read_ranges(writer.cursor, self._lake, path)
            with self._transaction(generation) as connection:
                add_ranges(connection, segment_id, rows)
                forget_ranges(connection)

    def _delete_retired(self) -> None:
        due_ms = time.time_ns() // 1_000_000 - round(self._settings.retired_s * 1000)
        with self._views.read() as connection:
            paths = list(
                connection.execute(
                    sa.select(retired_exports.c.path).where(retired_exports.c.retired_ms <= due_ms)
                ).scalars()
            )
            if not paths:
                return
            make_durable(connection)
        for path in paths:
            self._lake.remove(path)
        with self._views.write() as connection:
            for path in paths:
                gone = sa.delete(retired_exports).where(retired_exports.c.path == path)
                connection.execute(gone)

    def _sweep(self, generation: str) -> None:
        """Deletes the files that a crash, or views that are gone, have left."""
        # Listed first: what becomes one of the views' files meanwhile is not among them.
        found = list(self._lake.found(EXPORTS, young_s=young_s(self._views)))
        with self._views.read() as connection:
            if generation_of(connection) != generation:
                return
            known = known_exports(connection)
        for path, is_young in found:
            # Views that are being made have no exports, so what is not of these is of gone ones.
            if path not in known and not (is_young and is_of(path, generation)):
                self._lake.remove(path)
