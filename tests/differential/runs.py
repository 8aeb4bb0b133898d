"""Sequences over the endpoints of runs: lifecycle, params, tags, metrics, batches."""

from tests.differential.calls import (
    AJAX,
    READ_RUN,
    SETUP,
    Call,
    Case,
    Json,
    get,
    history,
    new_run,
    on_run,
    post,
    refused,
)


def log_metric(key: str, value: Json, timestamp: Json = 10, step: Json = 0, **more: Json) -> Call:
    body = {"run_id": "${run}", "key": key, "value": value, "timestamp": timestamp, "step": step}
    return post("runs/log-metric", {**body, **more})


def log_param(key: str, value: Json, **more: Json) -> Call:
    return post("runs/log-parameter", {"run_id": "${run}", "key": key, "value": value, **more})


def set_tag(key: str, value: Json, **more: Json) -> Call:
    return post("runs/set-tag", {"run_id": "${run}", "key": key, "value": value, **more})


def delete_tag(key: str) -> Call:
    return post("runs/delete-tag", {"run_id": "${run}", "key": key})


def batch(metrics: Json = None, params: Json = None, tags: Json = None, run: str = "run") -> Call:
    body: dict[str, Json] = {"run_id": f"${{{run}}}"}
    given = {"metrics": metrics, "params": params, "tags": tags}
    body.update({name: value for name, value in given.items() if value is not None})
    return post("runs/log-batch", body)


def point(key: str, value: Json, timestamp: Json = 10, step: Json = 0) -> Json:
    return {"key": key, "value": value, "timestamp": timestamp, "step": step}


def update(**fields: Json) -> Call:
    return post("runs/update", {"run_id": "${run}", **fields})


def delete(run: str = "run") -> Call:
    return post("runs/delete", {"run_id": f"${{{run}}}"})


def restore(run: str = "run") -> Call:
    return post("runs/restore", {"run_id": f"${{{run}}}"})


CREATE = Case(
    "runs-create-get",
    (
        *SETUP,
        READ_RUN,
        get(AJAX + "runs/get", {"run_id": "${run}"}),
        get("runs/get", {"run_uuid": "${run}"}),
        get("runs/get", {"run_id": "${run}", "run_uuid": "${run}"}),
        get("runs/get", {"run_id": "${nothing}"}),
        get("runs/get", {"run_id": "not a run id"}),
        get("runs/get", {"run_id": ""}),
        get("runs/get"),
        post(
            "runs/create",
            {
                "experiment_id": "${exp}",
                "user_id": "ada",
                "start_time": 5,
                "run_name": "named",
                "tags": [
                    {"key": "mlflow.user", "value": "ada"},
                    {"key": "mlflow.source.name", "value": "train.py"},
                    {"key": "mlflow.source.type", "value": "LOCAL"},
                    {"key": "mlflow.runName", "value": "named"},
                    {"key": "mlflow.parentRunId", "value": "${run}"},
                ],
            },
            save={"child": "run.info.run_id"},
        ),
        get("runs/get", {"run_id": "${child}"}),
        post(
            "runs/create",
            {"experiment_id": "${exp}", "start_time": 7},
            save={"r2": "run.info.run_id"},
        ),
        get("runs/get", {"run_id": "${r2}"}),
        post("runs/create", {"experiment_id": "${exp}"}, save={"r3": "run.info.run_id"}),
        post(
            "runs/create",
            {"experiment_id": "${exp}", "tags": [{"key": "mlflow.runName", "value": "by tag"}]},
            save={"r4": "run.info.run_id"},
        ),
        get("runs/get", {"run_id": "${r4}"}),
        post(
            "runs/create",
            {"experiment_id": "${exp}", "run_name": ""},
            save={"r5": "run.info.run_id"},
        ),
        post("runs/create", {"experiment_id": "${exp}", "start_time": "abc"}),
        post("runs/create", {"experiment_id": "${exp}", "tags": "no list"}).or_else(
            refused("wrong-type")
        ),
        post("runs/create", {"experiment_id": "${exp}", "run_name": 5}),
        post("runs/create", {"experiment_id": 5.5}),
    ),
)

