"""Logged models over HTTP: create, finalize, params, tags, files, search, and their refusals."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from projections.logged_models import HISTORY_TAG
from tests.servers import Answer, Server, send


class Api:
    """Calls of one experiment and run on a real server."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        made = self.ok("POST", "experiments/create", {"name": uuid.uuid4().hex})
        self.experiment_id = made["experiment_id"]
        asked = {"experiment_id": self.experiment_id, "start_time": 1}
        self.run_id = self.ok("POST", "runs/create", asked)["run"]["info"]["run_id"]

    def send(self, method: str, path: str, body: Any = None) -> Answer:
        """One call below /api/2.0/mlflow/, or of a whole path."""
        target = path if path.startswith("/") else f"/api/2.0/mlflow/{path}"
        data = None if body is None else json.dumps(body).encode()
        return send(self.url, method, target, data, {"Content-Type": "application/json"})

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a call that must succeed."""
        answer = self.send(method, path, body)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def refusal(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """The status and error code of a call that must fail."""
        answer = self.send(method, path, body)
        return answer.status, json.loads(answer.body)["error_code"]

    def model(self, **fields: Any) -> str:
        """The id of a new model."""
        asked = {"experiment_id": self.experiment_id, **fields}
        return str(self.ok("POST", "logged-models", asked)["model"]["info"]["model_id"])


@pytest.fixture
def api(runfold_server: Server) -> Api:
    """A new experiment with a run."""
    return Api(runfold_server)


IPV = (400, "INVALID_PARAMETER_VALUE")
RDNE = (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_model_is_answered_as_mlflow_does(api: Api) -> None:
    """All fields of a model with everything on it; what is empty is left out."""
    model_id = api.model(
        name="forest",
        model_type="sklearn",
        source_run_id=api.run_id,
        params=[{"key": "z", "value": "1"}, {"key": "a"}],
        tags=[{"key": "t", "value": "é"}],
    )
    point = {"run_id": api.run_id, "timestamp": 5, "step": 3, "model_id": model_id}
    on = {"dataset_name": "iris", "dataset_digest": "d1"}
    api.ok("POST", "runs/log-metric", {**point, "key": "loss", "value": "NaN", **on})
    batch = {"run_id": api.run_id, "params": [{"key": "p", "value": "1"}]}
    metric = {"key": "acc", "value": "-Infinity", "timestamp": 5, "model_id": model_id}
    api.ok("POST", "runs/log-batch", {**batch, "metrics": [metric]})
    finalize = {"model_id": model_id, "status": "LOGGED_MODEL_READY"}
    finalized = api.ok("PATCH", f"logged-models/{model_id}", finalize)["model"]
    assert finalized == api.ok("GET", f"logged-models/{model_id}")["model"]
    times = [finalized["info"].pop(f"{name}_timestamp_ms") for name in ("creation", "last_updated")]
    assert times == sorted(times)
    assert finalized == {
        "info": {
            "model_id": model_id,
            "experiment_id": api.experiment_id,
            "name": "forest",
            "artifact_uri": f"mlflow-artifacts:/{api.experiment_id}/models/{model_id}/artifacts",
            "status": "LOGGED_MODEL_READY",
            "model_type": "sklearn",
            "source_run_id": api.run_id,
            "tags": [{"key": "t", "value": "é"}],
        },
        "data": {
            "params": [{"key": "a", "value": ""}, {"key": "z", "value": "1"}],
            "metrics": [
                {
                    "key": "acc",
                    "value": -1.7976931348623157e308,
                    "timestamp": 5,
                    "step": 0,
                    "model_id": model_id,
                    "run_id": api.run_id,
                },
                {
                    "key": "loss",
                    "value": "NaN",
                    "timestamp": 5,
                    "step": 3,
                    **on,
                    "model_id": model_id,
                    "run_id": api.run_id,
                },
            ],
        },
    }


def test_a_model_without_a_name_gets_one(api: Api) -> None:
    """L-17: an empty name counts as none."""
    for fields in ({}, {"name": ""}):
        model = api.ok("GET", f"logged-models/{api.model(**fields)}")["model"]
        assert model["info"]["name"].count("-") == 2
        assert model["info"]["model_type"] == model["info"]["source_run_id"] == ""
        assert model["data"] == {}


@pytest.mark.parametrize(
    "fields",
    [
        *({"name": f"a{mark}b"} for mark in "/:.%\"'\n\0"),
        {"name": "n" * 501},
        {"experiment_id": "abc"},
        {"experiment_id": ""},
        {"params": [{"key": "k"}, {"key": "k"}]},
        {"tags": [{"key": "k"}, {"key": "k"}]},
        {"tags": [{"value": "v"}]},
        {"params": [{"key": "k" * 256}]},
        {"model_type": "t" * 501},
    ],
)
def test_a_bad_model_is_refused(api: Api, fields: dict[str, Any]) -> None:
    """L-17 and the like: INVALID_PARAMETER_VALUE, and there is no model."""
    asked = {"experiment_id": api.experiment_id, **fields}
    assert api.refusal("POST", "logged-models", asked) == IPV
    search = {"experiment_ids": [api.experiment_id]}
    assert api.ok("POST", "logged-models/search", search) == {}


def test_a_model_of_an_unknown_or_deleted_experiment_is_refused(api: Api) -> None:
    """RESOURCE_DOES_NOT_EXIST and INVALID_PARAMETER_VALUE."""
    assert api.refusal("POST", "logged-models", {"experiment_id": "987654321"}) == RDNE
    api.ok("POST", "experiments/delete", {"experiment_id": api.experiment_id})
    asked = {"experiment_id": api.experiment_id}
    assert api.refusal("POST", "logged-models", asked) == IPV


def test_a_deleted_model_is_hidden_but_can_be_written_to(api: Api) -> None:
    """As in MLflow; it is read only with allow_deleted=true, and deleting twice is fine."""
    model_id = api.model()
    path = f"logged-models/{model_id}"
    for _ in range(2):
        assert api.ok("DELETE", path) == {}
    assert api.refusal("GET", path) == api.refusal("GET", f"{path}?allow_deleted=yes") == RDNE
    assert api.refusal("GET", f"{path}/artifacts/directories") == RDNE
    assert api.ok("PATCH", f"{path}/tags", {"tags": [{"key": "a", "value": "1"}]}) == {}
    params = {"model_id": model_id, "params": [{"key": "a", "value": "1"}]}
    assert api.ok("POST", f"{path}/params", params) == {}
    found = api.ok("GET", f"{path}?allow_deleted=True")["model"]
    assert found["info"]["tags"] == found["data"]["params"] == [{"key": "a", "value": "1"}]


@pytest.mark.parametrize("status", ["READY", "LOGGED_MODEL_STATUS_UNSPECIFIED", 0, 99, None])
def test_a_status_that_is_none_is_refused(api: Api, status: Any) -> None:
    """L-76: MLflow would store it as an unspecified one."""
    model_id = api.model()
    body = {"model_id": model_id, "status": status}
    assert api.refusal("PATCH", f"logged-models/{model_id}", body) == IPV


def test_path_and_body_name_the_same_model(api: Api) -> None:
    """A body that names another is refused; MLflow would change that other one."""
    one, other = api.model(), api.model()
    finalize = {"model_id": other, "status": 2}
    assert api.refusal("PATCH", f"logged-models/{one}", finalize) == IPV
    assert api.refusal("POST", f"logged-models/{one}/params", {"model_id": other}) == IPV
    assert api.refusal("POST", f"logged-models/{one}/params", {}) == IPV
    unknown = {"model_id": "unknown", "status": 2}
    assert api.refusal("PATCH", "logged-models/unknown", unknown) == RDNE


def test_params_are_set_once_and_tags_are_removed_by_key(api: Api) -> None:
    """The same param again is fine, another value is refused; a key may have a slash."""
    path = f"logged-models/{(model_id := api.model())}"

    def params(*values: str) -> dict[str, Any]:
        return {"model_id": model_id, "params": [{"key": "p", "value": v} for v in values]}

    assert api.ok("POST", f"{path}/params", params("1")) == {}
    assert api.ok("POST", f"{path}/params", params("1")) == {}
    assert api.refusal("POST", f"{path}/params", params("2")) == IPV
    assert api.refusal("POST", f"{path}/params", params("1", "1")) == IPV
    tags = [{"key": "a/b c", "value": "1"}, {"key": "a/b c", "value": "2"}]
    assert api.ok("PATCH", f"{path}/tags", {"tags": tags}) == {}
    assert api.ok("GET", path)["model"]["info"]["tags"] == tags[1:]
    assert api.ok("DELETE", f"{path}/tags/a%2Fb%20c") == {}
    assert api.refusal("DELETE", f"{path}/tags/a%2Fb%20c") == RDNE


def test_files_of_a_model_are_listed_and_sent(api: Api) -> None:
    """The folder of the model below the proxy; a path out of it is refused."""
    path = f"logged-models/{(model_id := api.model())}"
    root = f"{api.experiment_id}/models/{model_id}/artifacts"
    proxy = f"/api/2.0/mlflow-artifacts/artifacts/{root}"
    for name in ("MLmodel", "data/model.pkl"):
        assert send(api.url, "PUT", f"{proxy}/{name}", name.encode()).status == 200
    listing = api.ok("GET", f"{path}/artifacts/directories")
    assert listing == {
        "root_uri": f"mlflow-artifacts:/{root}",
        "files": [
            {"path": "MLmodel", "is_dir": False, "file_size": 7},
            {"path": "data", "is_dir": True},
        ],
    }
    inside = api.ok("GET", f"{path}/artifacts/directories?artifact_directory_path=data")
    assert inside["files"] == [{"path": "data/model.pkl", "is_dir": False, "file_size": 14}]
    file = f"/ajax-api/2.0/mlflow/{path}/artifacts/files"
    assert api.send("GET", f"{file}?artifact_file_path=data/model.pkl").body == b"data/model.pkl"
    assert api.refusal("GET", f"{file}?artifact_file_path=none") == RDNE
    assert api.refusal("GET", f"{file}?artifact_file_path=../x") == IPV
    assert api.refusal("GET", file) == (400, "BAD_REQUEST")
    above = f"{path}/artifacts/directories?artifact_directory_path=../.."
    assert api.refusal("GET", above) == IPV


def test_points_on_a_model_that_is_not_there_are_refused(api: Api) -> None:
    """And those that name half a dataset; nothing of their batch is kept."""
    point = {"key": "loss", "value": 1, "timestamp": 1}
    bad = {**point, "model_id": "m-none"}
    assert api.refusal("POST", "runs/log-metric", {"run_id": api.run_id, **bad}) == RDNE
    batch = {"run_id": api.run_id, "metrics": [point, bad], "tags": [{"key": "t", "value": "1"}]}
    assert api.refusal("POST", "runs/log-batch", batch) == RDNE
    half = {"run_id": api.run_id, **point, "dataset_name": "iris"}
    assert api.refusal("POST", "runs/log-metric", half) == IPV
    run = api.ok("GET", f"runs/get?run_id={api.run_id}")["run"]
    assert [tag["key"] for tag in run["data"]["tags"]] == ["mlflow.runName"]
    assert "metrics" not in run["data"]


def test_an_older_clients_models_are_listed_in_the_runs_tag(api: Api) -> None:
    """runs/log-model keeps what MLflow keeps: no configs of flavors, no fields it does not know."""
    described = {
        "run_id": api.run_id,
        "artifact_path": "model",
        "utc_time_created": "2026-01-02 03:04:05.678",
        "flavors": {"python_function": {"loader_module": "m", "config": {"a": 1}}, "x": 5},
        "mlflow_version": "2.0",
    }
    for _ in range(2):
        asked = {"run_id": api.run_id, "model_json": json.dumps(described)}
        assert api.ok("POST", "runs/log-model", asked) == {}
    run = api.ok("GET", f"runs/get?run_id={api.run_id}")["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    entry = {
        "run_id": api.run_id,
        "artifact_path": "model",
        "utc_time_created": "2026-01-02 03:04:05.678",
        "model_uuid": None,
        "flavors": {"python_function": {"loader_module": "m"}, "x": 5},
    }
    assert tags[HISTORY_TAG] == json.dumps([entry, entry])


def test_of_models_told_at_once_none_is_lost(api: Api) -> None:
    """Sixteen clients add to a run's history of models at the same time: all are in it."""
    paths = [f"model-{n}" for n in range(16)]

    def tell(path: str) -> int:
        described = {"run_id": "", "artifact_path": path, "utc_time_created": "x", "flavors": {}}
        asked = {"run_id": api.run_id, "model_json": json.dumps(described)}
        return api.send("POST", "runs/log-model", asked).status

    with ThreadPoolExecutor(len(paths)) as threads:
        assert set(threads.map(tell, paths)) == {200}
    run = api.ok("GET", f"runs/get?run_id={api.run_id}")["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert sorted(entry["artifact_path"] for entry in json.loads(tags[HISTORY_TAG])) == sorted(
        paths
    )


