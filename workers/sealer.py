"""The sealer: turns blocks of points into segments, and many small segments into few large ones.

It works on one generation of the views under that generation's lock, in rounds. Everything that it
does is a file first and then one transaction, which also checks that what the file was made from
is still there: a crash between the two leaves a file that no manifest names, and the next start
deletes it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import sqlalchemy as sa
import structlog

from events import worker_counts
from events.errors import TemporarilyUnavailable
from events.worker_counts import WorkerCounts
from projections.lake import (
    DuckDB,
    Lake,
    found_files,
    open_duckdb,
    spill_folder,
)
from projections.lake_exports import add_ranges, merge_ranges
from projections.lake_locks import generation_lock, locked_generations, remove_lock, young_s
from projections.segment_files import Batch, merge_files, write_points
from projections.segments import (
    Pending,
    Segment,
    ViewsDatabase,
    Written,
    add,
    create_generation,
    delete_blocks,
    forget_retired,
    generation_of,
    known_paths,
    make_durable,
    pending_blocks,
    purged_in,
    remove,
    retire,
    retired_paths,
    segments_of,
    with_many_segments,
    with_purged_runs,
)
from workers.segment_choice import to_merge

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SealerSettings:
    """When to seal and merge, and how much of the machine that may take."""

    seal_points: int = 250_000
    """An experiment is sealed when it has so many points in blocks,"""
    seal_blocks: int = 1_000
    """or so many blocks,"""
    seal_age_s: float = 600.0
    """or blocks since so long."""
    batch_points: int = 500_000
    """About so many points are sealed into one segment,"""
    batch_blocks: int = 10_000
    """from so many blocks at most,"""
    batch_names: int = 50_000
    """and of about so many runs' series."""
    merge_segments: int = 4
    """So many segments of about one size become one."""
    merged_points_max: int = 16_000_000
    """No merge makes a segment with more points. Large ones are merged once they have so many
    together; what has half as many is full, and stays."""
    retired_s: float = 60.0
    """A merged file is kept so long for readers that have begun."""
    sweep_s: float = 600.0
    """How often to look for files that a crash has left."""
    round_s: float = 2.0
    memory_mb: int = 120
    threads: int = 1


Heavy = Callable[[Callable[[], Any]], Any]
"""Does a piece of work and returns what it gives."""


def _at_once(work: Callable[[], Any]) -> Any:
    return work()


class _Changed(Exception):
    """What a file was made from is not there any more; the file is not used."""


class _Interrupted(Exception):
    """The worker ends."""


