"""Names, keys and lengths: rows L-01 to L-23 of the list of limits."""

import zlib

from tests.differential.calls import (
    NEW_EXPERIMENT,
    SETUP,
    Call,
    Case,
    Json,
    get,
    on_run,
    post,
    refused,
)
from tests.differential.experiments import READ as READ_EXPERIMENT
from tests.differential.experiments import set_tag as set_experiment_tag
from tests.differential.logged_models import create as create_model
from tests.differential.metrics import dataset, log_inputs
from tests.differential.runs import batch, log_metric, log_param, point, set_tag

GOOD_KEYS = ("é", "日本", "a b", "a:b", "a/b", "_", "-", ".a", "A.b-c_d/e f:g", "1")
BAD_KEYS = ("a;b", "a'b", 'a"b', "a%b", "a@b", "a#b", "a*b", "a(b", "a\\b", "a\nb", "a?b", "a=b")
UNSAFE_KEYS = (".", "..", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "/")


def everywhere(key: str) -> tuple[Call, ...]:
    """The key as that of a metric, a param and a tag, alone and in a batch."""
    return (
        log_metric(key, 1.0),
        log_param(key, "v"),
        set_tag(key, "v"),
        batch(metrics=[point(key, 2.0)]),
        batch(params=[{"key": key, "value": "v"}]),
        batch(tags=[{"key": key, "value": "v"}]),
    )


def create_run(**fields: Json) -> Call:
    return post(
        "runs/create",
        {"experiment_id": "${exp}", "start_time": 7, **fields},
        save={"new": "run.info.run_id"},
    )


def create_experiment(name: Json, **fields: Json) -> Call:
    return post("experiments/create", {"name": name, **fields}, save={"made": "experiment_id"})


READ_NEW = get("runs/get", {"run_id": "${new}"})

KEYS = (
    on_run("L-01-good-keys", *(call for key in GOOD_KEYS for call in everywhere(key))),
    on_run("L-01-bad-keys", *(call for key in BAD_KEYS for call in everywhere(key))),
    on_run(
        "L-01-nul-in-key",
        *everywhere("a\0b"),
        set_experiment_tag("a;b", "v"),
        set_experiment_tag("日 本", "v"),
        READ_EXPERIMENT,
    ),
    Case(
        "L-02-newline-at-the-end",
        (*SETUP, *(call.or_else(refused("L-02")) for call in everywhere("a\n"))),
    ),
    on_run("L-03-path-unsafe", *(call for key in UNSAFE_KEYS for call in everywhere(key))),
    on_run(
        "L-04-empty-key",
        *everywhere(""),
        log_metric(None, 1.0),  # type: ignore[arg-type]
        log_param(None, "v"),  # type: ignore[arg-type]
        set_tag(None, "v"),  # type: ignore[arg-type]
        set_experiment_tag("", "v"),
    ),
    on_run(
        "L-05-key-length",
        *everywhere("k" * 250),
        *everywhere("k" * 251),
        *everywhere("é" * 250),
        set_experiment_tag("k" * 250, "v"),
        set_experiment_tag("k" * 251, "v"),
        READ_EXPERIMENT,
    ),
)

VALUES = (
    on_run(
        "L-06-param-value",
        log_param("fits", "v" * 6000),
        log_param("cut", "v" * 6001),
        log_param("cut", "v" * 7000),
        log_param("cut", "v" * 6000),
        log_param("cut", "w" * 6001),
        log_param("wide", "é" * 6001),
        batch(params=[{"key": "in_batch", "value": "v" * 6001}]),
    ),
    on_run(
        "L-07-run-tag-value",
        set_tag("fits", "v" * 8000),
        set_tag("cut", "v" * 8001),
        batch(tags=[{"key": "in_batch", "value": "v" * 8001}]),
    ),
    Case(
        "L-08-tags-of-runs-create",
        (
            *SETUP,
            create_run(tags=[{"key": "../x", "value": "v"}]).or_else(refused("L-08")),
            create_run(tags=[{"key": "k" * 251, "value": "v"}]).or_else(refused("L-08")),
        ),
    ),
    Case(
        "L-09-experiment-tag-value",
        (
            NEW_EXPERIMENT,
            set_experiment_tag("fits", "v" * 5000),
            set_experiment_tag("fits too", "v" * 20000),
            set_experiment_tag("over", "v" * 20001),
            READ_EXPERIMENT,
        ),
    ),
)