def test_of_clients_that_race_to_set_a_param_one_wins(api: Api) -> None:
    """One 200; the others are told that params don't change. The same for an output's step."""
    path = f"logged-models/{(model_id := api.model())}/params"

    def set_param(value: int) -> int:
        params = [{"key": "p", "value": f"{value}"}]
        return api.send("POST", path, {"model_id": model_id, "params": params}).status

    def set_step(step: int) -> int:
        models = [{"model_id": model_id, "step": step}]
        return api.send("POST", "runs/outputs", {"run_id": api.run_id, "models": models}).status

    with ThreadPoolExecutor(16) as threads:
        for race in (set_param, set_step):
            assert sorted(threads.map(race, range(16))) == [200] + [400] * 15


@pytest.mark.parametrize(
    "model_json",
    ["", "nope", "[]", "5", "{}", '{"run_id": "", "artifact_path": "", "utc_time_created": ""}'],
)
def test_a_model_that_is_described_badly_is_refused(api: Api, model_json: str) -> None:
    """With INVALID_PARAMETER_VALUE, also where MLflow fails."""
    asked = {"run_id": api.run_id, "model_json": model_json}
    assert api.refusal("POST", "runs/log-model", asked) == IPV
    flavors = '{"run_id": "", "artifact_path": "", "utc_time_created": "", "flavors": [1]}'
    asked = {"run_id": api.run_id, "model_json": flavors}
    assert api.refusal("POST", "runs/log-model", asked) == IPV


