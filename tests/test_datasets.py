"""Inputs and outputs of runs: what the folds keep, what a purge leaves, and the HTTP calls."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from events.datasets import (
    RUN_INPUTS_LOGGED,
    RUN_OUTPUTS_LOGGED,
    DatasetInput,
    InputTag,
    ModelOutput,
    RunInputsLogged,
    RunOutputsLogged,
)
from events.runs import RUN_DELETED, RUN_PURGED, RunDeleted, RunPurged
from projections.datasets import VIEW, DatasetSummary, inputs_of, search_datasets
from projections.logged_models import outputs_of
from tests.folds import Folds
from tests.servers import Server, send

TABLES = (*(table.name for table in VIEW.tables), "model_outputs")


def dataset(
    name: str = "iris", source: str = "first", *, context: str | None = "training", **more: Any
) -> DatasetInput:
    """A dataset of digest `d1`, used in a context."""
    tags = [] if context is None else [InputTag("mlflow.data.context", context)]
    return DatasetInput(name, "d1", "local", source, tags=tags, **more)


@pytest.fixture
def folds() -> Folds:
    """One experiment with two runs."""
    made = Folds()
    made.experiment()
    made.run("one")
    made.run("two")
    return made


def log_inputs(folds: Folds, run_id: str, *datasets: DatasetInput, models: Any = ()) -> str | None:
    """A run's inputs, as an event."""
    return folds.given(RUN_INPUTS_LOGGED, run_id, RunInputsLogged(list(datasets), list(models)))


def log_outputs(folds: Folds, run_id: str, *models: tuple[str, int]) -> str | None:
    """A run's outputs, as an event."""
    outputs = RunOutputsLogged([ModelOutput(*model) for model in models])
    return folds.given(RUN_OUTPUTS_LOGGED, run_id, outputs)


def purge(folds: Folds, run_id: str) -> None:
    """What gc does with a run."""
    folds.given(RUN_DELETED, run_id, RunDeleted())
    assert folds.given(RUN_PURGED, run_id, RunPurged()) is None
    folds.scrub()


def read_inputs(folds: Folds, run_id: str) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(name, source, tags) of a run's datasets."""
    with folds.engine.connect() as connection:
        found = inputs_of(connection, [run_id])[run_id]
    return [(one.name, one.source, one.tags) for one in found.datasets]


def test_a_run_has_a_dataset_once_and_the_first_tags_count(folds: Folds) -> None:
    """The same name and digest again, in one request or later, changes nothing."""
    log_inputs(folds, "one", dataset(), dataset(context="test"), dataset("wine", context=None))
    before = folds.content(*TABLES)
    log_inputs(folds, "one", dataset(source="other", context="test"))
    assert folds.content(*TABLES) == before
    training = [("mlflow.data.context", "training")]
    assert read_inputs(folds, "one") == [("iris", "first", training), ("wine", "first", [])]


def test_the_first_content_given_in_an_experiment_is_the_datasets(folds: Folds) -> None:
    """A second run that names the dataset with another source is answered with the first one's;
    in another experiment the same name and digest is another dataset."""
    folds.experiment("2")
    folds.run("elsewhere", "2")
    log_inputs(folds, "one", dataset())
    log_inputs(folds, "two", dataset(source="second", context="test"))
    log_inputs(folds, "elsewhere", dataset(source="third"))
    assert read_inputs(folds, "two") == [("iris", "first", [("mlflow.data.context", "test")])]
    assert read_inputs(folds, "elsewhere")[0][1] == "third"


def test_inputs_of_many_runs_come_in_the_order_they_were_logged(folds: Folds) -> None:
    """Datasets as logged, models by id, tags by key; a run without any, or unknown, has none."""
    tags = [InputTag("z", "1"), InputTag("a", "2")]
    log_inputs(folds, "two", dataset("zoo"), models=["m-2", "m-1"])
    log_inputs(folds, "two", DatasetInput("ant", "d", "http", "s", "schema", "profile", tags))
    log_inputs(folds, "two", models=["m-1"])
    with folds.engine.connect() as connection:
        found = inputs_of(connection, ["one", "two", "none"])
        assert inputs_of(connection, []) == {}
    assert [one.name for one in found["two"].datasets] == ["zoo", "ant"]
    assert found["two"].models == ["m-1", "m-2"]
    ant = found["two"].datasets[1]
    assert (ant.schema, ant.profile, ant.tags) == ("schema", "profile", [("a", "2"), ("z", "1")])
    assert found["one"] == found["none"]
    assert found["one"].datasets == []


