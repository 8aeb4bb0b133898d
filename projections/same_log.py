"""Whether views and log belong together still: a log can be lost, shortened or restored."""

from __future__ import annotations

import sqlalchemy as sa

from events.log import Log, LogError
from projections.database import Views
from projections.schema import view_meta

_GENERATION = "log generation"


def require_same_log(log: Log, views: Views) -> None:
    """Raises LogError where the views were folded from what the log no longer holds.

    Raises TemporarilyUnavailable where there are no views, or the log can't be asked.
    """
    try:
        with views.read() as connection:
            folded_from = _stored(connection)
    except sa.exc.DatabaseError:
        # No views at all: whoever may make views replaces them.
        return
    if None not in (folded_from, log.generation) and folded_from != log.generation:
        raise LogError(
            f"the log is not the one that {views.name} was folded from: it was deleted and made "
            f"again (it is {log.generation}, it was {folded_from}). Restore the log; or, where it "
            "is lost, keep a copy of the views, which have what is left, and give new ones"
        )
    require_within(log, views)


def require_within(log: Log, views: Views) -> None:
    """Raises LogError where the views have folded more than the log holds: what the log gets next
    would be taken for folded already."""
    # In this order: the log only grows.
    checkpoints = views.checkpoints()
    heads = log.heads()
    for partition, checkpoint in checkpoints.items():
        head = heads.get(partition, 0)
        if checkpoint.position > head:
            raise LogError(
                f"the views are folded to {partition} {checkpoint.position}, but the log ends at "
                f"{head}: it has lost events, or an older copy of it was restored. Bring the log "
                "back, or delete the views and the lake, which are made again"
            )


def remember_log(log: Log, views: Views) -> None:
    """Stores which log the views are folded from; for who holds the projector's lock."""
    if log.generation is None:
        return
    with views.write() as connection:
        if _stored(connection) is None:
            connection.execute(sa.insert(view_meta).values(name=_GENERATION, value=log.generation))


def _stored(connection: sa.Connection) -> str | None:
    found = connection.execute(
        sa.select(view_meta.c.value).where(view_meta.c.name == _GENERATION)
    ).scalar()
    return None if found is None else str(found)
