"""Sequences over logged models: their life, params, tags, metrics and the search over them."""

from tests.differential.calls import (
    AJAX,
    API,
    SETUP,
    Call,
    Case,
    Json,
    Ours,
    get,
    json_call,
    new_run,
    on_run,
    post,
    refused,
)
from tests.differential.runs import batch, log_metric, point

MODELS = API + "logged-models"
SEARCH = MODELS + "/search"


def create(save: str = "model", **fields: Json) -> Call:
    body = {"experiment_id": "${exp}", **fields}
    return post(MODELS, body, save={save: "model.info.model_id"})


def read(model: str = "model", **query: object) -> Call:
    return get(f"{MODELS}/${{{model}}}", query)


def finalize(status: Json, model: str = "model") -> Call:
    body = {"model_id": f"${{{model}}}", "status": status}
    return json_call("PATCH", f"{MODELS}/${{{model}}}", body)


def remove(model: str = "model") -> Call:
    return Call("DELETE", f"{MODELS}/${{{model}}}")


def set_tags(*tags: Json, model: str = "model") -> Call:
    return json_call("PATCH", f"{MODELS}/${{{model}}}/tags", {"tags": list(tags)})


def pair(key: Json, value: Json) -> Json:
    return {"key": key, "value": value}


def log_params(*params: Json) -> Call:
    body = {"model_id": "${model}", "params": list(params)}
    return post(MODELS + "/${model}/params", body)


def search(text: str = "", **body: Json) -> Call:
    return post(SEARCH, {"experiment_ids": ["${exp}"], "filter": text, **body})


def order(field: str, ascending: bool = True, **dataset: Json) -> Json:
    return [{"field_name": field, "ascending": ascending, **dataset}]


LIFE = on_run(
    "logged-models-life",
    create(
        name="forest",
        model_type="classifier",
        source_run_id="${run}",
        params=[pair("depth", "3"), pair("empty", "")],
        tags=[pair("stage", "test")],
    ),
    read(),
    get(AJAX + "logged-models/${model}"),
    finalize("LOGGED_MODEL_READY"),
    read(),
    finalize("LOGGED_MODEL_UPLOAD_FAILED"),
    finalize(2),
    finalize("LOGGED_MODEL_PENDING"),
    json_call("PATCH", MODELS + "/${model}", {"model_id": "${model}"}),
    json_call("PATCH", MODELS + "/${model}", {"status": "LOGGED_MODEL_READY"}),
    finalize("LOGGED_MODEL_READY", "nothing"),
    create(save="unnamed"),
    read("unnamed"),
    create(save="typed", name="a b", model_type=""),
    create(save="x", name="bad/name"),
    create(save="x", source_run_id="${nothing}"),
    create(save="x", source_run_id="", name="no-source"),
    post(MODELS, {"name": "without experiment"}),
    post(MODELS, {"experiment_id": "987654", "name": "unknown-experiment"}),
    post(MODELS, {"experiment_id": "${exp}", "name": 5}),
    post(MODELS, {"experiment_id": "${exp}", "params": "no list"}),
    read("nothing"),
    remove(),
    read(),
    read(allow_deleted="true"),
    remove(),
    remove("nothing"),
    finalize("LOGGED_MODEL_READY"),
    set_tags(pair("a", "b")),
)

