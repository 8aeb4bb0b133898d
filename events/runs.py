"""What can happen to a run."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from events.event import EventType
from events.metrics import Point


class RunTag(msgspec.Struct, frozen=True):
    """A tag of a run: a key and its text."""

    key: str
    value: str


class Param(msgspec.Struct, frozen=True):
    """A param of a run: a key and its text, set once."""

    key: str
    value: str


class RunCreated(msgspec.Struct, frozen=True):
    """A run was created. Rejected where its experiment is missing or deleted."""

    experiment_id: Annotated[str, Meta(description="The experiment it belongs to.")]
    name: Annotated[str, Meta(description="Its name; a random one where the client gave none.")]
    user_id: Annotated[str, Meta(description="The user that the client named.")]
    start_time: Annotated[int, Meta(description="ms since the epoch.")]
    artifact_uri: Annotated[str, Meta(description="Where its artifacts are.")]
    tags: Annotated[list[RunTag], Meta(description="The tags it was created with.")] = []


class RunUpdated(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run's status, end or name changed. Rejected where the run is deleted."""

    status: Annotated[
        str | None,
        Meta(description="RUNNING, SCHEDULED, FINISHED, FAILED or KILLED; null: as before."),
    ] = None
    end_time: Annotated[int | None, Meta(description="ms since the epoch; null: as before.")] = None
    name: Annotated[str | None, Meta(description="The new name; null: as before.")] = None


class RunDeleted(msgspec.Struct, frozen=True):
    """A run was moved to the deleted stage."""


class RunRestored(msgspec.Struct, frozen=True):
    """A deleted run was made active again."""


class RunBatchLogged(msgspec.Struct, frozen=True, omit_defaults=True):
    """Params, tags and metric points were logged to a run, all or nothing.

    Rejected where the run is deleted, or where a param has another value already. A batch of
    points alone is a points.logged event instead.
    """

    params: Annotated[list[Param], Meta(description="Params; each is set once for ever.")] = []
    tags: Annotated[list[RunTag], Meta(description="Tags, set or overwritten.")] = []
    metrics: Annotated[list[Point], Meta(description="Metric points.")] = []


class RunTagDeleted(msgspec.Struct, frozen=True):
    """A tag of a run was removed. Rejected (RESOURCE_DOES_NOT_EXIST) where it had none."""

    key: Annotated[str, Meta(description="The tag's key.")]


class RunPurged(msgspec.Struct, frozen=True):
    """A deleted run was purged by gc: its rows and points go, its earlier events are scrubbed.

    Rejected where it was restored meanwhile.
    """


RUN_CREATED = EventType("run.created", 1, RunCreated, "run")
RUN_UPDATED = EventType("run.updated", 1, RunUpdated, "run")
RUN_DELETED = EventType("run.deleted", 1, RunDeleted, "run", lifecycle=True)
RUN_RESTORED = EventType("run.restored", 1, RunRestored, "run", lifecycle=True)
RUN_BATCH_LOGGED = EventType("run.batch_logged", 1, RunBatchLogged, "run")
RUN_TAG_DELETED = EventType("run.tag_deleted", 1, RunTagDeleted, "run")
RUN_PURGED = EventType("run.purged", 1, RunPurged, "run", lifecycle=True)

STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
"""MLflow's run statuses, in the order of their numbers from 1."""
