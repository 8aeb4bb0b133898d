"""What the handlers work with: the writer, the reader, the gate in front of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
import structlog
from starlette.requests import Request

from api.foresight import Claim, Foresight
from api.watch import Watch
from events.artifact_uris import ArtifactRoots
from events.errors import ERRORS_BY_CODE, RunfoldError, TemporarilyUnavailable
from events.event import JOURNAL, LANES, EventType, NewEvent, Partition
from events.group_commit import CommitCounts, Done, GroupCommit
from events.log import Log
from events.settings import Settings
from events.worker_counts import WorkerCounts
from projections.database import Views
from projections.direct_points import set_aside_in_all
from projections.experiments import get_experiment
from projections.folding import Checkpoint, purged_error
from projections.lake import Lake
from projections.lake_exports import export_lag_ms
from projections.lifecycle import ACTIVE, inactive_experiment, inactive_run, unknown_run
from projections.logged_models import existing_models, unknown_model
from projections.runs import get_rows
from projections.schema import purged, rejections
from projections.state import Row

logger = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

READ_THREADS = 6
GATE_IDS_MAX = 100_000
VERDICT_RETRY_S = 0.1
_FOLDED = "SELECT lane, partition_number, position FROM checkpoints"

Heads = dict[Partition, int]

eventual: ContextVar[bool] = ContextVar("eventual", default=False)
"""True where the caller prefers an answer at once to a fresh one."""


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Writer:
    """Appends events; a commit is shared with whoever else is writing."""

    def __init__(
        self, log: Log, views: Views, watch: Watch, woken: Callable[[bytes], None]
    ) -> None:
        self._views = views
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self.foresight = Foresight(watch)
        self._commit = GroupCommit(log, woken, self._settle)

    def _settle(self, settled: list[tuple[Done, list[int] | Exception]]) -> None:
        def on_loop() -> None:
            for done, result in settled:
                done(result)

        self._loop.call_soon_threadsafe(on_loop)

    @property
    def commits(self) -> CommitCounts:
        """What was committed, and how long it took."""
        return self._commit.counts

    def submit(self, event: NewEvent, answered: Callable[[Exception | None], None]) -> None:
        """Has an event of the points lane appended; `answered` is called when it is durable, with
        the error where it could not be. For a caller that runs in no task."""

        def done(result: list[int] | Exception) -> None:
            answered(result if isinstance(result, Exception) else None)

        self._commit.submit((event,), done)

    async def append(self, *events: NewEvent) -> list[int]:
        """Appends events, all or none; returns their positions once they are durable."""
        positions, _ = await self._append(events)
        return positions

    async def _append(
        self, events: Sequence[NewEvent], claim: Claim | None = None
    ) -> tuple[list[int], bool]:
        """The events' positions, and whether it is certain that the fold accepts the last."""
        future: asyncio.Future[tuple[list[int], bool]] = self._loop.create_future()

        def done(result: list[int] | Exception) -> None:
            accepted = False
            if not isinstance(result, Exception):
                # Also where nobody waits any more: foresight must not miss an event.
                for event, position in zip(events, result, strict=True):
                    if event.lane == "journal":
                        accepted = self.foresight.appended(event, position, claim)
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result((result, accepted))

        self._commit.submit(events, done)
        return await future

    async def decide(self, event: NewEvent, claim: Claim | None = None) -> int:
        """Appends a journal event and waits for its verdict; raises the rejection.

        Returns the event's position. With a claim the call is done as soon as the event is
        durable, where it is certain then that the fold accepts it (see api/foresight.py).

        Where folding has stopped there is no verdict to wait for: the event is durable and passed
        the checks at the door, so the call counts as accepted.
        """
        (position,), accepted = await self._append([event], claim)
        if accepted:
            return position
        if not await self._watch.settled(position):
            logger.warning("no verdict: folding has stopped", position=position, type=event.type)
            return position
        if self._watch.checkpoints[JOURNAL].rejected >= position:
            refusal = await self._known_verdict(position, event.subject)
            if refusal is not None:
                raise refusal
        return position

    def require_folding(self) -> None:
        """Refuses, before anything is appended, what could not be answered while folding has
        stopped."""
        stopped = self._watch.checkpoints[JOURNAL].stopped
        if stopped is not None:
            raise TemporarilyUnavailable(
                f"The views can't take this in now: folding stopped at {stopped}. Try again later."
            )

    async def _known_verdict(self, position: int, subject: str) -> RunfoldError | None:
        """The refusal, asked for until the views answer: they may just be replaced."""
        while True:
            try:
                if self._views.is_on_server:
                    return await asyncio.to_thread(self._verdict, position, subject)
                return self._verdict(position, subject)
            except (sa.exc.DatabaseError, TemporarilyUnavailable):
                logger.warning("a verdict can't be read yet", position=position)
                await asyncio.sleep(VERDICT_RETRY_S)

    def _verdict(self, position: int, subject: str) -> RunfoldError | None:
        with self._views.read() as connection:
            row = connection.execute(
                sa.select(rejections.c.error_code, rejections.c.message).where(
                    rejections.c.position == position
                )
            ).first()
            if row is not None:
                return ERRORS_BY_CODE[row.error_code](row.message)
            gone = connection.execute(
                sa.select(purged.c.subject).where(purged.c.subject == subject)
            ).first()
        return None if gone is None else purged_error(subject)

    def close(self) -> None:
        """Commits what waits."""
        self._commit.close()