TAGS_AND_PARAMS = on_run(
    "logged-models-tags-params",
    create(name="m", params=[pair("p", "1")]),
    set_tags(pair("a", "1"), pair("b", "2")),
    set_tags(pair("a", "3")),
    set_tags(),
    set_tags(pair("k", "x" * 9000)),
    set_tags(pair("k" * 251, "x")),
    set_tags(pair("a;b", "x")),
    set_tags(pair("a", "1"), model="nothing"),
    json_call("PATCH", MODELS + "/${model}/tags", {"tags": "no list"}),
    read(),
    Call("DELETE", MODELS + "/${model}/tags/a"),
    Call("DELETE", MODELS + "/${model}/tags/a"),
    Call("DELETE", MODELS + "/${model}/tags/never"),
    Call("DELETE", MODELS + "/${nothing}/tags/a"),
    log_params(pair("q", "2")),
    log_params(pair("q", "2")).or_else(Ours("retry", 200)),
    log_params(pair("q", "3")).or_else(refused("retry")),
    post(MODELS + "/${model}/params", {"model_id": "${model}", "params": []}),
    post(MODELS + "/${model}/params", {"params": [pair("r", "2")]}),
    post(MODELS + "/${nothing}/params", {"model_id": "${nothing}", "params": [pair("q", "2")]}),
    read(),
)


def with_model(key: str, value: Json, model: str, step: int = 0, **more: Json) -> Call:
    return log_metric(key, value, 10 + step, step, model_id=f"${{{model}}}", **more)


IRIS: Json = {"dataset_name": "iris", "dataset_digest": "abc"}
WINE: Json = {"dataset_name": "wine", "dataset_digest": "123"}

METRICS = on_run(
    "logged-models-metrics",
    create(name="m", source_run_id="${run}"),
    create(save="other", name="n", source_run_id="${run}"),
    with_model("acc", 0.9, "model"),
    with_model("acc", 0.8, "model", 1),
    with_model("acc", 0.7, "model", 2, **IRIS),
    with_model("f1", 0.6, "model", 3, **WINE),
    read(),
    batch(metrics=[{**point("loss", 0.1), "model_id": "${model}"}, point("loss", 0.2, 11, 1)]),
    batch(
        metrics=[{**point("loss", 0.3, 12, 2), "model_id": "${model}", **IRIS, "run_id": "${run}"}]
    ),
    with_model("acc", 0.5, "nothing").or_else(
        refused("unknown-model", "RESOURCE_DOES_NOT_EXIST", 404)
    ),
    read(),
    read("other"),
    get("metrics/get-history", {"run_id": "${run}", "metric_key": "acc"}),
    get("metrics/get-history", {"run_id": "${run}", "metric_key": "loss"}),
    post("runs/outputs", {"run_id": "${run}", "models": [{"model_id": "${model}", "step": 3}]}),
    post(
        "runs/outputs", {"run_id": "${run}", "models": [{"model_id": "${model}", "step": 3}]}
    ).or_else(Ours("retry", 200)),
    post("runs/outputs", {"run_id": "${run}", "models": [{"model_id": "${other}"}]}),
    post("runs/outputs", {"run_id": "${run}", "models": []}),
    post("runs/outputs", {"run_id": "${run}"}),
    post("runs/outputs", {"models": [{"model_id": "${model}"}]}),
    post("runs/outputs", {"run_id": "${nothing}", "models": [{"model_id": "${model}"}]}),
    new_run("consumer", 2000),
    post("runs/log-inputs", {"run_id": "${consumer}", "models": [{"model_id": "${model}"}]}),
    get("runs/get", {"run_id": "${consumer}"}),
    read(),
)