class Sealer:
    """Seals, merges and cleans the lake of one views database."""

    def __init__(
        self,
        views: ViewsDatabase,
        lake: Lake,
        settings: SealerSettings | None = None,
        *,
        building: bool = False,
        heavy: Heavy = _at_once,
        counts: WorkerCounts | None = None,
    ) -> None:
        """`building`: these views are being made beside the live ones. Their files are then kept
        from the live sealer's sweeps until `close`, which comes after they took the live ones'
        place or were given up. `heavy` does the work that takes long, which is all but the
        transactions that folding has to wait for."""
        self._views = views
        self._lake = lake
        self._settings = settings or SealerSettings()
        self._building = building
        self._heavy = heavy
        self._counts = counts or WorkerCounts()
        self._held = contextlib.ExitStack()
        self._held_generation: str | None = None
        self._duckdb: DuckDB | None = None
        self._opening = threading.Lock()
        self._interrupted = False
        self._since: dict[str, float] = {}
        self._sweep_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Works in rounds until told to stop."""
        while not stop.wait(self._settings.round_s):
            try:
                worked = self.round()
                # What is left of a stream is more by the next look: few segments are small then.
                while worked and not stop.is_set():
                    worked = self.round(whole_batches=True)
            except TemporarilyUnavailable:
                continue
            except Exception:
                if stop.is_set():
                    break
                logger.exception("sealing failed; trying again")
                self._counts.add(worker_counts.SEAL_ERRORS)
                stop.wait(10 * self._settings.round_s)
        self.close()

    def round(self, *, whole_batches: bool = False) -> bool:
        """Does the next of everything that is due; returns whether there may be more at once.

        `whole_batches`: more is on its way, so that only what fills a segment is sealed.
        """
        with self._generation() as generation:
            if time.monotonic() >= self._sweep_at:
                self._sweep(generation)
                self._sweep_at = time.monotonic() + self._settings.sweep_s
            worked = self._remove_purged(generation)
            worked |= self._seal_due(generation, whole_batches)
            worked |= self._merge_next(generation)
            self._delete_retired()
            return worked

    def seal_all(self) -> None:
        """Seals every block of a known run, whatever its age, and merges what is due."""
        with self._generation() as generation:
            while pending := self._pending():
                for experiment_id, found in pending.items():
                    self._seal(generation, experiment_id, found.run_ids)
            while self._merge_next(generation):
                continue

    def remove_purged(self) -> int:
        """Rewrites the segments that hold points of purged runs, and deletes the old files, also
        retired ones, before it returns. Returns how many segments held any.

        The views must have folded the purge.
        """
        with self._generation() as generation:
            count = 0
            while self._remove_purged(generation):
                count += 1
            self._sweep(generation)
            return count

    def interrupt(self) -> None:
        """Gives up what is being written, from another thread; `run` is told to stop beforehand."""
        self._interrupted = True
        with self._opening:
            if self._duckdb is not None:
                self._duckdb.interrupt()

    def close(self) -> None:
        """Gives up the lock of views that were being made."""
        self._held.close()
        self._held_generation = None

    # What a round is made of.

    @contextlib.contextmanager
    def _generation(self) -> Iterator[str]:
        """The generation of the views as they are now, locked."""
        with self._views.read() as connection:
            found = generation_of(connection)
        if found is None:
            with self._views.write() as connection:
                found = create_generation(connection)
        with contextlib.ExitStack() as held:
            if not self._building:
                held.enter_context(generation_lock(self._views, self._lake, found))
            elif self._held_generation != found:
                lock = generation_lock(self._views, self._lake, found, lost=self.interrupt)
                self._held.enter_context(lock)
                self._held_generation = found
            # Memory and temporary files are given back before the lock is.
            held.callback(self._close_duckdb)
            yield found

    def _close_duckdb(self) -> None:
        with self._opening:
            if self._duckdb is not None:
                self._duckdb.close()
                self._duckdb = None

    @contextlib.contextmanager
    def _transaction(self, generation: str) -> Iterator[sa.Connection]:
        """A write transaction on the views that the caller has read; _Changed where others have
        taken their place."""
        with self._views.write() as connection:
            if generation_of(connection) != generation:
                raise _Changed("other views took the place of these")
            yield connection

    @contextlib.contextmanager
    def _used(self, written: Written | None) -> Iterator[None]:
        """Around the transaction that makes a file one of the views': it goes where that fails."""
        try:
            yield
        except BaseException as error:
            # Of a server that went away nobody knows whether it has committed; a sweep finds out.
            if written is not None and not isinstance(error, TemporarilyUnavailable):
                self._lake.discard(written.path)
            raise

    def _cursor(self, generation: str) -> DuckDB:
        """DuckDB for this round; who has the lock is the only one that has it open."""
        if self._interrupted:
            raise _Interrupted("the sealer was told to stop, or has lost its lock")
        with self._opening:
            if self._duckdb is None:
                self._lake.ready()
                spill = spill_folder(self._lake, generation)
                shutil.rmtree(spill, ignore_errors=True)
                self._duckdb = open_duckdb(
                    memory_mb=self._settings.memory_mb, threads=self._settings.threads, temp=spill
                )
            return self._duckdb

    def _pending(self) -> dict[str, Pending]:
        with self._views.read() as connection:
            return pending_blocks(connection)

    def _due(self, whole_batches: bool) -> dict[str, Pending]:
        """The experiments to be sealed now."""
        pending = self._pending()
        if whole_batches:
            return {
                experiment_id: found
                for experiment_id, found in pending.items()
                if found.points >= self._settings.batch_points
                or found.blocks >= self._settings.batch_blocks
            }
        now = time.monotonic()
        self._since = {one: self._since.get(one, now) for one in pending}
        wanted = self._settings
        due = {
            experiment_id: found
            for experiment_id, found in pending.items()
            if found.points >= wanted.seal_points
            or found.blocks >= wanted.seal_blocks
            or now - self._since[experiment_id] >= wanted.seal_age_s
        }
        for experiment_id in due:
            del self._since[experiment_id]
        return due

    def _seal_due(self, generation: str, whole_batches: bool) -> bool:
        """Seals a batch of each experiment that is due; returns whether there was any."""
        worked = False
        for experiment_id, pending in self._due(whole_batches).items():
            worked |= self._seal(generation, experiment_id, pending.run_ids)
        return worked

    def _seal(self, generation: str, experiment_id: str, run_ids: Sequence[str]) -> bool:
        """Turns blocks of these runs, as many as fit a batch, into one segment."""
        started = time.monotonic()
        wanted = self._settings
        batch = Batch(wanted.batch_points, wanted.batch_blocks, wanted.batch_names)
        written: Written | None = self._heavy(
            lambda: self._write(generation, experiment_id, run_ids, batch)
        )
        ids = batch.ids
        if not ids:
            return False
        try:
            with self._used(written), self._transaction(generation) as connection:
                if delete_blocks(connection, ids) != len(ids):
                    raise _Changed("a run was purged")
                if written is not None:
                    add(connection, experiment_id, written)
                    ranges = [(run_id, *range) for run_id, range in batch.ranges.items()]
                    add_ranges(connection, written.segment_id, ranges)
        except _Changed:
            return False
        points, size_bytes = (written.points, written.size_bytes) if written else (0, 0)
        seconds = time.monotonic() - started
        self._counts.observe(worker_counts.SEAL_SECONDS, seconds)
        self._counts.add(worker_counts.SEALED_POINTS, points)
        self._counts.add(worker_counts.SEALED_BYTES, size_bytes)
        logger.info(
            "sealed",
            experiment_id=experiment_id,
            blocks=len(ids),
            points=points,
            bytes=size_bytes,
            ms=round(seconds * 1000),
        )
        return True

    def _write(
        self, generation: str, experiment_id: str, run_ids: Sequence[str], batch: Batch
    ) -> Written | None:
        """Writes a batch of the blocks of these runs into one file; none where they are empty."""
        with contextlib.closing(batch.pieces(self._views, run_ids)) as pieces:
            first = next(pieces, None)
            if first is None:
                return None
            cursor = self._cursor(generation)
            given = chain((first,), pieces)
            return write_points(cursor, self._lake, experiment_id, generation, given)

    def _merge_next(self, generation: str) -> bool:
        """Merges segments of one experiment, where one has enough of about the same size."""
        with self._views.read() as connection:
            for experiment_id in with_many_segments(connection, self._settings.merge_segments):
                chosen = to_merge(
                    segments_of(connection, experiment_id),
                    self._settings.merged_points_max,
                    self._settings.merge_segments,
                )
                if chosen:
                    break
            else:
                return False
        self._replace(generation, experiment_id, chosen)
        return True

    def _replace(
        self,
        generation: str,
        experiment_id: str,
        chosen: Sequence[Segment],
        without: Sequence[str] = (),
    ) -> None:
        """Puts one segment in the place of others; with `without`, less these runs, and the old
        files are deleted at once."""
        started = time.monotonic()
        written = self._merged(generation, experiment_id, chosen, without)
        try:
            with self._used(written), self._transaction(generation) as connection:
                if not remove(connection, chosen):
                    raise _Changed("a segment is not part of the views any more")
                retire(connection, chosen, time.time_ns() // 1_000_000)
                merged = [segment.segment_id for segment in chosen]
                merge_ranges(connection, written.segment_id, merged, without)
                if written.points:
                    add(connection, experiment_id, written)
        except _Changed:
            return
        if not written.points:
            self._lake.discard(written.path)
        seconds = time.monotonic() - started
        self._counts.observe(worker_counts.MERGE_SECONDS, seconds)
        self._counts.add(worker_counts.MERGED_POINTS, written.points)
        logger.info(
            "rewritten" if without else "merged",
            experiment_id=experiment_id,
            segments=len(chosen),
            points=written.points,
            bytes=written.size_bytes,
            ms=round(seconds * 1000),
        )

    def _merged(
        self,
        generation: str,
        experiment_id: str,
        chosen: Sequence[Segment],
        without: Sequence[str],
    ) -> Written:
        """Writes segments as one. That takes seconds, so what is due meanwhile is sealed in
        between: blocks never pile up, which would make histories slow. A purge is not made longer.
        """
        paths = [segment.path for segment in chosen]
        cursor = self._cursor(generation)
        steps = merge_files(cursor, self._lake, experiment_id, generation, paths, without)
        with contextlib.closing(steps):
            while True:
                written: Written | None = self._heavy(lambda: next(steps))
                if written is not None:
                    return written
                if not without:
                    self._seal_due(generation, whole_batches=True)
                # A piece is its point to stop at, where it was told to.
                self._cursor(generation)

    def _remove_purged(self, generation: str) -> bool:
        """Rewrites one segment without its purged runs."""
        with self._views.read() as connection:
            found = with_purged_runs(connection)
            if not found:
                return False
            segment = found[0]
            gone = purged_in(connection, segment)
        self._replace(generation, segment.experiment_id, [segment], gone)
        self._delete_retired(segment.experiment_id)
        return True

    def _delete_retired(self, experiment_id: str | None = None) -> None:
        """Deletes the merged files that no reader should want any more; of an experiment: all."""
        due_ms = time.time_ns() // 1_000_000 - round(self._settings.retired_s * 1000)
        with self._views.read() as connection:
            paths = retired_paths(connection, due_ms, experiment_id)
            if not paths:
                return
            make_durable(connection)
        for path in paths:
            self._lake.remove(path)
        with self._views.write() as connection:
            forget_retired(connection, paths)

    def _sweep(self, generation: str) -> None:
        """Deletes the files that a crash has left: those of this generation that the views don't
        know, and those of generations that nobody holds and that are not the live one."""
        if self._duckdb is None:
            shutil.rmtree(spill_folder(self._lake, generation), ignore_errors=True)
        # Listed first: what becomes one of the views' files meanwhile is not among them.
        found = list(found_files(self._lake, young_s=young_s(self._views)))
        with self._views.read() as connection:
            known = known_paths(connection)
        others: dict[str, list[str]] = {}
        for name in locked_generations(self._views, self._lake) - {generation}:
            others[name] = []
        for file in found:
            if file.generation != generation:
                others.setdefault(file.generation, []).append(file.path)
            elif file.path not in known and not file.is_young:
                logger.info("deleting a file that a crash has left", path=file.path)
                self._lake.remove(file.path)
        if self._building:
            return
        for name, paths in others.items():
            with generation_lock(self._views, self._lake, name, wait=False) as held:
                # Views that were being made give up their lock once they are the live ones, so
                # which ones are live is looked at after the lock was had.
                if held and self._is_live(generation):
                    for path in paths:
                        self._lake.remove(path)
                    shutil.rmtree(spill_folder(self._lake, name), ignore_errors=True)
                    remove_lock(self._views, self._lake, name)
                    if paths:
                        logger.info("deleted the files of views that are gone", files=len(paths))

    def _is_live(self, generation: str) -> bool:
        with self._views.read() as connection:
            return generation_of(connection) == generation
