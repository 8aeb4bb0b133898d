"""Logged models: what the folds keep, and what a purge leaves."""

from __future__ import annotations

from typing import Any

import pytest

from events.event import JOURNAL
from events.experiments import EXPERIMENT_DELETED, ExperimentDeleted
from events.logged_models import (
    LOGGED_MODEL_CREATED,
    LOGGED_MODEL_DELETED,
    LOGGED_MODEL_FINALIZED,
    LOGGED_MODEL_PARAMS_LOGGED,
    LOGGED_MODEL_PURGED,
    LOGGED_MODEL_TAG_DELETED,
    LOGGED_MODEL_TAGS_SET,
    RUN_MODEL_LOGGED,
    LoggedModelCreated,
    LoggedModelDeleted,
    LoggedModelFinalized,
    LoggedModelParamsLogged,
    LoggedModelPurged,
    LoggedModelTagDeleted,
    LoggedModelTagsSet,
    ModelParam,
    ModelTag,
    RunModelLogged,
)
from events.metrics import POINTS_LOGGED, Point, block_of
from events.runs import (
    RUN_BATCH_LOGGED,
    RUN_DELETED,
    RUN_PURGED,
    Param,
    RunBatchLogged,
    RunDeleted,
    RunPurged,
    RunTag,
)
from projections.logged_models import HISTORY_TAG, VIEW
from projections.model_documents import ModelDocument, get_model
from tests.folds import Folds

TABLES = tuple(table.name for table in VIEW.tables)


@pytest.fixture
def folds() -> Folds:
    """One experiment with a run and a model."""
    made = Folds()
    made.experiment()
    made.run()
    create(made, "m-1", params=[ModelParam("p", "1")], tags=[ModelTag("t", "1")])
    return made


def create(folds: Folds, model_id: str, experiment_id: str = "1", **fields: Any) -> str | None:
    """A model of this experiment."""
    created = LoggedModelCreated(
        experiment_id, "forest", f"mlflow-artifacts:/1/models/{model_id}/artifacts", 5, **fields
    )
    return folds.given(LOGGED_MODEL_CREATED, model_id, created)


def read(folds: Folds, model_id: str = "m-1") -> ModelDocument:
    """The model, deleted or not."""
    with folds.engine.connect() as connection:
        return get_model(connection, model_id, allow_deleted=True)


def measure(folds: Folds, *points: Point, run_id: str = "run") -> None:
    """A batch of metrics alone: the points lane."""
    folds.given(POINTS_LOGGED, run_id, block_of(list(points)))


def measured(folds: Folds) -> list[tuple[Any, ...]]:
    """(model, key, timestamp, step, run, dataset name, digest, value, is NaN) of all points."""
    return folds.rows("logged_model_metrics")


def test_a_model_is_pending_until_it_is_finalized(folds: Folds) -> None:
    """Any status may follow any other; the time of the event is the model's last change."""
    info = read(folds).info
    assert (info["status"], info["last_updated_timestamp"]) == ("PENDING", 5)
    for status in ("READY", "FAILED", "PENDING"):
        finalized = LoggedModelFinalized(status)
        assert folds.given(LOGGED_MODEL_FINALIZED, "m-1", finalized) is None
        info = read(folds).info
        assert (info["status"], info["last_updated_timestamp"]) == (status, folds.time)
    assert info["creation_timestamp"] == 5


def test_a_model_needs_an_active_experiment_and_an_id_of_its_own(folds: Folds) -> None:
    """Otherwise its creation is rejected and leaves no row."""
    before = folds.content(*TABLES)
    assert create(folds, "m-1") == "RESOURCE_ALREADY_EXISTS"
    assert create(folds, "m-2", "unknown") == "RESOURCE_DOES_NOT_EXIST"
    folds.given(EXPERIMENT_DELETED, "1", ExperimentDeleted())
    assert create(folds, "m-2") == "INVALID_PARAMETER_VALUE"
    assert folds.content(*TABLES) == before


