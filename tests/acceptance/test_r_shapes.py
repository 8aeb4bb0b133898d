"""The requests that MLflow's R client sends, by hand: R itself is not part of the test machine.

What marks them: every number is sent as text (the client turns each value of a body into a
string), `run_uuid` goes beside `run_id` in bodies and queries, tables become lists of objects,
a table that was not given becomes `[]`, and the client's headers are those of R's httr.
"""

import uuid

from tests.differential.calls import Call, Json, get, post
from tests.differential.play import compare, play
from tests.differential.runs import MODEL_JSON
from tests.servers import Server

HEADERS = {
    "User-Agent": "mlflow-r-client/2.17.2",
    "Accept": "application/json, text/xml, application/xml, */*",
    "Accept-Encoding": "deflate, gzip, br",
}

RUN: dict[str, Json] = {"run_uuid": "${run}", "run_id": "${run}"}
EXPERIMENT: dict[str, Json] = {"experiment_id": "${exp}"}


def r_post(path: str, body: Json, **save: str) -> Call:
    return post(path, body, save=save, headers={**HEADERS, "Content-Type": "application/json"})


def r_get(path: str, query: dict[str, object]) -> Call:
    return get(path, query, headers=HEADERS)


def metric(key: str, value: str, timestamp: str, step: str) -> Call:
    body = {**RUN, "key": key, "value": value, "timestamp": timestamp, "step": step}
    return r_post("runs/log-metric", body)


def row(key: str, value: str, step: str, timestamp: str) -> Json:
    return {"key": key, "value": value, "step": step, "timestamp": timestamp}


CALLS: tuple[Call, ...] = (
    r_post("experiments/create", {"name": "${unique}"}, exp="experiment_id"),
    r_get("experiments/get", EXPERIMENT),
    r_get("experiments/get-by-name", {"experiment_name": "${unique}"}),
    r_post("experiments/set-experiment-tag", {**EXPERIMENT, "key": "team", "value": "vision"}),
    r_post("experiments/update", {**EXPERIMENT, "new_name": "${unique}-renamed"}),
    r_post(
        "experiments/search",
        {
            "filter": "name LIKE '${unique}%'",
            "view_type": "ACTIVE_ONLY",
            "max_results": "1000",
            "order_by": [],
        },
    ),
    r_post(
        "runs/create",
        {
            **EXPERIMENT,
            "user_id": "unknown",
            "start_time": "1500000000123",
            "tags": [
                {"key": "mlflow.source.name", "value": "train.R"},
                {"key": "mlflow.user", "value": "ada"},
            ],
        },
        run="run.info.run_uuid",
    ),
    r_get("runs/get", RUN),
    metric("rmse", "0.25", "1500000000200", "0"),
    metric("rmse", "1e-04", "1500000000300", "1"),
    metric("nan", "NaN", "1", "0"),
    metric("inf", "Infinity", "1", "0"),
    metric("ninf", "-Infinity", "1", "0"),
    metric("whole", "3", "1500000000400", "-2"),
    r_post("runs/log-parameter", {**RUN, "key": "alpha", "value": "0.5"}),
    r_post("runs/set-tag", {**RUN, "key": "kind", "value": "R"}),
    r_post("runs/set-tag", {**RUN, "key": "gone", "value": "soon"}),
    r_post("runs/delete-tag", {"run_id": "${run}", "key": "gone"}),
    r_post(
        "runs/log-batch",
        {
            "run_id": "${run}",
            "metrics": [
                row("b", "0.5", "0", "1500000000000"),
                row("b", "NaN", "1", "1500000000001"),
            ],
            "params": [{"key": "p1", "value": "a"}, {"key": "p2", "value": "b"}],
            "tags": [{"key": "t1", "value": "x"}],
        },
    ),
    r_post(
        "runs/log-batch", {"run_id": "${run}", "metrics": [], "tags": [{"key": "t", "value": "y"}]}
    ),
    r_get("metrics/get-history", {**RUN, "metric_key": "rmse"}),
    r_get("metrics/get-history", {**RUN, "metric_key": "b"}),
    r_post("runs/log-model", {"run_id": "${run}", "model_json": MODEL_JSON}),
    r_get("artifacts/list", RUN),
    r_get("artifacts/list", {**RUN, "path": "model"}),
    r_post("runs/update", {**RUN, "status": "FINISHED", "end_time": "1500000009000"}),
    r_get("runs/get", RUN),
    r_post(
        "runs/search",
        {
            "experiment_ids": ["${exp}"],
            "filter": "params.alpha = '0.5'",
            "run_view_type": "ACTIVE_ONLY",
            "order_by": ["metrics.rmse DESC"],
        },
    ),
    r_post("runs/search", {"experiment_ids": ["${exp}"], "run_view_type": "ALL", "order_by": []}),
    r_post("runs/delete", {"run_id": "${run}"}),
    r_post("runs/search", {"experiment_ids": ["${exp}"], "run_view_type": "DELETED_ONLY"}),
    r_post("runs/restore", {"run_id": "${run}"}),
    r_post("experiments/delete", EXPERIMENT),
    r_get("experiments/get", EXPERIMENT),
    r_post("experiments/restore", EXPERIMENT),
    r_get("runs/get", RUN),
)


def test_the_r_client_is_answered(runfold_server: Server) -> None:
    """Every request of an R session succeeds."""
    seen = play(runfold_server.url, CALLS, f"r-{uuid.uuid4().hex}")
    failed = [
        f"{call.describe()}: {answer.show()}"
        for call, answer in zip(CALLS, seen, strict=True)
        if answer.status != 200
    ]
    assert not failed, "\n".join(failed)
    run = seen[-1].body["run"]
    assert run["info"]["start_time"] == 1500000000123
    assert run["info"]["end_time"] == 1500000009000
    latest = {point["key"]: point["value"] for point in run["data"]["metrics"]}
    assert latest["rmse"] == 1e-4
    assert latest["nan"] == latest["b"] == "NaN"


def test_and_as_mlflow_answers_it(mlflow_server: Server, runfold_server: Server) -> None:
    """The answers are MLflow's, value for value."""
    unique = f"r-{uuid.uuid4().hex}"
    theirs = play(mlflow_server.url, CALLS, unique)
    ours = play(runfold_server.url, CALLS, unique)
    assert not compare(CALLS, theirs, ours)
