"""What can happen to a logged model, and a model's entry in the history of its run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from events.event import EventType

ModelStatus = Literal["PENDING", "READY", "FAILED"]


class ModelTag(msgspec.Struct, frozen=True):
    """A tag of a logged model: a key and its text."""

    key: str
    value: str


class ModelParam(msgspec.Struct, frozen=True):
    """A param of a logged model: a key and its text, set once."""

    key: str
    value: str


class LoggedModelCreated(msgspec.Struct, frozen=True, omit_defaults=True):
    """A logged model was begun; it is PENDING until it is finalized.

    Rejected where its experiment is missing or deleted.
    """

    experiment_id: Annotated[str, Meta(description="The experiment it belongs to.")]
    name: Annotated[str, Meta(description="Its name; a random one where the client gave none.")]
    artifact_location: Annotated[str, Meta(description="The URI under which its files are.")]
    creation_time: Annotated[int, Meta(description="ms since the epoch.")]
    source_run_id: Annotated[str, Meta(description="The run that made it; empty: none.")] = ""
    model_type: Annotated[str, Meta(description="What the client calls its kind.")] = ""
    params: Annotated[list[ModelParam], Meta(description="Params; each is set once.")] = []
    tags: Annotated[list[ModelTag], Meta(description="The tags it was created with.")] = []


class LoggedModelFinalized(msgspec.Struct, frozen=True):
    """A logged model's status changed. Any status may follow any other, as in MLflow."""

    status: Annotated[ModelStatus, Meta(description="READY, FAILED, or PENDING again.")]


class LoggedModelParamsLogged(msgspec.Struct, frozen=True):
    """Params were added to a logged model. Rejected where one has another value already."""

    params: Annotated[list[ModelParam], Meta(description="Params; each is set once for ever.")]


class LoggedModelTagsSet(msgspec.Struct, frozen=True):
    """Tags of a logged model were set or overwritten."""

    tags: Annotated[list[ModelTag], Meta(description="The tags.")]


class LoggedModelTagDeleted(msgspec.Struct, frozen=True):
    """A tag of a logged model was removed. Rejected (RESOURCE_DOES_NOT_EXIST) where it had none."""

    key: Annotated[str, Meta(description="The tag's key.")]


class LoggedModelDeleted(msgspec.Struct, frozen=True):
    """A logged model was moved to the deleted stage."""


class LoggedModelPurged(msgspec.Struct, frozen=True):
    """A deleted logged model was purged by gc: its rows go, its earlier events are scrubbed.

    So can be one of a deleted experiment. Rejected where neither of the two is deleted.
    """


class RunModelLogged(msgspec.Struct, frozen=True):
    """An older client told a run of a model that it saved among the run's artifacts.

    The entry is added to the run's tag mlflow.log-model.history. Rejected where the run is
    deleted, or where that tag holds something else than a list.
    """

    model: Annotated[
        dict[str, Any], Meta(description="The model's path, flavors, run and time, as JSON.")
    ]


LOGGED_MODEL_CREATED = EventType("logged_model.created", 1, LoggedModelCreated, "logged model")
LOGGED_MODEL_FINALIZED = EventType(
    "logged_model.finalized", 1, LoggedModelFinalized, "logged model"
)
LOGGED_MODEL_PARAMS_LOGGED = EventType(
    "logged_model.params_logged", 1, LoggedModelParamsLogged, "logged model"
)
LOGGED_MODEL_TAGS_SET = EventType("logged_model.tags_set", 1, LoggedModelTagsSet, "logged model")
LOGGED_MODEL_TAG_DELETED = EventType(
    "logged_model.tag_deleted", 1, LoggedModelTagDeleted, "logged model"
)
LOGGED_MODEL_DELETED = EventType("logged_model.deleted", 1, LoggedModelDeleted, "logged model")
LOGGED_MODEL_PURGED = EventType(
    "logged_model.purged", 1, LoggedModelPurged, "logged model", lifecycle=True
)
RUN_MODEL_LOGGED = EventType("run.model_logged", 1, RunModelLogged, "run")
