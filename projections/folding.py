"""Folds a batch of events into the views: rows, verdicts and checkpoint in one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from events.errors import ResourceDoesNotExist, RunfoldError
from events.event import DIRECT, GAP, Event, Partition
from events.experiments import EXPERIMENT_RENAMED
from events.log import PURGED_TYPES
from events.metrics import POINTS_LOGGED
from projections.catalog import EVENT_TYPES, VIEWS
from projections.direct_points import NotTaken, checked, put_aside
from projections.read_ahead import read_ahead
from projections.schema import checkpoints, purged, rejections
from projections.scrubbing import scrubbed_data
from projections.state import State
from projections.statements import SQLITE
from projections.view import Fold

_FOLDS: dict[tuple[str, int], list[Fold]] = {}
_SCRUBBED: dict[tuple[str, int], list[Fold]] = {}
"""Where a purge has emptied an event's data, these take the place of its folds."""
for _view in VIEWS:
    for _type, _fold in _view.folds.items():
        _FOLDS.setdefault((_type.name, _type.version), []).append(_fold)
    for _type, _scrubbed_fold in _view.scrubbed.items():
        _SCRUBBED.setdefault((_type.name, _type.version), []).append(_scrubbed_fold)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a partition of the log is folded; see the table `checkpoints` for the fields."""

    position: int = 0
    lifecycle: int = 0
    rejected: int = 0
    stopped: str | None = None


_CHECKPOINT = sa.select(
    checkpoints.c.position,
    checkpoints.c.lifecycle,
    checkpoints.c.rejected,
    checkpoints.c.stopped,
).where(
    checkpoints.c.lane == sa.bindparam("lane"),
    checkpoints.c.partition_number == sa.bindparam("number"),
)


class Checkpoints(dict[Partition, Checkpoint]):
    """The checkpoints by partition; zeros for one that was never folded."""

    def __missing__(self, _partition: Partition) -> Checkpoint:
        return Checkpoint()


_CHECKPOINT_ALONE = _CHECKPOINT.with_for_update()


def read_checkpoint(
    connection: sa.Connection, partition: Partition, *, alone: bool = False
) -> Checkpoint:
    """The partition's checkpoint; zeros for one that was never folded.

    `alone`: nobody else reads it so until this transaction ends.
    """
    lane, number = partition
    asked = _CHECKPOINT_ALONE if alone else _CHECKPOINT
    found = connection.execute(asked, {"lane": lane, "number": number}).first()
    return Checkpoint() if found is None else Checkpoint(*found)


def fold_batch(
    connection: sa.Connection,
    partition: Partition,
    events: Sequence[Event],
    before: Checkpoint | None = None,
) -> Checkpoint:
    """Folds events, which must follow the partition's checkpoint, and returns the new checkpoint.

    `before` is that checkpoint where the caller has read it in this transaction. The caller
    commits. An event that is unknown or can't be folded ends the batch: what came
    before it is kept, and the checkpoint says why and where folding stopped.
    """
    if before is None:
        before = read_checkpoint(connection, partition)
    with contextlib.closing(State(connection)) as state:
        return _fold_all(state, partition, events, before)


def stop_folding(connection: sa.Connection, partition: Partition, why: str) -> Checkpoint:
    """Keeps in the partition's checkpoint why nothing behind it can be read, and returns it."""
    after = dataclasses.replace(read_checkpoint(connection, partition), stopped=why)
    with contextlib.closing(State(connection)) as state:
        _keep(state, partition, after)
        state.flush()
    return after


def _keep(state: State, partition: Partition, checkpoint: Checkpoint) -> None:
    state.rows(checkpoints).put(
        {
            "lane": partition.lane,
            "partition_number": partition.number,
            "position": checkpoint.position,
            "lifecycle": checkpoint.lifecycle,
            "rejected": checkpoint.rejected,
            "stopped": checkpoint.stopped,
        }
    )


