"""Reads at once what the folds of a batch will ask for, where each question of its own would be a
way to a server and back.

It only reads earlier what a fold reads anyway, so what is not named here is slower and not wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from events.datasets import RUN_INPUTS_LOGGED, RUN_OUTPUTS_LOGGED
from events.event import Event, EventType
from events.logged_models import (
    LOGGED_MODEL_FINALIZED,
    LOGGED_MODEL_PARAMS_LOGGED,
    LOGGED_MODEL_TAG_DELETED,
    LOGGED_MODEL_TAGS_SET,
    RUN_MODEL_LOGGED,
)
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_TAG_DELETED,
    RUN_UPDATED,
)
from projections.state import State

_READ: dict[EventType[Any], Sequence[str]] = {
    RUN_BATCH_LOGGED: ("runs",),
    RUN_UPDATED: ("runs",),
    RUN_TAG_DELETED: ("runs", "tags"),
    RUN_INPUTS_LOGGED: ("runs", "run_inputs"),
    RUN_OUTPUTS_LOGGED: ("runs", "model_outputs"),
    RUN_MODEL_LOGGED: ("runs", "tags"),
    LOGGED_MODEL_FINALIZED: ("logged_models",),
    LOGGED_MODEL_PARAMS_LOGGED: ("logged_models", "logged_model_params"),
    LOGGED_MODEL_TAGS_SET: ("logged_models",),
    LOGGED_MODEL_TAG_DELETED: ("logged_models", "logged_model_tags"),
}
"""The tables of which the folds of an event read the rows that begin with its subject."""
_BY_NAME = {(one.name, one.version): tables for one, tables in _READ.items()}
_BATCH = (RUN_BATCH_LOGGED.name, RUN_BATCH_LOGGED.version)
_CREATED = (RUN_CREATED.name, RUN_CREATED.version)
_PARAMS = b'"params":[{'


def read_ahead(state: State, events: Sequence[Event]) -> None:
    """Has the rows that these events are about, where there are several."""
    if len(events) < 2:
        return
    asked: dict[str, dict[str, None]] = {}
    made: set[str] = set()
    for event in events:
        kind = (event.type, event.version)
        if kind == _CREATED:
            made.add(event.subject)
        elif event.subject in made:
            continue
        tables = _BY_NAME.get(kind, ())
        if kind == _BATCH and not event.scrubbed and _PARAMS in event.data:
            tables = ("runs", "params")
        for table in tables:
            asked.setdefault(table, {})[event.subject] = None
    if state.rows("purged").any():
        asked["purged"] = dict.fromkeys(event.subject for event in events)
    for table, subjects in asked.items():
        state.rows(table).read_ahead(list(subjects))
