"""What a run took in and what came out of it: datasets, and the logged models it used or made."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from events.event import EventType


class InputTag(msgspec.Struct, frozen=True):
    """A tag of one input, such as the context that a dataset was used in."""

    key: str
    value: str


class DatasetInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dataset as an input of a run."""

    name: Annotated[str, Meta(description="Its name.")]
    digest: Annotated[str, Meta(description="A short hash that tells its versions apart.")]
    source_type: Annotated[str, Meta(description="The kind of place that it came from.")]
    source: Annotated[str, Meta(description="Where it came from, as that kind writes it.")]
    schema: Annotated[str | None, Meta(description="Its columns, as JSON.")] = None
    profile: Annotated[str | None, Meta(description="Its summary, as JSON.")] = None
    tags: Annotated[list[InputTag], Meta(description="What is said of this use of it.")] = []


class ModelOutput(msgspec.Struct, frozen=True):
    """A logged model as an output of a run."""

    model_id: Annotated[str, Meta(description="The model.")]
    step: Annotated[int, Meta(description="The training step that it was saved at.")] = 0


class RunInputsLogged(msgspec.Struct, frozen=True, omit_defaults=True):
    """Datasets and models were named as inputs of a run. Rejected where the run is deleted.

    A run has a dataset (name and digest) once: the first that says so counts, with its tags.
    Within an experiment the first content given for a name and digest is the dataset's.
    """

    datasets: Annotated[list[DatasetInput], Meta(description="Datasets that it read.")] = []
    models: Annotated[list[str], Meta(description="Ids of logged models that it used.")] = []


class RunOutputsLogged(msgspec.Struct, frozen=True):
    """Logged models were named as outputs of a run.

    Rejected where the run is deleted, or has one of the models at another step.
    """

    models: Annotated[list[ModelOutput], Meta(description="The models, each with its step.")]


RUN_INPUTS_LOGGED = EventType("run.inputs_logged", 1, RunInputsLogged, "run")
RUN_OUTPUTS_LOGGED = EventType("run.outputs_logged", 1, RunOutputsLogged, "run")