def _fold_all(
    state: State, partition: Partition, events: Sequence[Event], before: Checkpoint
) -> Checkpoint:
    position, lifecycle, rejected = before.position, before.lifecycle, before.rejected
    stopped: str | None = None
    if state.dialect != SQLITE:
        read_ahead(state, events)
    for event in events:
        if event.position <= position:
            raise ValueError(f"{partition} {event.position} comes after checkpoint {position}")
        if event.type == GAP:
            position = event.position
            continue
        try:
            accepted = _fold_whole(state, event)
        except Exception as error:
            stopped = f"{partition} {event.position} ({event.type} v{event.version}): {error!r}"
            break
        position = event.position
        if not accepted:
            rejected = position
        elif (event.type, event.version) in LIFECYCLE:
            lifecycle = position
    _finish(state)
    after = Checkpoint(position, lifecycle, rejected, stopped)
    if after != before:
        _keep(state, partition, after)
    state.flush()
    return after


def _finish(state: State) -> None:
    for view in VIEWS:
        if view.finish is not None:
            view.finish(state)


def _fold_whole(state: State, event: Event) -> bool:
    """Folds one event; where that fails unexpectedly, nothing of it is left in the state."""
    if (event.type, event.version) not in _SET_BASED:
        try:
            return _fold_event(state, event)
        except Exception:
            state.undo_event()
            raise
    _finish(state)
    state.flush()
    try:
        with state.connection.begin_nested(), state.set_based():
            accepted = _fold_event(state, event)
            state.flush()
            return accepted
    except Exception:
        state.forget()
        raise


LIFECYCLE = {(t.name, t.version) for t in EVENT_TYPES if t.lifecycle}
_SET_BASED = LIFECYCLE | {(EXPERIMENT_RENAMED.name, EXPERIMENT_RENAMED.version)}
"""The events whose folds run statements over many rows, which no undo takes back: each is folded
in a savepoint of its own."""
_POINTS = (POINTS_LOGGED.name, POINTS_LOGGED.version)
_TYPES = {(t.name, t.version): t for t in EVENT_TYPES}


def _fold_event(state: State, event: Event) -> bool:
    """Folds one event; returns whether it was accepted."""
    if event.origin == DIRECT:
        return _fold_direct(state, event)
    key = (event.type, event.version)
    event_type = _TYPES.get(key)
    if event_type is None:
        raise LookupError("this version of Runfold does not know such an event")
    gone = state.rows(purged)
    if gone.any() and gone.get(event.subject) is not None:
        # No row: its message could hold what was purged. `verdict` knows the purged subjects.
        return False
    folds = (_SCRUBBED if event.scrubbed else _FOLDS).get(key, [])
    data = scrubbed_data(event) if event.scrubbed else event_type.decode(event.data)
    try:
        for fold in folds:
            fold(state, event, data)
    except RunfoldError as error:
        state.undo_event()
        state.rows(rejections).put(
            {
                "position": event.position,
                "subject": event.subject,
                "error_code": error.error_code,
                "message": error.message,
            }
        )
        state.keep_event()
        return False
    if event.type in PURGED_TYPES:
        state.rows(purged).put({"subject": event.subject})
        state.execute(sa.delete(rejections).where(rejections.c.subject == event.subject))
    state.keep_event()
    return True


def _fold_direct(state: State, event: Event) -> bool:
    """Folds points that were written past the API, where they can be taken."""
    if event.lane == "journal":
        raise LookupError("it was written into the journal past the API, which nobody may")
    if event.scrubbed:
        # Its data is gone, and with it what there was to take or to complain about.
        return False
    try:
        block = checked(event)
    except NotTaken as reason:
        # Also of what was purged: in a rebuild the purge is folded before.
        put_aside(state, event, str(reason))
        state.keep_event()
        return False
    if state.rows(purged).get(event.subject) is not None:
        return False
    for fold in _FOLDS[_POINTS]:
        fold(state, event, block)
    state.keep_event()
    return True


def rejected_between(
    connection: sa.Connection, first: int, last: int
) -> dict[int, tuple[str, str]]:
    """(error code, message) by position of the journal's events that were rejected, from `first`
    to `last`."""
    rows = connection.execute(
        sa.select(rejections).where(rejections.c.position.between(first, last))
    )
    return {row.position: (row.error_code, row.message) for row in rows}


def purged_error(subject: str) -> RunfoldError:
    """What a write to a purged subject is answered with."""
    return ResourceDoesNotExist(f"'{subject}' does not exist: it was purged by gc.")
