"""Sequences over metric histories, one run's and many runs', and over the datasets of runs."""

from tests.differential.calls import (
    AJAX,
    API,
    SETUP,
    Call,
    Case,
    Json,
    Ours,
    get,
    history,
    new_run,
    on_run,
    post,
    refused,
)
from tests.differential.runs import batch, delete, log_metric, point

BULK = AJAX + "metrics/get-history-bulk"
INTERVAL = AJAX + "metrics/get-history-bulk-interval"


def bulk(*runs: str, key: str = "m", **query: object) -> Call:
    pairs: list[tuple[str, object]] = [("run_id", f"${{{run}}}") for run in runs]
    return get(BULK, [*pairs, ("metric_key", key), *query.items()])


def interval(*runs: str, key: str = "m", **query: object) -> Call:
    pairs: list[tuple[str, object]] = [("run_ids", f"${{{run}}}") for run in runs]
    return get(INTERVAL, [*pairs, ("metric_key", key), *query.items()])


STEPS = [point("m", float((step * 37) % 11), 100 + step, step) for step in range(30)]
SPARSE = [point("m", 0.5, 50, -10), point("m", 1.5, 60, 1000), point("m", 2.5, 55, 7)]
SAME_STEP = [point("m", float(value), 200 + value, 0) for value in range(20)]

PAGES = on_run(
    "metrics-history-pages",
    batch(metrics=STEPS),
    history("m"),
    get(
        "metrics/get-history",
        {"run_id": "${run}", "metric_key": "m", "max_results": 11},
        save={"token": "next_page_token"},
    ),
    get(
        "metrics/get-history",
        {"run_id": "${run}", "metric_key": "m", "max_results": 11, "page_token": "${token}"},
        save={"token": "next_page_token"},
    ),
    history("m", max_results=11, page_token="${token}"),
    history("m", max_results=30),
    history("m", max_results=31),
    history("m", max_results=100000),
    log_metric("m", 5.0, 100, 0),
    log_metric("m", "NaN", 100, 0),
    history("m", max_results=3),
)

BULK_HISTORY = Case(
    "metrics-get-history-bulk",
    (
        *SETUP,
        new_run("second", 2000),
        new_run("empty", 3000),
        batch(metrics=STEPS),
        batch(metrics=[*SPARSE, point("other", 1.0)], run="second"),
        bulk("run"),
        bulk("run", "second", "empty"),
        bulk("second", max_results=2),
        bulk("second", max_results=0),
        bulk("second", max_results=1000000),
        bulk("run", key="none"),
        bulk("nothing"),
        bulk("run", "run"),
        get(BULK, {"metric_key": "m"}),
        get(BULK, {"run_id": "${run}"}),
        get(BULK, {"run_ids": "${run}", "metric_key": "m"}),
        get(API + "metrics/get-history-bulk", {"run_id": "${run}", "metric_key": "m"}).or_else(
            Ours("both-prefixes", 200)
        ),
        delete("second"),
        bulk("second"),
    ),
)

BULK_INTERVAL = Case(
    "metrics-get-history-bulk-interval",
    (
        *SETUP,
        new_run("second", 2000),
        new_run("third", 3000),
        new_run("empty", 4000),
        batch(metrics=STEPS),
        batch(metrics=[*SPARSE, point("other", 1.0)], run="second"),
        batch(metrics=SAME_STEP, run="third"),
        interval("run"),
        interval("run", "second"),
        interval("run", start_step=5, end_step=9),
        interval("run", start_step=-100, end_step=100),
        interval("run", start_step=9, end_step=5),
        interval("run", start_step=9),
        interval("run", end_step=9),
        interval("second", start_step=-10, end_step=7),
        interval("run", max_results=2500),
        interval("second", max_results=3),
        interval("empty"),
        interval("run", key="none"),
        interval("nothing"),
        interval("run", "nothing"),
        interval("run", start_step="x", end_step="y"),
        get(INTERVAL, {"metric_key": "m"}),
        get(INTERVAL, {"run_ids": "${run}"}),
        get(API + "metrics/get-history-bulk-interval", {"run_ids": "${run}", "metric_key": "m"}),
    ),
)


def dataset(name: str, digest: str, context: str = "", **fields: Json) -> Json:
    tags = [{"key": "mlflow.data.context", "value": context}] if context else []
    made = {"name": name, "digest": digest, "source_type": "local", "source": "{}", **fields}
    return {"tags": tags, "dataset": made}


def log_inputs(*datasets: Json, run: str = "run", **fields: Json) -> Call:
    return post("runs/log-inputs", {"run_id": f"${{{run}}}", "datasets": list(datasets), **fields})


def search_datasets(*experiments: str) -> Call:
    body = {"experiment_ids": [f"${{{name}}}" for name in experiments]}
    return post(AJAX + "experiments/search-datasets", body, unordered="dataset_summaries")


DATASETS = on_run(
    "runs-log-inputs-search-datasets",
    log_inputs(dataset("iris", "abc", "training", schema='{"a": 1}', profile='{"rows": 3}')),
    log_inputs(dataset("iris", "abc", "training")),
    log_inputs(dataset("iris", "def", "eval"), dataset("wine", "123")),
    log_inputs(dataset("iris", "abc", "testing")),
    log_inputs(dataset("twice", "1", "a"), dataset("twice", "1", "b")),
    log_inputs(),
    post("runs/log-inputs", {"run_id": "${run}"}),
    post("runs/log-inputs", {"datasets": []}),
    log_inputs(dataset("iris", "abc"), run="nothing"),
    post("runs/log-inputs", {"run_id": "${run}", "datasets": "none"}),
    new_run("second", 2000),
    log_inputs(dataset("iris", "abc", "training", source="other"), run="second"),
    get("runs/get", {"run_id": "${second}"}),
    search_datasets("exp"),
    search_datasets("exp", "nothing"),
    search_datasets("nothing"),
    search_datasets(),
    post(AJAX + "experiments/search-datasets", {"experiment_ids": "abc"}),
    post(AJAX + "experiments/search-datasets", {"experiment_ids": ["abc"]}),
)

NOT_AN_OBJECT = Case(
    "runs-log-inputs-not-an-object",
    (*SETUP, log_inputs("no object").or_else(refused("wrong-type"))),
)

CASES = (PAGES, BULK_HISTORY, BULK_INTERVAL, DATASETS, NOT_AN_OBJECT)
