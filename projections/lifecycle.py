"""The rules about stages that folds of every entity share: what may be written to."""

from __future__ import annotations

from events.errors import InvalidParameterValue, ResourceDoesNotExist
from projections.state import Row, State

ACTIVE, DELETED = "active", "deleted"


def unknown_experiment(experiment_id: str) -> ResourceDoesNotExist:
    """What an experiment id that is not there is answered with."""
    return ResourceDoesNotExist(f"No Experiment with id={experiment_id} exists")


def unknown_run(run_id: str) -> ResourceDoesNotExist:
    """What a run id that is not there is answered with."""
    return ResourceDoesNotExist(f"Run with id={run_id} not found")


def inactive_run(run_id: str, stage: str) -> InvalidParameterValue:
    """What a write to a deleted run is answered with."""
    return InvalidParameterValue(
        f"The run {run_id} must be in the 'active' state. Current state is {stage}."
    )


def inactive_experiment(experiment_id: str, stage: str) -> InvalidParameterValue:
    """What a write to a deleted experiment is answered with."""
    return InvalidParameterValue(
        f"The experiment {experiment_id} must be in the 'active' state. Current state is {stage}."
    )


def not_deleted(noun: str, subject: str) -> InvalidParameterValue:
    """What the purge of something that is in use (again) is answered with."""
    return InvalidParameterValue(
        f"The {noun} {subject} is not in the 'deleted' state, so it can't be purged."
    )


def existing_experiment(state: State, experiment_id: str) -> Row:
    """The experiment's row in any stage. Raises ResourceDoesNotExist."""
    row = state.rows("experiments").get(experiment_id)
    if row is None:
        raise unknown_experiment(experiment_id)
    return row


def active_experiment(state: State, experiment_id: str) -> Row:
    """The experiment's row. Raises where it is missing or deleted."""
    row = existing_experiment(state, experiment_id)
    if row["lifecycle_stage"] != ACTIVE:
        raise inactive_experiment(experiment_id, row["lifecycle_stage"])
    return row


def existing_run(state: State, run_id: str) -> Row:
    """The run's row in any stage. Raises ResourceDoesNotExist."""
    row = state.rows("runs").get(run_id)
    if row is None:
        raise unknown_run(run_id)
    return row


def active_run(state: State, run_id: str) -> Row:
    """The run's row. Raises where it is missing or deleted."""
    row = existing_run(state, run_id)
    if row["lifecycle_stage"] != ACTIVE:
        raise inactive_run(run_id, row["lifecycle_stage"])
    return row