def test_the_experiments_end_does_not_touch_its_models(folds: Folds) -> None:
    """As in MLflow: a model of a deleted experiment is active, and can be written to."""
    folds.given(EXPERIMENT_DELETED, "1", ExperimentDeleted())
    assert read(folds).info["lifecycle_stage"] == "active"
    assert folds.given(LOGGED_MODEL_TAGS_SET, "m-1", LoggedModelTagsSet([])) is None


def test_a_param_is_set_once(folds: Folds) -> None:
    """The same value again is accepted; another is rejected, with all that came beside it."""
    same = LoggedModelParamsLogged([ModelParam("p", "1"), ModelParam("q", "2")])
    assert folds.given(LOGGED_MODEL_PARAMS_LOGGED, "m-1", same) is None
    other = LoggedModelParamsLogged([ModelParam("r", "3"), ModelParam("p", "2")])
    assert folds.given(LOGGED_MODEL_PARAMS_LOGGED, "m-1", other) == "INVALID_PARAMETER_VALUE"
    assert read(folds).params == [("p", "1"), ("q", "2")]


def test_tags_are_overwritten_and_removed(folds: Folds) -> None:
    """The last value wins; removing what is not there is RESOURCE_DOES_NOT_EXIST."""
    given = LoggedModelTagsSet([ModelTag("t", "2"), ModelTag("a", "")])
    assert folds.given(LOGGED_MODEL_TAGS_SET, "m-1", given) is None
    assert read(folds).tags == [("a", ""), ("t", "2")]
    gone = LoggedModelTagDeleted("t")
    assert folds.given(LOGGED_MODEL_TAG_DELETED, "m-1", gone) is None
    assert folds.given(LOGGED_MODEL_TAG_DELETED, "m-1", gone) == "RESOURCE_DOES_NOT_EXIST"
    assert read(folds).tags == [("a", "")]
    assert read(folds).info["last_updated_timestamp"] == 5


def test_events_about_an_unknown_model_are_rejected(folds: Folds) -> None:
    """Each with RESOURCE_DOES_NOT_EXIST."""
    events = (
        (LOGGED_MODEL_FINALIZED, LoggedModelFinalized("READY")),
        (LOGGED_MODEL_PARAMS_LOGGED, LoggedModelParamsLogged([])),
        (LOGGED_MODEL_TAGS_SET, LoggedModelTagsSet([])),
        (LOGGED_MODEL_TAG_DELETED, LoggedModelTagDeleted("t")),
        (LOGGED_MODEL_DELETED, LoggedModelDeleted()),
        (LOGGED_MODEL_PURGED, LoggedModelPurged()),
    )
    verdicts = [folds.given(event_type, "unknown", payload) for event_type, payload in events]
    assert verdicts == ["RESOURCE_DOES_NOT_EXIST"] * len(events)


POINTS = (
    Point("loss", 0.5, 10, 1, "m-1", "iris", "d1"),
    Point("loss", 0.5, 10, 1, "m-1", "wine", "d2"),
    Point("loss", 0.5, 10, 1, "m-1"),
    Point("loss", 0.4, 10, 1, "m-1"),
    Point("loss", "NaN", 11, 2, "m-1"),
    Point("loss", "Infinity", 11, 3, "m-1"),
    Point("loss", 0.3, 12, 3),
    Point("loss", 0.2, 12, 3, "m-2"),
)