def names(found: Any) -> list[str]:
    """The names of the models of a search."""
    return [model["info"]["name"] for model in found.get("models", [])]


def test_pages_of_a_search_go_on_where_the_last_ended(api: Api) -> None:
    """L-89: also while models are added and deleted, and however the same search is spelled; a
    token of another search is refused."""
    ids = {name: api.model(name=name) for name in "bdfh"}
    order = [{"field_name": "name", "ascending": True}]
    search = {"experiment_ids": [api.experiment_id], "max_results": 2, "order_by": order}
    first = api.ok("POST", "logged-models/search", {**search, "filter": ""})
    assert names(first) == ["b", "d"]
    for name in "ace":
        api.model(name=name)
    api.ok("DELETE", f"logged-models/{ids['b']}")
    token = {"page_token": first["next_page_token"]}
    again = {**search, "order_by": [{"field_name": "name"}], "max_results": 3, **token}
    second = api.ok("POST", "logged-models/search", again)
    assert names(second) == ["e", "f", "h"]
    assert "next_page_token" not in second
    others: tuple[dict[str, Any], ...] = (
        {"filter": "name = 'd'"},
        {"order_by": []},
        {"page_token": "e30="},
    )
    for other in others:
        asked = {**search, **token, **other}
        assert api.refusal("POST", "logged-models/search", asked) == IPV