SEARCHES = Case(
    "logged-models-search",
    (
        *SETUP,
        new_run("second", 2000),
        create("a", name="a", model_type="tree", source_run_id="${run}", params=[pair("d", "1")]),
        create("b", name="b", model_type="Tree", source_run_id="${second}", tags=[pair("t", "x")]),
        create("c", name="c", params=[pair("d", "2")], tags=[pair("t", "y"), pair("odd key", "z")]),
        finalize("LOGGED_MODEL_READY", "b"),
        with_model("acc", 0.9, "a"),
        with_model("acc", 0.5, "b", 1),
        with_model("acc", 0.7, "c", 2, **IRIS),
        with_model("acc", 0.1, "a", 3, **IRIS),
        with_model("acc", 0.3, "b", 4, **WINE),
        search(order_by=order("name")),
        search(order_by=order("name", False)),
        search(order_by=order("creation_timestamp")),
        search(order_by=order("creation_time")),
        search(order_by=order("metrics.acc")),
        search(order_by=order("metrics.acc", False)),
        search(order_by=order("metrics.acc", **IRIS)),
        search(order_by=order("metrics.acc", dataset_name="iris")),
        search(order_by=order("metrics.none")),
        search(order_by=[*order("model_type"), *order("name", False)]),
        search(order_by=order("params.d")),
        search(order_by=order("nonsense")),
        search(order_by=[{"ascending": True}]),
        search(order_by="name"),
        search("name = 'a'"),
        search("attributes.name = 'a'"),
        search("name != 'a'", order_by=order("name")),
        search("name LIKE '%'", order_by=order("name")),
        search("name ILIKE 'A'"),
        search("name IN ('a', 'c')", order_by=order("name")),
        search("name NOT IN ('a', 'c')"),
        search("model_type = 'tree'"),
        search("model_type ILIKE 'tree'", order_by=order("name")),
        search("source_run_id = '${run}'"),
        search("status = 'READY'").or_else(Ours("model-status", 200)),
        search("status = 'PENDING'").or_else(Ours("model-status", 200)),
        search("status != 'READY'", order_by=order("name")).or_else(Ours("model-status", 200)),
        search("model_id = '${b}'"),
        search("creation_timestamp > 0", order_by=order("name")),
        search("creation_timestamp < 5"),
        search("creation_timestamp > 'x'"),
        search("last_updated_timestamp >= 0", order_by=order("name")),
        search("params.d = '1'"),
        search("params.d != '1'"),
        search("params.d LIKE '%'", order_by=order("name")),
        search("tags.t = 'x'"),
        search("tags.`odd key` = 'z'"),
        search("tags.t IS NULL"),
        search("tags.t IS NOT NULL", order_by=order("name")),
        search("metrics.acc > 0.6", order_by=order("name")),
        search("metrics.acc > 0.6 AND metrics.acc < 0.8", order_by=order("name")),
        search("metrics.acc > 0", datasets=[IRIS], order_by=order("name")),
        search("metrics.acc > 0.5", datasets=[{"dataset_name": "iris"}]).or_else(
            Ours("model-dataset", 200)
        ),
        search(datasets=[IRIS], order_by=order("name")),
        search(datasets=[{"dataset_digest": "abc"}]),
        search("metrics.acc = 'x'"),
        search("params.d > 1"),
        search("nonsense = 'x'"),
        search("name = 'a' OR name = 'b'"),
        search("name ="),
        search("metrics.acc LIKE 'x'"),
        post(
            SEARCH,
            {"experiment_ids": ["${exp}"], "max_results": 2, "order_by": order("name")},
            save={"token": "next_page_token"},
        ),
        search(max_results=2, order_by=order("name"), page_token="${token}"),
        search(max_results=2, order_by=order("name", False), page_token="${token}"),
        search("name = 'a'", max_results=2, order_by=order("name"), page_token="${token}"),
        search(page_token="garbage"),
        post(SEARCH, {"experiment_ids": []}),
        post(SEARCH, {}),
        post(SEARCH, {"experiment_ids": ["987654"]}),
        post(SEARCH, {"experiment_ids": ["abc"]}),
        post(SEARCH, {"experiment_ids": "${exp}"}),
        post("experiments/delete", {"experiment_id": "${exp}"}),
        search(order_by=order("name")),
        post("experiments/restore", {"experiment_id": "${exp}"}),
        Call("DELETE", MODELS + "/${a}"),
        search(order_by=order("name")),
    ),
)

REFUSED = Case(
    "logged-models-refused",
    (
        *SETUP,
        create(name="m"),
        finalize("NONSENSE").or_else(refused("L-61")),
        finalize(99).or_else(refused("L-61")),
        set_tags(pair("", "x")).or_else(refused("model-tag-key")),
    ),
)

CASES = (LIFE, TAGS_AND_PARAMS, METRICS, SEARCHES, REFUSED)
