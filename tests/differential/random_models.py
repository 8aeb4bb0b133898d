"""Random sequences of calls over logged models and data sets, drawn by Hypothesis."""

from hypothesis import strategies as st

from tests.differential.calls import AJAX, Call, Json, json_call, post
from tests.differential.logged_models import MODELS
from tests.differential.metrics import dataset
from tests.differential.random_calls import (
    BEGIN,
    END,
    RUNS,
    Draw,
    delete_experiment,
    delete_run,
    experiments,
    fixed,
    in_turns,
    log_metric,
    matched,
    patterns,
    restore_experiment,
    restore_run,
    run_id,
    runs,
    tags,
)

NAMES = ("m0", "m1", "m2")
DATASETS: tuple[dict[str, str], ...] = (
    {},
    {"dataset_name": "iris", "dataset_digest": "1"},
    {"dataset_name": "wine", "dataset_digest": "2"},
)
STATUSES = ("LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED", "LOGGED_MODEL_PENDING")

models = st.sampled_from(NAMES)
datasets = st.sampled_from(DATASETS)


def _create(name: str, experiment: str, run: str, kind: str, given: list[Json]) -> Draw:
    body = {
        "experiment_id": f"${{{experiment}}}",
        "name": name,
        "model_type": kind,
        "source_run_id": f"${{{run}}}",
        "params": [{"key": "p", "value": kind}],
        "tags": given,
    }
    return fixed(post(MODELS, body, save={name: "model.info.model_id"}))


def _metric(place: int, run: str, model: str, value: float, on: dict[str, str]) -> Call:
    # Each step once: two values of one step and time are a conflict for MLflow's table of them.
    body = {"key": "acc", "value": value, "timestamp": place, "step": place, **on}
    return post("runs/log-metric", {**run_id(run), **body, "model_id": f"${{{model}}}"})


def _metric_draw(run: str, model: str, value: float, on: dict[str, str]) -> Draw:
    return Draw(lambda place: _metric(place, run, model, value, on))


def _patch(model: str, path: str, body: Json) -> Draw:
    return fixed(json_call("PATCH", f"{MODELS}/${{{model}}}{path}", body))


create = st.builds(
    _create,
    models,
    experiments,
    runs,
    st.sampled_from(["tree", "Net", ""]),
    st.lists(tags, max_size=2, unique_by=lambda tag: tag["key"]),
)
measure = st.builds(
    _metric_draw, runs, models, st.sampled_from([0.0, 0.5, 0.25, -1.0, 1e300]), datasets
)
finalize = st.builds(
    lambda model, status: _patch(model, "", {"model_id": f"${{{model}}}", "status": status}),
    models,
    st.sampled_from(STATUSES),
)
tag = st.builds(lambda model, given: _patch(model, "/tags", {"tags": [given]}), models, tags)
untag = st.builds(
    lambda model, given: fixed(Call("DELETE", f"{MODELS}/${{{model}}}/tags/{given['key']}")),
    models,
    tags,
)
remove = st.builds(lambda model: fixed(Call("DELETE", f"{MODELS}/${{{model}}}")), models)
read = st.builds(lambda model: fixed(Call("GET", f"{MODELS}/${{{model}}}")), models)

use = st.builds(
    lambda run, name, digest, context: fixed(
        post("runs/log-inputs", {**run_id(run), "datasets": [dataset(name, digest, context)]})
    ),
    runs,
    st.sampled_from(["iris", "wine", "Iris"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["", "train", "eval"]),
)

model_conditions = st.sampled_from(
    [
        "name LIKE 'm%'",
        "name ILIKE 'M_'",
        "name != 'm1'",
        "name = 'm2'",
        "name IN ('m0', 'm2')",
        "model_type = 'tree'",
        "model_type != 'Net'",
        "model_type ILIKE 'n%'",
        "params.p = 'tree'",
        "params.p LIKE '%e%'",
        "tags.t = 'x'",
        "tags.t ILIKE '%x%'",
        "tags.t != 'x'",
        "metrics.acc >= 0",
        "metrics.acc < 0.5",
        "metrics.acc != 0.25",
        "source_run_id = '${r0}'",
        "source_run_id != '${r0}'",
        "creation_timestamp > 5",
    ]
)


def _search_models(
    names: list[str], conditions: list[str], order: Json, on: Json, count: int
) -> Draw:
    body: dict[str, Json] = {
        "experiment_ids": [f"${{{name}}}" for name in names],
        "filter": " AND ".join(conditions),
        "max_results": count,
        # By name at the end: models made within one millisecond have no order of their own.
        "order_by": [*order, {"field_name": "name", "ascending": True}, *CREATED],
    }
    if on:
        body["datasets"] = [on]
    return fixed(post(MODELS + "/search", body))


CREATED: list[Json] = [{"field_name": "creation_timestamp", "ascending": True}]
model_orders = st.lists(
    st.builds(
        lambda name, up, on: {
            "field_name": name,
            "ascending": up,
            **(on if name == "metrics.acc" else {}),
        },
        st.sampled_from(["metrics.acc", "model_type"]),
        st.booleans(),
        datasets,
    ),
    max_size=1,
)
search_models = st.builds(
    _search_models,
    st.lists(experiments, min_size=1, max_size=2, unique=True),
    st.lists(model_conditions, max_size=2),
    model_orders,
    st.sampled_from([{}, {}, *DATASETS]),
    st.integers(1, 4),
)
search_runs = st.builds(
    lambda name, what, sign, text: fixed(
        post(
            "runs/search",
            {
                "experiment_ids": [f"${{{name}}}"],
                "filter": f"dataset.{what} {sign} '{text}'",
                "run_view_type": "ALL",
            },
        )
    ),
    experiments,
    st.sampled_from(["name", "digest", "context"]),
    matched,
    st.one_of(
        patterns.filter(lambda text: "'" not in text),
        st.sampled_from(["iris", "IRIS", "1", "train", "e%"]),
    ),
)
search_datasets = st.builds(
    lambda name: fixed(
        post(
            AJAX + "experiments/search-datasets",
            {"experiment_ids": [f"${{{name}}}"]},
            unordered="dataset_summaries",
        )
    ),
    experiments,
)

model_writes = st.one_of(
    create,
    measure,
    measure,
    finalize,
    tag,
    untag,
    remove,
    use,
    use,
    log_metric,
    delete_run,
    restore_run,
    delete_experiment,
    restore_experiment,
)
model_reads = st.one_of(read, search_models, search_models, search_runs, search_datasets)


@st.composite
def model_sequences(draw: st.DrawFn) -> list[Call]:
    """Three models with something in them, then writes and reads, then a read of everything."""
    first = [
        _create(name, "e0", run, "tree", []).build(0) for name, run in zip(NAMES, RUNS, strict=True)
    ]
    middle = draw(in_turns(model_writes, model_reads))
    made = [one.build(place) for place, one in enumerate(middle, start=10)]
    values = [_metric(place, RUNS[place], name, place / 4, {}) for place, name in enumerate(NAMES)]
    inputs = [
        post(
            "runs/log-inputs",
            {**run_id(run), "datasets": [dataset("iris", str(number + 1), "train")]},
        )
        for number, run in enumerate(RUNS)
    ]
    last = [Call("GET", f"{MODELS}/${{{name}}}") for name in NAMES]
    return [*BEGIN, *first, *values, *inputs, *made, *last, *END]
