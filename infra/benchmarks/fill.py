"""Fills a log directly, as the server would have: for data sets that take too long over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from events.codec import Block, Series
from events.event import NewEvent
from events.experiments import DEFAULT_EXPERIMENT_ID, EXPERIMENT_CREATED, ExperimentCreated
from events.metrics import POINTS_LOGGED, Point
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_CREATED,
    RUN_UPDATED,
    Param,
    RunBatchLogged,
    RunCreated,
    RunTag,
    RunUpdated,
)
from events.sqlite_log import SqliteLog
from infra.benchmarks.curves import FIRST_MS, Points, metric_keys, training
from infra.benchmarks.run_data import RunData

COMMIT_EVENTS = 2_000
POINTS_AN_EVENT = 1_000
KEYS = 20
JOURNAL_EVENTS_A_RUN = 5


def run_id_of(place: int) -> str:
    """The id of a run by its place."""
    return f"{place:032x}"


def fill(home: Path, events: Iterable[NewEvent]) -> int:
    """Makes a folder whose log has the default experiment and these events; returns how many."""
    log = SqliteLog(home / "log.db")
    count = 0
    try:
        waiting = [experiment_created(DEFAULT_EXPERIMENT_ID, "Default")]
        for event in events:
            waiting.append(event)
            if len(waiting) == COMMIT_EVENTS:
                log.append(waiting)
                count += len(waiting)
                waiting = []
        if waiting:
            log.append(waiting)
        return count + len(waiting)
    finally:
        log.close()


def experiment_created(experiment_id: str, name: str) -> NewEvent:
    """An experiment was created."""
    payload = ExperimentCreated(name, f"mlflow-artifacts:/{experiment_id}", FIRST_MS)
    return EXPERIMENT_CREATED.new(experiment_id, payload, time=FIRST_MS)


def created(
    run_id: str,
    name: str,
    start_time: int = FIRST_MS,
    experiment_id: str = DEFAULT_EXPERIMENT_ID,
) -> NewEvent:
    """A run was created."""
    tags = [RunTag("mlflow.runName", name)]
    uri = f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts"
    payload = RunCreated(experiment_id, name, "bench", start_time, uri, tags)
    return RUN_CREATED.new(run_id, payload, time=start_time)


def points_events(run_id: str, points: Points) -> Iterator[NewEvent]:
    """Points of a run, as a client's batches would have come."""
    series = [Series(key) for key in points.keys]
    for part in points.parts(POINTS_AN_EVENT):
        block = Block(series, part.index.astype("uint32"), part.steps, part.timestamps, part.values)
        yield POINTS_LOGGED.new(run_id, block, time=int(part.timestamps[-1]))


def run_with_points(run_id: str, count: int, keys: int = KEYS, seed: int = 0) -> Iterator[NewEvent]:
    """A run with at least so many points."""
    yield created(run_id, f"run-{seed:06}")
    yield from points_events(run_id, training(seed, -(-count // keys), keys))


def trainings(points: int, runs: int) -> Iterator[NewEvent]:
    """Many runs that have so many points together."""
    for place in range(runs):
        yield from run_with_points(run_id_of(place), points // runs, seed=place)


def searched_run(place: int) -> Iterator[NewEvent]:
    """A run as the searches want it: created, then a batch of params, metrics and tags."""
    data = RunData(place)
    run_id = run_id_of(place)
    yield created(run_id, data.name, data.start_time)
    payload = RunBatchLogged(
        [Param(key, value) for key, value in data.params.items()],
        [RunTag(key, value) for key, value in data.tags.items()],
        [Point(key, value, data.start_time, 0) for key, value in data.metrics.items()],
    )
    yield RUN_BATCH_LOGGED.new(run_id, payload, time=data.start_time)


def lively_run(place: int) -> Iterator[NewEvent]:
    """JOURNAL_EVENTS_A_RUN journal events of a run, as a training with a callback logs them."""
    yield from searched_run(place)
    run_id = run_id_of(place)
    time = RunData(place).start_time
    tag = RunBatchLogged(tags=[RunTag("phase", "evaluation")])
    yield RUN_BATCH_LOGGED.new(run_id, tag, time=time + 1)
    last = RunBatchLogged(
        params=[Param("best_epoch", str(place % 30))],
        metrics=[Point(key, place / 7, time + 2, 1) for key in metric_keys(5)],
    )
    yield RUN_BATCH_LOGGED.new(run_id, last, time=time + 2)
    yield RUN_UPDATED.new(run_id, RunUpdated("FINISHED", time + 3), time=time + 3)