def test_inputs_and_outputs_of_a_deleted_or_unknown_run_are_rejected(folds: Folds) -> None:
    """The events stay in the log, and leave no row."""
    folds.given(RUN_DELETED, "one", RunDeleted())
    before = folds.content(*TABLES)
    assert log_inputs(folds, "one", dataset()) == "INVALID_PARAMETER_VALUE"
    assert log_outputs(folds, "one", ("m-1", 0)) == "INVALID_PARAMETER_VALUE"
    assert log_inputs(folds, "unknown", dataset()) == "RESOURCE_DOES_NOT_EXIST"
    assert log_outputs(folds, "unknown", ("m-1", 0)) == "RESOURCE_DOES_NOT_EXIST"
    assert folds.content(*TABLES) == before


def test_a_model_is_an_output_at_one_step(folds: Folds) -> None:
    """The same again is accepted and changes nothing; another step is rejected, whole."""
    assert log_outputs(folds, "one", ("m-2", 7), ("m-1", -1)) is None
    assert log_outputs(folds, "one", ("m-2", 7)) is None
    assert log_outputs(folds, "one", ("m-3", 1), ("m-2", 8)) == "INVALID_PARAMETER_VALUE"
    with folds.engine.connect() as connection:
        assert outputs_of(connection, ["one", "two"]) == {
            "one": [("m-1", -1), ("m-2", 7)],
            "two": [],
        }


def test_summaries_name_each_context_of_a_dataset_once(folds: Folds) -> None:
    """As MLflow answers: deleted runs count, a dataset without a context has none."""
    log_inputs(folds, "one", dataset(), dataset("wine", context=None))
    log_inputs(folds, "two", dataset(context="eval"))
    folds.run("three")
    log_inputs(folds, "three", dataset())
    folds.given(RUN_DELETED, "two", RunDeleted())
    with folds.engine.connect() as connection:
        assert search_datasets(connection, ["1", "2"]) == [
            DatasetSummary("1", "iris", "d1", "training"),
            DatasetSummary("1", "iris", "d1", "eval"),
            DatasetSummary("1", "wine", "d1", None),
        ]
        assert search_datasets(connection, ["2"]) == []


def test_after_a_purge_a_dataset_has_the_content_of_the_next_run(folds: Folds) -> None:
    """What only the purged run said is in no row; views rebuilt from the scrubbed log are equal."""
    log_inputs(folds, "one", dataset(source="secret"), dataset("secret name"), models=["m-1"])
    log_outputs(folds, "one", ("m-9", 1))
    log_inputs(folds, "two", dataset(source="second", context="test"))
    folds.run("three")
    log_inputs(folds, "three", dataset(source="third"))
    purge(folds, "one")
    assert read_inputs(folds, "two")[0][1] == "second"
    assert "secret" not in str(folds.content(*TABLES))
    assert folds.rebuilt().content(*TABLES) == folds.content(*TABLES)
    purge(folds, "two")
    purge(folds, "three")
    assert all(rows == [] for rows in folds.content(*TABLES).values())
    assert folds.rebuilt().content(*TABLES) == folds.content(*TABLES)


