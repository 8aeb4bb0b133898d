"""Every event type that there is. A new one is one line here; none is ever removed."""

from __future__ import annotations

from typing import Any

from events import datasets, experiments, logged_models, metrics, runs
from events.event import EventType

EVENT_TYPES: tuple[EventType[Any], ...] = (
    experiments.EXPERIMENT_CREATED,
    experiments.EXPERIMENT_RENAMED,
    experiments.EXPERIMENT_DELETED,
    experiments.EXPERIMENT_RESTORED,
    experiments.EXPERIMENT_TAG_SET,
    experiments.EXPERIMENT_TAG_DELETED,
    experiments.EXPERIMENT_PURGED,
    runs.RUN_CREATED,
    runs.RUN_UPDATED,
    runs.RUN_DELETED,
    runs.RUN_RESTORED,
    runs.RUN_BATCH_LOGGED,
    runs.RUN_TAG_DELETED,
    runs.RUN_PURGED,
    datasets.RUN_INPUTS_LOGGED,
    datasets.RUN_OUTPUTS_LOGGED,
    logged_models.LOGGED_MODEL_CREATED,
    logged_models.LOGGED_MODEL_FINALIZED,
    logged_models.LOGGED_MODEL_PARAMS_LOGGED,
    logged_models.LOGGED_MODEL_TAGS_SET,
    logged_models.LOGGED_MODEL_TAG_DELETED,
    logged_models.LOGGED_MODEL_DELETED,
    logged_models.LOGGED_MODEL_PURGED,
    logged_models.RUN_MODEL_LOGGED,
    metrics.POINTS_LOGGED,
)