UPDATE = on_run(
    "runs-update",
    update(status="FINISHED", end_time=2000),
    READ_RUN,
    update(status="RUNNING"),
    update(run_name="another name"),
    READ_RUN,
    update(run_name=""),
    update(end_time="3000"),
    update(),
    READ_RUN,
    post("runs/update", {"run_uuid": "${run}", "status": "FAILED"}),
    post("runs/update", {"status": "FAILED"}),
    post("runs/update", {"run_id": "${nothing}", "status": "FAILED"}),
    update(status="KILLED", end_time=4000, run_name="third"),
    update(end_time="soon"),
    update(run_name=7),
)

DELETE = on_run(
    "runs-delete-restore",
    log_metric("m", 1.0),
    delete(),
    READ_RUN,
    history("m"),
    delete(),
    restore(),
    READ_RUN,
    restore(),
    log_metric("m", 2.0, timestamp=11),
    post("runs/delete", {}),
    post("runs/restore", {}),
    delete("nothing"),
    restore("nothing"),
)

PARAMS = on_run(
    "runs-log-parameter",
    log_param("lr", "0.1"),
    log_param("lr", "0.1"),
    log_param("lr", "0.2"),
    log_param("a/b c", "ünï 日本 'quoted' \"double\""),
    log_param("empty", ""),
    post("runs/log-parameter", {"run_uuid": "${run}", "key": "by_uuid", "value": "1"}),
    post("runs/log-parameter", {"run_id": "${run}", "value": "1"}),
    post("runs/log-parameter", {"key": "k", "value": "1"}),
    post("runs/log-parameter", {"run_id": "${nothing}", "key": "k", "value": "1"}),
)

TAGS = on_run(
    "runs-tags",
    set_tag("a", "1"),
    set_tag("a", "2"),
    set_tag("b", ""),
    set_tag("mlflow.runName", "renamed by tag"),
    READ_RUN,
    set_tag("mlflow.note.content", "# Notes\nline"),
    post("runs/set-tag", {"run_uuid": "${run}", "key": "by_uuid", "value": "1"}),
    post("runs/set-tag", {"run_id": "${run}", "key": "no value"}),
    post("runs/set-tag", {"run_id": "${run}", "value": "1"}),
    post("runs/set-tag", {"key": "k", "value": "1"}),
    post("runs/set-tag", {"run_id": "${nothing}", "key": "k", "value": "1"}),
    set_tag("k", 5),
    set_tag("k", None),
    READ_RUN,
    delete_tag("a"),
    delete_tag("a"),
    delete_tag("never"),
    post("runs/delete-tag", {"run_id": "${run}"}),
    post("runs/delete-tag", {"key": "a"}),
    post("runs/delete-tag", {"run_id": "${nothing}", "key": "a"}),
    delete_tag("mlflow.runName"),
)

METRICS = on_run(
    "runs-log-metric",
    log_metric("loss", 0.5, 10, 0),
    log_metric("loss", 0.4, 20, 1),
    log_metric("loss", 0.3, 15, 1),
    log_metric("loss", 9.0, 5, -3),
    log_metric("acc", 1),
    log_metric("acc", 1e-300, 11),
    log_metric("acc", -1.7976931348623157e308, 12),
    log_metric("int", 9007199254740993),
    history("loss"),
    history("acc"),
    history("never"),
    get("metrics/get-history", {"run_uuid": "${run}", "metric_key": "loss"}),
    get("metrics/get-history", {"run_id": "${run}"}),
    get("metrics/get-history", {"metric_key": "loss"}),
    history("loss", run="nothing"),
    get(AJAX + "metrics/get-history", {"run_id": "${run}", "metric_key": "loss"}),
    post("runs/log-metric", {"run_uuid": "${run}", "key": "u", "value": 1, "timestamp": 1}),
    post("runs/log-metric", {"run_id": "${run}", "value": 1, "timestamp": 1}),
    post("runs/log-metric", {"run_id": "${run}", "key": "k", "timestamp": 1}),
    post("runs/log-metric", {"run_id": "${run}", "key": "k", "value": 1}),
    post("runs/log-metric", {"key": "k", "value": 1, "timestamp": 1}),
    post("runs/log-metric", {"run_id": "${nothing}", "key": "k", "value": 1, "timestamp": 1}),
)