def call(server: Server, path: str, body: Any) -> tuple[int, Any]:
    """POSTs JSON to a path below /api/2.0/mlflow/; the status and the parsed answer."""
    answer = send(
        server.url,
        "POST",
        f"/api/2.0/mlflow/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return answer.status, json.loads(answer.body)


def new_run(server: Server) -> tuple[str, str]:
    """(experiment id, run id) of a new run in a new experiment."""
    _, made = call(server, "experiments/create", {"name": uuid.uuid4().hex})
    experiment_id = made["experiment_id"]
    _, made = call(server, "runs/create", {"experiment_id": experiment_id, "start_time": 1})
    return experiment_id, made["run"]["info"]["run_id"]


def sent(**fields: Any) -> dict[str, Any]:
    """A dataset as a client sends it."""
    told = {"name": "iris", "digest": "d1", "source_type": "local", "source": "s", **fields}
    return {"dataset": {key: value for key, value in told.items() if value is not None}}


def test_runs_tell_their_inputs_and_outputs(runfold_server: Server) -> None:
    """runs/search and search-datasets answer at once with what was acknowledged, in MLflow's
    JSON: no empty schema, tags by key, models by id."""
    experiment_id, run_id = new_run(runfold_server)
    tags = [{"key": "mlflow.data.context", "value": "training"}, {"key": "a"}]
    inputs = [{**sent(schema="", profile="p"), "tags": tags}]
    models = [{"model_id": "m-2"}, {"model_id": "m-1"}]
    body = {"run_id": run_id, "datasets": inputs, "models": models}
    assert call(runfold_server, "runs/log-inputs", body) == (200, {})
    body = {"run_id": run_id, "models": [{"model_id": "m-3", "step": "7"}]}
    assert call(runfold_server, "runs/outputs", body) == (200, {})
    found = call(runfold_server, "runs/search", {"experiment_ids": [experiment_id]})[1]["runs"][0]
    iris = {"name": "iris", "digest": "d1", "source_type": "local", "source": "s", "profile": "p"}
    assert found["inputs"] == {
        "dataset_inputs": [{"tags": [{"key": "a", "value": ""}, tags[0]], "dataset": iris}],
        "model_inputs": [{"model_id": "m-1"}, {"model_id": "m-2"}],
    }
    assert found["outputs"] == {"model_outputs": [{"model_id": "m-3", "step": 7}]}
    summary = {"experiment_id": experiment_id, "name": "iris", "digest": "d1"}
    asked = {"experiment_ids": [experiment_id]}
    assert call(runfold_server, "experiments/search-datasets", asked) == (
        200,
        {"dataset_summaries": [{**summary, "context": "training"}]},
    )


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("runs/log-inputs", {"datasets": [sent(name=None)]}),
        ("runs/log-inputs", {"datasets": [sent(name="n" * 501)]}),
        ("runs/log-inputs", {"datasets": [sent(digest="d" * 37)]}),
        ("runs/log-inputs", {"datasets": [sent(source="s" * 65_536)]}),
        ("runs/log-inputs", {"datasets": [sent(schema="s" * 1_048_576)]}),
        ("runs/log-inputs", {"datasets": [sent(profile="p" * 16_777_216)]}),
        ("runs/log-inputs", {"datasets": [{**sent(), "tags": [{"key": "k" * 256}]}]}),
        ("runs/log-inputs", {"datasets": [{**sent(), "tags": [{"key": "k", "value": "v" * 501}]}]}),
        ("runs/log-inputs", {"datasets": [{**sent(), "tags": [{"key": "k"}, {"key": "k"}]}]}),
        ("runs/log-inputs", {"datasets": [{}]}),
        ("runs/log-inputs", {"datasets": [sent(name=f"{n}") for n in range(1_001)]}),
        ("runs/log-inputs", {"models": [{}]}),
        ("runs/outputs", {}),
        ("runs/outputs", {"models": [{"step": 1}]}),
        ("runs/outputs", {"models": [{"model_id": "m", "step": 1.5}]}),
        ("runs/outputs", {"models": [{"model_id": "m"}, {"model_id": "m"}]}),
    ],
)
def test_bad_inputs_and_outputs_are_refused_whole(
    runfold_server: Server, path: str, fields: dict[str, Any]
) -> None:
    """L-21: what is too long, missing or doubled is INVALID_PARAMETER_VALUE, and nothing of the
    request is kept."""
    experiment_id, run_id = new_run(runfold_server)
    if "datasets" in fields:
        fields = {"datasets": [sent(name="good"), *fields["datasets"]]}
    status, answer = call(runfold_server, path, {"run_id": run_id, **fields})
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    found = call(runfold_server, "runs/search", {"experiment_ids": [experiment_id]})[1]["runs"][0]
    assert (found["inputs"], found["outputs"]) == ({}, {})


def test_the_longest_dataset_that_is_allowed_is_kept(runfold_server: Server) -> None:
    """L-21: every text of a dataset at its limit."""
    experiment_id, run_id = new_run(runfold_server)
    longest = sent(
        name="n" * 500,
        digest="d" * 36,
        source="s" * 65_535,
        schema="é" * 1_048_575,
        profile="p" * 16_777_215,
    )
    body = {"run_id": run_id, "datasets": [longest]}
    assert call(runfold_server, "runs/log-inputs", body) == (200, {})
    found = call(runfold_server, "runs/search", {"experiment_ids": [experiment_id]})[1]["runs"][0]
    assert found["inputs"]["dataset_inputs"] == [longest]


@pytest.mark.parametrize("ids", [[], ["x"], [str(n) for n in range(21)]])
def test_search_datasets_takes_one_to_twenty_experiments(
    runfold_server: Server, ids: list[str]
) -> None:
    """L-85: none, more, or what can't be an id is refused; an unknown one has no datasets."""
    status, answer = call(runfold_server, "experiments/search-datasets", {"experiment_ids": ids})
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    unknown = {"experiment_ids": ["987654321"]}
    assert call(runfold_server, "experiments/search-datasets", unknown) == (200, {})
