"""What a view declares: its tables, and which fold takes which event into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from events.event import Event, EventType
from projections.state import State

Fold = Callable[[State, Event, Any], None]
"""Takes an event and its decoded data into the rows. Raises a RunfoldError to reject it."""

Keep = Callable[[Any], dict[str, str]]
"""Takes the decoded data of a purged subject's event; gives the few texts that stay of it."""

Finish = Callable[[State], None]
"""Runs once at the end of a batch, before the rows are written."""


@dataclass(frozen=True)
class EntityView:
    """The view of one kind of thing."""

    name: str
    tables: Sequence[sa.Table]
    folds: Mapping[EventType[Any], Fold]
    version: int = 1
    """Counted up when a fold changes its meaning: the views are then rebuilt at the next start."""
    kept: Mapping[EventType[Any], Keep] = field(default_factory=dict)
    """What a purge leaves of an event's data, for the verdicts on other subjects to stay the same
    in a rebuild; of types not named nothing stays."""
    scrubbed: Mapping[EventType[Any], Fold] = field(default_factory=dict)
    """Folds of scrubbed events, which get what `kept` left as a dict; types not named leave no
    row. What they put is gone again when the fold comes to the purge."""
    finish: Finish | None = None

    def __hash__(self) -> int:
        return hash(self.name)