def test_points_on_a_model_are_a_set_whatever_lane_and_order_they_come_in(folds: Folds) -> None:
    """A repeated point is one; points without a model are not its; both lanes in any order give
    the same rows."""
    measure(folds, *POINTS[:5])
    batch = RunBatchLogged([Param("p", "1")], [], list(POINTS[3:]))
    folds.given(RUN_BATCH_LOGGED, "run", batch)
    measure(folds, *reversed(POINTS))
    assert measured(folds) == [
        ("m-1", "loss", 10, 1, "run", "", "", 0.4, False),
        ("m-1", "loss", 10, 1, "run", "", "", 0.5, False),
        ("m-1", "loss", 10, 1, "run", "iris", "d1", 0.5, False),
        ("m-1", "loss", 10, 1, "run", "wine", "d2", 0.5, False),
        ("m-1", "loss", 11, 2, "run", "", "", 0.0, True),
        ("m-1", "loss", 11, 3, "run", "", "", float("inf"), False),
        ("m-2", "loss", 12, 3, "run", "", "", 0.2, False),
    ]
    assert folds.rebuilt(("points", "journal")).content(*TABLES) == folds.content(*TABLES)
    assert [row["value"] for row in read(folds).metrics] == [0.4, 0.5, 0.5, 0.5, 0.0, float("inf")]


def test_points_of_a_rejected_batch_are_not_on_the_model(folds: Folds) -> None:
    """A batch is all or nothing, its points on models too."""
    folds.given(RUN_BATCH_LOGGED, "run", RunBatchLogged([Param("p", "1")]))
    batch = RunBatchLogged([Param("p", "2")], [], list(POINTS))
    assert folds.given(RUN_BATCH_LOGGED, "run", batch) == "INVALID_PARAMETER_VALUE"
    assert measured(folds) == []


@pytest.mark.parametrize("lanes", [("journal", "points"), ("points", "journal")])
def test_a_purged_model_leaves_no_row(folds: Folds, lanes: Any) -> None:
    """Nor do points on it that are folded later; the run goes on naming its id. What can be used
    is not purged."""
    secret = LoggedModelTagsSet([ModelTag("secret", "secret")])
    folds.given(LOGGED_MODEL_TAGS_SET, "m-1", secret)
    measure(folds, *POINTS)
    assert folds.given(LOGGED_MODEL_PURGED, "m-1", LoggedModelPurged()) == "INVALID_PARAMETER_VALUE"
    folds.given(LOGGED_MODEL_DELETED, "m-1", LoggedModelDeleted())
    assert folds.given(LOGGED_MODEL_PURGED, "m-1", LoggedModelPurged()) is None
    measure(folds, POINTS[0])
    folds.scrub()
    rows = folds.content(*TABLES)
    assert [row[0] for row in rows["logged_model_metrics"]] == ["m-2"]
    assert rows["logged_models"] == rows["logged_model_params"] == rows["logged_model_tags"] == []
    assert folds.rebuilt(lanes).content(*TABLES) == rows
    assert b"secret" not in b"".join(event.data for event in folds.log.read(JOURNAL, 0, 100))


def test_a_purged_run_takes_what_it_measured_on_models_with_it(folds: Folds) -> None:
    """The model and what other runs measured on it stay."""
    folds.run("other")
    measure(folds, POINTS[0])
    measure(folds, POINTS[1], run_id="other")
    folds.given(RUN_DELETED, "run", RunDeleted())
    folds.given(RUN_PURGED, "run", RunPurged())
    folds.scrub()
    assert [row[4] for row in measured(folds)] == ["other"]
    assert folds.rebuilt(("points", "journal")).content(*TABLES) == folds.content(*TABLES)


def test_the_history_of_a_runs_models_is_a_list_in_its_tag(folds: Folds) -> None:
    """Each entry is added to what is there; a tag that holds something else is left alone."""
    for path in ("one", "two"):
        entry = RunModelLogged({"artifact_path": path})
        assert folds.given(RUN_MODEL_LOGGED, "run", entry) is None
    history = '[{"artifact_path": "one"}, {"artifact_path": "two"}]'
    assert folds.rows("tags") == [("run", HISTORY_TAG, history)]
    for text in ("junk", "{}"):
        tag = RunBatchLogged([], [RunTag(HISTORY_TAG, text)])
        folds.given(RUN_BATCH_LOGGED, "run", tag)
        verdict = folds.given(RUN_MODEL_LOGGED, "run", RunModelLogged({}))
        assert verdict == "INVALID_PARAMETER_VALUE"
        assert folds.rows("tags") == [("run", HISTORY_TAG, text)]