BATCH = on_run(
    "runs-log-batch",
    batch(
        metrics=[point("m", 1.0, 1, 0), point("m", 2.0, 2, 1), point("n", 3.5)],
        params=[{"key": "p", "value": "1"}, {"key": "q", "value": ""}],
        tags=[{"key": "t", "value": "v"}, {"key": "mlflow.runName", "value": "from batch"}],
    ),
    READ_RUN,
    history("m"),
    batch(metrics=[point("m", 3.0, 3, 2)]),
    batch(params=[{"key": "r", "value": "2"}]),
    batch(tags=[{"key": "t", "value": "w"}]),
    batch(params=[{"key": "p", "value": "other"}], tags=[{"key": "t", "value": "lost"}]),
    READ_RUN,
    batch(metrics=[point("z", 1.0)], run="nothing"),
    post("runs/log-batch", {"metrics": []}),
    batch(metrics={"key": "m"}),
    batch(params="p"),
    batch(tags=5),
    batch(metrics=[5]),
    history("m"),
    history("n"),
)

TO_A_DELETED_RUN = on_run(
    "runs-write-to-deleted",
    log_param("p", "1"),
    delete(),
    log_metric("m", 1.0),
    log_param("p", "1"),
    log_param("q", "1"),
    set_tag("t", "1"),
    delete_tag("mlflow.runName"),
    batch(metrics=[point("m", 1.0)]),
    batch(params=[{"key": "q", "value": "1"}], tags=[{"key": "t", "value": "1"}]),
    batch(),
    update(status="FINISHED"),
    post("runs/log-inputs", {"run_id": "${run}", "datasets": []}),
    READ_RUN,
    restore(),
)

MODEL_JSON = (
    '{"artifact_path": "model", "flavors": {"sklearn": {"x": 1}},'
    ' "utc_time_created": "2024-01-01 00:00:00", "run_id": "r"}'
)

LOG_MODEL = on_run(
    "runs-log-model",
    post("runs/log-model", {"run_id": "${run}", "model_json": MODEL_JSON}),
    READ_RUN,
    post("runs/log-model", {"run_id": "${run}", "model_json": MODEL_JSON.replace("model", "m2")}),
    post("runs/log-model", {"run_id": "${run}", "model_json": "{"}),
    post("runs/log-model", {"run_id": "${run}", "model_json": '{"artifact_path": "x"}'}),
    post("runs/log-model", {"run_id": "${run}"}),
    post("runs/log-model", {"model_json": MODEL_JSON}),
    post("runs/log-model", {"run_id": "${nothing}", "model_json": MODEL_JSON}),
)

CHILDREN = Case(
    "runs-many",
    (
        *SETUP,
        new_run("second", 2000),
        new_run("third", 3000, tags=[{"key": "mlflow.parentRunId", "value": "${second}"}]),
        post("runs/search", {"experiment_ids": ["${exp}"]}),
        post(
            "runs/search",
            {"experiment_ids": ["${exp}"], "filter": "tags.mlflow.parentRunId = '${second}'"},
        ),
    ),
)

CASES = (
    CREATE,
    UPDATE,
    DELETE,
    PARAMS,
    TAGS,
    METRICS,
    BATCH,
    TO_A_DELETED_RUN,
    LOG_MODEL,
    CHILDREN,
)