def test_a_search_finds_by_what_was_measured_on_a_dataset(api: Api) -> None:
    """The filter's metrics count on the named datasets alone; models without a value come last."""
    one, two, _ = (api.model(name=name) for name in ("one", "two", "three"))
    for model_id, dataset, value in ((one, "iris", 1), (one, "wine", 9), (two, "iris", 5)):
        point = {"run_id": api.run_id, "key": "acc", "value": value, "timestamp": 1}
        on = {"dataset_name": dataset, "dataset_digest": "d1", "model_id": model_id}
        api.ok("POST", "runs/log-metric", {**point, **on})

    def search(**fields: Any) -> list[str]:
        asked = {"experiment_ids": [api.experiment_id], **fields}
        return names(api.ok("POST", "logged-models/search", asked))

    iris = {"datasets": [{"dataset_name": "iris"}]}
    assert search(filter="metrics.acc > 4", **iris) == ["two"]
    assert search(filter="metrics.acc > 4") == ["two", "one"]
    assert search(datasets=[{"dataset_name": "wine", "dataset_digest": "d1"}]) == ["one"]
    assert search(datasets=[{"dataset_name": "wine", "dataset_digest": "d2"}]) == []
    by_acc = {"field_name": "metrics.acc", "ascending": True, "dataset_name": "iris"}
    assert search(order_by=[by_acc]) == ["one", "two", "three"]
    assert search(order_by=[{**by_acc, "ascending": False}]) == ["two", "one", "three"]
    assert search(filter="status = 'PENDING' AND name LIKE 't%'") == ["three", "two"]


@pytest.mark.parametrize(
    "fields",
    [
        {"experiment_ids": None},
        {"experiment_ids": ["abc"]},
        {"experiment_ids": "1"},
        {"max_results": 0},
        {"max_results": -1},
        {"max_results": 1_001},
        {"filter": "nothing = 'x'"},
        {"filter": "metrics.acc > 'x'"},
        {"filter": "name = 'a' OR name = 'b'"},
        {"datasets": [{"dataset_digest": "d1"}]},
        {"order_by": [{"field_name": "params.p"}]},
        {"order_by": [{"ascending": True}]},
    ],
)
def test_a_bad_search_is_refused(api: Api, fields: dict[str, Any]) -> None:
    """L-88 and the filter's rules: INVALID_PARAMETER_VALUE."""
    asked = {"experiment_ids": [api.experiment_id], **fields}
    assert api.refusal("POST", "logged-models/search", asked) == IPV