NAMES = (
    Case(
        "L-12-experiment-name",
        (
            create_experiment("${unique}" + "n" * 200),
            create_experiment(""),
            create_experiment("n" * 501),
            create_experiment("${unique} 🚀 émoji"),
            get("experiments/get", {"experiment_id": "${made}"}),
            create_experiment("${unique}a\nb").or_else(refused("L-12")),
            create_experiment("${unique}a\0b").or_else(refused("L-12")),
            create_experiment(None),
        ),
    ),
    Case(
        "L-13-run-name",
        (
            *SETUP,
            create_run(run_name="n" * 251),
            READ_NEW,
            create_run(run_name="n" * 5000),
            READ_NEW,
            create_run(run_name="n" * 5001).or_else(refused("L-13")),
        ),
    ),
    Case(
        "L-14-run-name-and-tag",
        (
            *SETUP,
            create_run(run_name="a", tags=[{"key": "mlflow.runName", "value": "b"}]),
            create_run(run_name="a", tags=[{"key": "mlflow.runName", "value": "a"}]),
            READ_NEW,
            create_run(tags=[{"key": "mlflow.runName", "value": "b"}]),
            READ_NEW,
            create_run(),
            READ_NEW,
            create_run(run_name=""),
        ),
    ),
    Case(
        "L-17-logged-model-name",
        (
            *SETUP,
            *(create_model(save="x", name=f"a{bad}b") for bad in "/:.%\"'"),
            create_model(name=""),
            create_model(name="fine name-1_2"),
        ),
    ),
    on_run(
        "L-18-run-id",
        *(
            post("runs/log-batch", {"run_id": bad, "params": [{"key": "a", "value": "b"}]})
            for bad in ("not a run id", "a/b", "../x", "-a", "a" * 257, "a" * 256, "é")
        ),
        *(
            post("runs/log-inputs", {"run_id": bad, "datasets": [dataset("n", "d")]})
            for bad in ("not a run id", "-a", "a" * 257, "unknown")
        ),
        post("runs/log-metric", {"run_id": "a/b", "key": "m", "value": 1, "timestamp": 1}),
        post("runs/log-parameter", {"run_id": "../x", "key": "m", "value": "1"}),
        post("runs/set-tag", {"run_id": "é", "key": "m", "value": "1"}),
        post("runs/delete", {"run_id": "a/b"}),
        get("runs/get", {"run_id": "a/b"}),
        get("metrics/get-history", {"run_id": "a/b", "metric_key": "m"}),
    ),
    Case(
        "L-19-experiment-id",
        (
            get("experiments/get", {"experiment_id": "abc"}),
            get("experiments/get", {"experiment_id": "987654"}),
            get("experiments/get", {"experiment_id": "-1"}),
            get("experiments/get", {"experiment_id": "1.5"}),
            get("experiments/get", {"experiment_id": "9" * 30}).or_else(
                refused("L-19", "RESOURCE_DOES_NOT_EXIST", 404)
            ),
            post("experiments/delete", {"experiment_id": "abc"}),
            post("experiments/restore", {"experiment_id": "abc"}),
            post("experiments/update", {"experiment_id": "abc", "new_name": "x"}),
            post("runs/create", {"experiment_id": "abc"}),
            post("runs/create", {"experiment_id": "9" * 30}).or_else(
                refused("L-19", "RESOURCE_DOES_NOT_EXIST", 404)
            ),
            post("runs/search", {"experiment_ids": ["abc"]}),
        ),
    ),
)


def at(location: str) -> Call:
    return create_experiment(
        "${unique}" + str(zlib.crc32(location.encode())), artifact_location=location
    )


LOCATIONS = (
    Case(
        "L-20-artifact-location",
        (
            at("mlflow-artifacts:/" + "x" * 2100),
            at("s3://bucket/path#fragment"),
            at("s3://bucket/path;param").or_else(refused("L-20")),
            at("s3://bucket/path?a=../b"),
            at("runs:/abc/model"),
            at("mlflow-artifacts:/kept/elsewhere"),
            get("experiments/get", {"experiment_id": "${made}"}),
            at("file:///etc").or_else(refused("L-20")),
        ),
    ),
)

DATASETS = (
    on_run(
        "L-21-dataset-lengths",
        log_inputs(dataset("n" * 500, "d" * 36, source="s" * 65535, schema="c" * 65536)),
        log_inputs(dataset("n" * 501, "d")),
        log_inputs(dataset("n", "d" * 37)),
        log_inputs(dataset("n", "d", source="s" * 65536)),
        log_inputs(dataset("n", "d", schema="c" * 1048576)),
        log_inputs(dataset("n", "d", profile="p" * 16777216)),
        log_inputs(
            {"tags": [{"key": "k" * 256, "value": "v"}], "dataset": dataset("n", "d")["dataset"]}
        ),
        log_inputs(
            {"tags": [{"key": "k", "value": "v" * 501}], "dataset": dataset("n", "d")["dataset"]}
        ),
        log_inputs(
            {
                "tags": [{"key": "k" * 255, "value": "v" * 500}],
                "dataset": dataset("n2", "d")["dataset"],
            }
        ),
    ),
    Case(
        "L-21-dataset-missing-name",
        (
            *SETUP,
            log_inputs({"dataset": {"digest": "d", "source_type": "local", "source": "s"}}).or_else(
                refused("L-21")
            ),
            log_inputs(*(dataset(f"n{number}", "d") for number in range(1001))).or_else(
                refused("L-21")
            ),
        ),
    ),
)

CASES = (*KEYS, *VALUES, *NAMES, *LOCATIONS, *DATASETS)
