"""What can happen to an experiment."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from events.event import EventType


class Tag(msgspec.Struct, frozen=True):
    """A tag: a key and its text."""

    key: str
    value: str


class ExperimentCreated(msgspec.Struct, frozen=True):
    """An experiment was created. Rejected (RESOURCE_ALREADY_EXISTS) where its name is taken."""

    name: Annotated[str, Meta(description="The name, unique among all experiments.")]
    artifact_location: Annotated[
        str, Meta(description="The URI under which its runs keep their artifacts.")
    ]
    creation_time: Annotated[int, Meta(description="ms since the epoch.")]
    tags: Annotated[list[Tag], Meta(description="The tags it was created with.")] = []


class ExperimentRenamed(msgspec.Struct, frozen=True):
    """An experiment got another name. Rejected where the name is taken or it is deleted."""

    name: Annotated[str, Meta(description="The new name.")]


class ExperimentDeleted(msgspec.Struct, frozen=True):
    """An experiment and all its runs were moved to the deleted stage."""


class ExperimentRestored(msgspec.Struct, frozen=True):
    """A deleted experiment and all its runs were made active again."""


class ExperimentTagSet(msgspec.Struct, frozen=True):
    """A tag of an experiment was set or overwritten."""

    key: Annotated[str, Meta(description="The tag's key.")]
    value: Annotated[str, Meta(description="Its text.")]


class ExperimentTagDeleted(msgspec.Struct, frozen=True):
    """A tag of an experiment was removed. Rejected (RESOURCE_DOES_NOT_EXIST) where it had none."""

    key: Annotated[str, Meta(description="The tag's key.")]


class ExperimentPurged(msgspec.Struct, frozen=True):
    """A deleted experiment was purged by gc: its rows go, and its earlier events are scrubbed.

    Of its names a hash stays, so that the verdicts on others that wanted one stay the same.
    Rejected where it was restored meanwhile, or still has runs or logged models.
    """


EXPERIMENT_CREATED = EventType("experiment.created", 1, ExperimentCreated, "experiment")
EXPERIMENT_RENAMED = EventType("experiment.renamed", 1, ExperimentRenamed, "experiment")
EXPERIMENT_DELETED = EventType(
    "experiment.deleted", 1, ExperimentDeleted, "experiment", lifecycle=True
)
EXPERIMENT_RESTORED = EventType(
    "experiment.restored", 1, ExperimentRestored, "experiment", lifecycle=True
)
EXPERIMENT_TAG_SET = EventType("experiment.tag_set", 1, ExperimentTagSet, "experiment")
EXPERIMENT_TAG_DELETED = EventType("experiment.tag_deleted", 1, ExperimentTagDeleted, "experiment")
EXPERIMENT_PURGED = EventType(
    "experiment.purged", 1, ExperimentPurged, "experiment", lifecycle=True
)

DEFAULT_EXPERIMENT_ID = "0"
"""The experiment that is there from the start, as in MLflow."""