class Reader:
    """Runs queries on views that are as fresh as the log was when the read began."""

    def __init__(self, log: Log, views: Views, watch: Watch) -> None:
        self._log = log
        self._views = views
        self._watch = watch
        self._threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._this_look: asyncio.Task[Heads] | None = None
        self._next_look: asyncio.Task[Heads] | None = None

    async def heads(self) -> Heads:
        """Where the log stands now. Raises TemporarilyUnavailable where it can't be asked."""
        if self._log.is_near:
            return self._log.heads()
        # One look serves all reads that began before it did.
        if self._next_look is None:
            self._next_look = asyncio.ensure_future(self._look(self._this_look))
        return await asyncio.shield(self._next_look)

    async def _look(self, before: asyncio.Task[Heads] | None) -> Heads:
        if before is not None:
            await asyncio.wait([before])
        self._this_look, self._next_look = self._next_look, None
        return await self.in_thread(self._log.heads)

    async def read(
        self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The query's answer from one snapshot that has every write acknowledged before now.

        Raises TemporarilyUnavailable where that takes longer than the bound.
        """
        needed: dict[Partition, int] = {} if eventual.get() else await self.heads()
        while True:
            await self._watch.wait(needed)
            fresh, answer = await self.in_thread(self._try, needed, query, args, kwargs)
            if fresh:
                return answer  # type: ignore[no-any-return]
            # The views were replaced by ones that are not as far.
            self._watch.look()
            await asyncio.sleep(0.01)

    async def now(
        self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The query's answer from what is folded now, without waiting.

        It has those of the caller's own writes that waited for their verdict.
        """
        try:
            _, answer = await self.in_thread(self._try, {}, query, args, kwargs)
        except TemporarilyUnavailable:
            # A server that has just started makes its views; that is worth waiting for.
            return await self.read(query, *args, **kwargs)
        return answer  # type: ignore[no-any-return]

    async def at_door(
        self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Checks a write beforehand: what the query raises is the refusal, where it raises the
        same of fresh views. A write that passes is judged by the fold, so it need not wait."""
        try:
            return await self.now(query, *args, **kwargs)
        except RunfoldError:
            return await self.read(query, *args, **kwargs)

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking call off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

    def _try(
        self,
        needed: Mapping[Partition, int],
        query: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[bool, Any]:
        with self._views.read() as connection:
            if needed:
                rows = connection.exec_driver_sql(_FOLDED).all()
                folded = {(row[0], row[1]): row[2] for row in rows}
                if any(folded.get(one, 0) < position for one, position in needed.items()):
                    return False, None
            return True, query(connection, *args, **kwargs)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _active_run(connection: sa.Connection, run_id: str) -> None:
    row = get_rows(connection, [run_id]).get(run_id)
    if row is None:
        raise unknown_run(run_id)
    if row["lifecycle_stage"] != ACTIVE:
        raise inactive_run(run_id, row["lifecycle_stage"])


def active_experiment_row(connection: sa.Connection, experiment_id: str) -> Row:
    """The experiment, where it can be written to; raises where it is missing or deleted."""
    row = get_experiment(connection, experiment_id)
    if row["lifecycle_stage"] != ACTIVE:
        raise inactive_experiment(experiment_id, row["lifecycle_stage"])
    return row


def _require_models(connection: sa.Connection, model_ids: set[str]) -> None:
    missing = model_ids - existing_models(connection, sorted(model_ids))
    if missing:
        raise unknown_model(min(missing))


class Gate:
    """Says what can be written to, from memory while nothing about that has changed."""

    def __init__(self, reader: Reader, watch: Watch) -> None:
        self._reader = reader
        self._watch = watch
        self._active: set[str] = set()
        self._models: set[str] = set()
        self._locations: dict[str, str] = {}
        self._lifecycle = -1

    def _forget_what_changed(self) -> None:
        lifecycle = self._watch.checkpoints[JOURNAL].lifecycle
        if lifecycle != self._lifecycle or len(self._active) + len(self._models) > GATE_IDS_MAX:
            self._active.clear()
            self._models.clear()
            self._locations.clear()
            self._lifecycle = lifecycle

    async def artifact_location(self, experiment_id: str) -> tuple[str, int]:
        """Where an active experiment keeps its artifacts, and the checkpoint's `lifecycle` for
        which it is active. Raises where it is missing or deleted."""
        self._forget_what_changed()
        lifecycle = self._lifecycle
        location = self._locations.get(experiment_id)
        if location is None:
            row = await self._reader.at_door(active_experiment_row, experiment_id)
            location = str(row["artifact_location"])
            if self._still(lifecycle):
                self._locations[experiment_id] = location
        return location, lifecycle

    def _still(self, lifecycle: int) -> bool:
        """Whether what was found since then can be kept; another call may have begun anew."""
        return self._watch.checkpoints[JOURNAL].lifecycle == lifecycle == self._lifecycle

    def opened(self, run_id: str, position: int) -> None:
        """Says that a run was created by the journal's event at this position."""
        self._forget_what_changed()
        if self._lifecycle < position:
            self._active.add(run_id)

    async def require_models(self, model_ids: set[str]) -> None:
        """Raises where a logged model is missing; one that is deleted can be measured."""
        self._forget_what_changed()
        lifecycle = self._lifecycle
        asked = model_ids - self._models
        if not asked:
            return
        await self._reader.at_door(_require_models, asked)
        if self._still(lifecycle):
            self._models |= asked

    def is_known_active(self, run_id: str) -> bool:
        """Whether memory says that the run can be written to; False where only the views know."""
        self._forget_what_changed()
        return run_id in self._active

    async def require_active(self, run_id: str) -> int:
        """The checkpoint's `lifecycle` for which the run is active. Raises where the run is missing
        or deleted."""
        self._forget_what_changed()
        lifecycle = self._lifecycle
        if run_id in self._active:
            return lifecycle
        await self._reader.at_door(_active_run, run_id)
        if self._still(lifecycle):
            self._active.add(run_id)
        return lifecycle


@dataclass(frozen=True)
class Services:
    """Everything a handler may use: `request.app.state.services`."""

    settings: Settings
    log: Log
    views_file: Views
    watch: Watch
    writer: Writer
    views: Reader
    histories: Reader
    """For reads that need the lake's files."""
    gate: Gate
    artifacts: ArtifactRoots
    lake: Lake
    worker_counts: WorkerCounts | None = None
    """What the workers of the same server count; None where they run elsewhere."""

    def lake_behind_s(self) -> float | None:
        """How old the lake's exports are at most; None while there are none or nobody can tell."""
        try:
            with self.views_file.read() as connection:
                lag_ms = export_lag_ms(connection, time.time_ns() // 1_000_000)
        except TemporarilyUnavailable:
            return None
        return None if lag_ms is None else lag_ms / 1000

    def _set_aside(self) -> dict[str, Any]:
        """What was written into the log past the API and could not be taken."""
        with self.views_file.read() as connection:
            return set_aside_in_all(connection)

    def health(self) -> dict[str, Any]:
        """How far each lane and partition is folded, and what is wrong."""
        checkpoints: Mapping[Partition, Checkpoint]
        try:
            checkpoints = self.views_file.checkpoints()
            behind_s, set_aside = self.lake_behind_s(), self._set_aside()
        except TemporarilyUnavailable as error:
            return {"status": "starting", "reason": error.message}
        try:
            heads = self.log.heads()
        except TemporarilyUnavailable as error:
            return {"status": "no log", "reason": error.message}
        lanes = {
            lane: _health_of({p: heads[p] for p in heads if p.lane == lane}, checkpoints)
            for lane in LANES
        }
        stopped = any(lane["stopped"] for lane in lanes.values())
        return {
            "status": "stopped" if stopped else "ok",
            "lanes": lanes,
            "set_aside": set_aside,
            "lake": {"behind_s": behind_s, "away": self.lake.away},
            "waits": {
                "count": self.watch.waits,
                "over_the_bound": self.watch.waits_over,
                "max_s": round(self.watch.waited_s_max, 3),
            },
        }


def _health_of(
    heads: Mapping[Partition, int], checkpoints: Mapping[Partition, Checkpoint]
) -> dict[str, Any]:
    """How far a lane is folded: all in all, and by partition."""
    partitions = [
        {
            "head": head,
            "folded": checkpoints[partition].position,
            "lag": max(0, head - checkpoints[partition].position),
            "stopped": checkpoints[partition].stopped,
        }
        for partition, head in heads.items()
    ]
    found: dict[str, Any] = {
        name: sum(one[name] for one in partitions) for name in ("head", "folded", "lag")
    }
    found["stopped"] = next((one["stopped"] for one in partitions if one["stopped"]), None)
    found["partitions"] = partitions
    return found


def services_of(request: Request) -> Services:
    """The services that the application was made with."""
    services: Services = request.app.state.services
    return services


def new_event(
    request: Request, event_type: EventType[T], subject: str, payload: T, time_ms: int | None = None
) -> NewEvent:
    """An event with its time and where it came from."""
    client = request.client.host if request.client else None
    origin = client
    if event_type.lane == "journal":
        agent = request.headers.get("user-agent", "")[:100]
        origin = f"{client} {agent}" if agent else client
    return event_type.new(
        subject, payload, time=now_ms() if time_ms is None else time_ms, origin=origin
    )
