"""Folds a batch of events into the views: rows, verdicts and checkpoint in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from events.errors import ResourceDoesNotExist, RunfoldError
from events.event import Event, Lane
from events.log import PURGED_TYPES
from projections.catalog import EVENT_TYPES, VIEWS
from projections.schema import checkpoints, purged, rejections
from projections.scrubbing import scrubbed_data
from projections.state import State
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
    """How far a lane is folded; see the table `checkpoints` for the fields."""

    position: int = 0
    lifecycle: int = 0
    rejected: int = 0
    stopped: str | None = None


def read_checkpoint(connection: sa.Connection, lane: Lane) -> Checkpoint:
    """The lane's checkpoint; zeros for a lane that was never folded."""
    row = connection.exec_driver_sql(
        "SELECT position, lifecycle, rejected, stopped FROM checkpoints WHERE lane = ?", (lane,)
    ).first()
    return Checkpoint() if row is None else Checkpoint(*row)


def fold_batch(connection: sa.Connection, lane: Lane, events: Sequence[Event]) -> Checkpoint:
    """Folds events, which must follow the lane's checkpoint, and returns the new checkpoint.

    The caller commits. An event that is unknown or can't be folded ends the batch: what came
    before it is kept, and the checkpoint says why and where folding stopped.
    """
    before = read_checkpoint(connection, lane)
    state = State(connection)
    position, lifecycle, rejected = before.position, before.lifecycle, before.rejected
    stopped: str | None = None
    for event in events:
        if event.position <= position:
            raise ValueError(f"{lane} {event.position} comes after checkpoint {position}")
        try:
            accepted = _fold_event(state, event)
        except Exception as error:
            state.undo_event()
            stopped = f"{lane} {event.position} ({event.type} v{event.version}): {error!r}"
            break
        position = event.position
        if not accepted:
            rejected = position
        elif (event.type, event.version) in _LIFECYCLE:
            lifecycle = position
    for view in VIEWS:
        if view.finish is not None:
            view.finish(state)
    after = Checkpoint(position, lifecycle, rejected, stopped)
    if after != before:
        state.rows(checkpoints).put(
            {
                "lane": lane,
                "position": position,
                "lifecycle": lifecycle,
                "rejected": rejected,
                "stopped": stopped,
            }
        )
    state.flush()
    return after


_LIFECYCLE = {(t.name, t.version) for t in EVENT_TYPES if t.lifecycle}
_TYPES = {(t.name, t.version): t for t in EVENT_TYPES}


def _fold_event(state: State, event: Event) -> bool:
    """Folds one event; returns whether it was accepted."""
    key = (event.type, event.version)
    event_type = _TYPES.get(key)
    if event_type is None:
        raise LookupError("this version of Runfold does not know such an event")
    if state.rows(purged).get(event.subject) is not None:
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


def purged_error(subject: str) -> RunfoldError:
    """What a write to a purged subject is answered with."""
    return ResourceDoesNotExist(f"'{subject}' does not exist: it was purged by gc.")
