"""What gc purges: which deleted runs, logged models and experiments are old enough or named; and
what was purged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from events.errors import InvalidParameterValue
from events.experiments import DEFAULT_EXPERIMENT_ID
from projections.experiments import experiments
from projections.lifecycle import DELETED, unknown_experiment, unknown_run
from projections.logged_models import logged_models, unknown_model
from projections.runs import runs
from projections.schema import purged, rejections

IDS_MAX = 500


@dataclass(frozen=True)
class Choice:
    """What the user asked for. With no ids at all: everything that is deleted."""

    run_ids: Sequence[str] | None = None
    experiment_ids: Sequence[str] | None = None
    logged_model_ids: Sequence[str] | None = None
    older_than: str | None = None
    older_than_ms: int = 0

    @property
    def everything(self) -> bool:
        """Whether no ids were given."""
        return self.run_ids is None and self.experiment_ids is None and not self.logged_model_ids


@dataclass
class Chosen:
    """What is to be purged, in order of the ids, each once."""

    runs: dict[str, None] = field(default_factory=dict)
    logged_models: dict[str, None] = field(default_factory=dict)
    experiments: dict[str, None] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    """Sentences about what is deleted but stays, and why."""

    def subjects(self) -> Iterator[tuple[str, str]]:
        """(noun, id) in the order of the purges: an experiment after what is in it."""
        for run_id in self.runs:
            yield "run", run_id
        for model_id in self.logged_models:
            yield "logged model", model_id
        for experiment_id in self.experiments:
            yield "experiment", experiment_id


def choose(connection: sa.Connection, choice: Choice, now_ms: int) -> Chosen:
    """What to purge. Raises RunfoldError for a named id that can't be purged: then nothing is."""
    until_ms = now_ms - choice.older_than_ms
    chosen = Chosen()
    if choice.everything:
        _deleted_experiments(connection, choice, until_ms, chosen)
        old = sa.select(runs.c.run_id).where(
            runs.c.lifecycle_stage == DELETED, runs.c.deleted_time <= until_ms
        )
        chosen.runs.update(dict.fromkeys(connection.execute(old.order_by(runs.c.run_id)).scalars()))
        old = sa.select(logged_models.c.model_id).where(
            logged_models.c.lifecycle_stage == DELETED,
            logged_models.c.last_updated_timestamp <= until_ms,
        )
        ordered = old.order_by(logged_models.c.model_id)
        chosen.logged_models.update(dict.fromkeys(connection.execute(ordered).scalars()))
        return chosen
    _named(connection, choice.experiment_ids, experiments, unknown_experiment, chosen.experiments)
    _check(connection, chosen.experiments, experiments, "last_update_time", until_ms, choice)
    for experiment_id in chosen.experiments:
        why = _why_it_stays(connection, experiment_id, choice, until_ms)
        if why is not None:
            raise InvalidParameterValue(f"Experiment {experiment_id} can't be purged: {why}.")
    _named(connection, choice.run_ids, runs, unknown_run, chosen.runs)
    _check(connection, chosen.runs, runs, "deleted_time", until_ms, choice)
    models = chosen.logged_models
    _named(connection, choice.logged_model_ids, logged_models, unknown_model, models)
    _check(connection, models, logged_models, "last_updated_timestamp", until_ms, choice)
    for experiment_id in chosen.experiments:
        _add_contents(connection, experiment_id, chosen)
    return chosen


def _deleted_experiments(
    connection: sa.Connection, choice: Choice, until_ms: int, chosen: Chosen
) -> None:
    statement = sa.select(experiments.c.experiment_id, experiments.c.last_update_time).where(
        experiments.c.lifecycle_stage == DELETED
    )
    for experiment_id, updated in connection.execute(statement.order_by(experiments.c[0])).all():
        if choice.older_than is not None and updated >= until_ms:
            continue
        why = _why_it_stays(connection, experiment_id, choice, until_ms)
        if why is not None:
            chosen.kept.append(f"Experiment {experiment_id} stays: {why}.")
            continue
        chosen.experiments[experiment_id] = None
        _add_contents(connection, experiment_id, chosen)


def _why_it_stays(
    connection: sa.Connection, experiment_id: str, choice: Choice, until_ms: int
) -> str | None:
    """Why a deleted experiment can't be purged; None where it can."""
    if experiment_id == DEFAULT_EXPERIMENT_ID:
        return "it is the default experiment, which clients expect and which can't be made again"
    within = runs.c.experiment_id == experiment_id
    active = connection.execute(
        sa.select(runs.c.run_id).where(within, runs.c.lifecycle_stage != DELETED).limit(1)
    ).scalar()
    if active is not None:
        return f"run {active} in it was restored; delete the run, or restore the experiment"
    if choice.older_than is not None:
        young = connection.execute(
            sa.select(runs.c.run_id).where(within, runs.c.deleted_time > until_ms).limit(1)
        ).scalar()
        if young is not None:
            return f"run {young} in it was deleted less than {choice.older_than} ago"
    return None


def _add_contents(connection: sa.Connection, experiment_id: str, chosen: Chosen) -> None:
    for table, found in ((runs, chosen.runs), (logged_models, chosen.logged_models)):
        key = next(iter(table.primary_key.columns))
        statement = sa.select(key).where(table.c.experiment_id == experiment_id).order_by(key)
        found.update(dict.fromkeys(connection.execute(statement).scalars()))


def _named(
    connection: sa.Connection,
    ids: Sequence[str] | None,
    table: sa.Table,
    unknown: Callable[[str], Exception],
    chosen: dict[str, None],
) -> None:
    """Adds the ids that are there. One that was purged already is passed over, so that a gc that
    was killed can be run again as it was."""
    key = next(iter(table.primary_key.columns))
    for one in ids or ():
        if connection.execute(sa.select(key).where(key == one)).first() is not None:
            chosen[one] = None
            continue
        gone = connection.execute(sa.select(purged.c.subject).where(purged.c.subject == one))
        if gone.first() is None:
            raise unknown(one)


def _check(
    connection: sa.Connection,
    chosen: dict[str, None],
    table: sa.Table,
    since: str,
    until_ms: int,
    choice: Choice,
) -> None:
    """Raises where one of these is not deleted, or not for long enough."""
    key = next(iter(table.primary_key.columns))
    noun = table.name.removesuffix("s").replace("_", " ").capitalize()
    for one in chosen:
        row = connection.execute(sa.select(table).where(key == one)).one()._mapping
        if row["lifecycle_stage"] != DELETED:
            raise InvalidParameterValue(
                f"{noun} {one} is not in the `deleted` lifecycle stage: delete it first."
            )
        if choice.older_than is not None and (row[since] or 0) > until_ms:
            raise InvalidParameterValue(
                f"{noun} {one} is not older than the required age: it was deleted less than "
                f"{choice.older_than} ago."
            )


def purged_subjects(connection: sa.Connection) -> set[str]:
    """The ids of everything that was ever purged."""
    return set(connection.execute(sa.select(purged.c.subject)).scalars())


def refusal_at(connection: sa.Connection, position: int) -> str | None:
    """Why the journal's event at this position was rejected; None where it was not."""
    return connection.execute(
        sa.select(rejections.c.message).where(rejections.c.position == position)
    ).scalar()
