"""Random sequences of calls over two experiments and a few runs, drawn by Hypothesis.

The values come from small sets, so that calls meet each other: the same key twice, a point again, a
param changed, a write to a run that was just deleted.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.differential.calls import Call, Json, get, post
from tests.differential.metrics import BULK, INTERVAL

RUNS = ("r0", "r1", "r2")
EXPERIMENTS = ("e0", "e1")
METRICS = ("a", "b/c")
PARAMS = ("p", "q r")
TAGS = ("t", "u.v")
TEXTS = ("", "x", "X", "x%y", "it's", "ü", "10", "9")
NUMBERS = (0.0, -0.0, 1.0, -1.5, 0.1, 1e300, -1e300, "NaN", "Infinity", "-Infinity", 3, "2.5")
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
VIEWS = ("ACTIVE_ONLY", "DELETED_ONLY", "ALL")


@dataclass(frozen=True)
class Draw:
    """A call that is finished once its place in the sequence is known: start times are unique."""

    build: Callable[[int], Call]


def fixed(call: Call) -> Draw:
    return Draw(lambda _: call)


runs = st.sampled_from(RUNS)
experiments = st.sampled_from(EXPERIMENTS)
metric_keys = st.sampled_from(METRICS)
texts = st.sampled_from(TEXTS)
numbers = st.sampled_from(NUMBERS)
times = st.integers(0, 4)
steps = st.integers(-1, 3)

points = st.fixed_dictionaries(
    {"key": metric_keys, "value": numbers, "timestamp": times, "step": steps}
)
params = st.fixed_dictionaries({"key": st.sampled_from(PARAMS), "value": texts})
tags = st.fixed_dictionaries({"key": st.sampled_from(TAGS), "value": texts})


def run_id(name: str) -> dict[str, Json]:
    return {"run_id": f"${{{name}}}"}


def on_run(path: str, body: st.SearchStrategy[dict[str, Json]]) -> st.SearchStrategy[Draw]:
    return st.builds(lambda run, fields: fixed(post(path, {**run_id(run), **fields})), runs, body)


log_metric = on_run("runs/log-metric", points)
log_param = on_run("runs/log-parameter", params)
set_tag = on_run("runs/set-tag", tags)
rename_run = on_run(
    "runs/set-tag",
    st.builds(lambda name: {"key": "mlflow.runName", "value": name}, st.sampled_from(["n1", "N2"])),
)
delete_tag = on_run("runs/delete-tag", st.builds(lambda key: {"key": key}, st.sampled_from(TAGS)))
log_batch = on_run(
    "runs/log-batch",
    st.fixed_dictionaries(
        {},
        optional={
            "metrics": st.lists(points, max_size=5),
            "params": st.lists(params, max_size=2),
            "tags": st.lists(tags, max_size=2),
        },
    ),
)
update_run = on_run(
    "runs/update",
    st.fixed_dictionaries(
        {},
        optional={
            "status": st.sampled_from(STATUSES),
            "end_time": st.integers(1, 9000),
            "run_name": st.sampled_from(["n1", "n3"]),
        },
    ),
)
nothing: st.SearchStrategy[dict[str, Json]] = st.just({})
delete_run = on_run("runs/delete", nothing)
restore_run = on_run("runs/restore", nothing)


def on_experiment(path: str, body: st.SearchStrategy[dict[str, Json]]) -> st.SearchStrategy[Draw]:
    return st.builds(
        lambda name, fields: fixed(post(path, {"experiment_id": f"${{{name}}}", **fields})),
        experiments,
        body,
    )


delete_experiment = on_experiment("experiments/delete", nothing)
restore_experiment = on_experiment("experiments/restore", nothing)
tag_experiment = on_experiment("experiments/set-experiment-tag", tags)
rename_experiment = on_experiment(
    "experiments/update",
    st.builds(lambda end: {"new_name": "${unique}-" + end}, st.sampled_from(["e0", "e1", "e2"])),
)


def _new_run(name: str, experiment: str) -> Draw:
    def build(place: int) -> Call:
        body = {"experiment_id": f"${{{experiment}}}", "run_name": name, "start_time": place}
        return post("runs/create", body, save={name: "run.info.run_id"})

    return Draw(build)


create_run = st.builds(_new_run, runs, experiments)

compared = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
matched = st.sampled_from(["=", "!=", "LIKE", "ILIKE"])
patterns = st.sampled_from(["x", "X", "%", "x%", "_", "it%", "1_", "", "ü", "n1"])


def quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


conditions = st.one_of(
    st.builds(
        lambda key, sign, value: f"metrics.`{key}` {sign} {value}",
        metric_keys,
        compared,
        st.sampled_from(["0", "1", "-1.5", "0.1", "1e300"]),
    ),
    st.builds(
        lambda key, sign, text: f"params.`{key}` {sign} {quoted(text)}",
        st.sampled_from(PARAMS),
        matched,
        patterns,
    ),
    st.builds(
        lambda key, sign, text: f"tags.`{key}` {sign} {quoted(text)}",
        st.sampled_from(TAGS),
        matched,
        patterns,
    ),
    st.builds(
        lambda kind, check: f"{kind} {check}",
        st.sampled_from(["params.p", "params.`q r`", "tags.t", "tags.`u.v`"]),
        st.sampled_from(["IS NULL", "IS NOT NULL"]),
    ),
    st.builds(lambda sign, text: f"attributes.run_name {sign} {quoted(text)}", matched, patterns),
    st.builds(
        lambda sign, status: f"status {sign} '{status}'",
        st.sampled_from(["=", "!="]),
        st.sampled_from(STATUSES),
    ),
    st.builds(
        lambda name, sign, value: f"{name} {sign} {value}",
        st.sampled_from(["start_time", "attributes.end_time"]),
        compared,
        st.integers(0, 9000),
    ),
    st.builds(
        lambda sign, names: f"run_id {sign} ({', '.join(names)})",
        st.sampled_from(["IN", "NOT IN"]),
        st.lists(st.sampled_from([f"'${{{name}}}'" for name in RUNS]), min_size=1, max_size=2),
    ),
)

orders = st.builds(
    lambda what, way: f"{what} {way}",
    st.sampled_from(
        [
            "metrics.a",
            "metrics.`b/c`",
            "params.p",
            "params.`q r`",
            "tags.t",
            "start_time",
            "attributes.end_time",
            "status",
            "run_name",
        ]
    ),
    st.sampled_from(["ASC", "DESC"]),
)


def _search(names: list[str], texts_: list[str], order: list[str], view: str, count: int) -> Draw:
    body = {
        "experiment_ids": [f"${{{name}}}" for name in names],
        "filter": " AND ".join(texts_),
        "order_by": order,
        "run_view_type": view,
        "max_results": count,
    }
    return fixed(post("runs/search", body))


search = st.builds(
    _search,
    st.lists(experiments, min_size=1, max_size=2, unique=True),
    st.lists(conditions, max_size=2),
    st.lists(orders, max_size=2, unique_by=lambda text: text.split()[0]),
    st.sampled_from(VIEWS),
    st.integers(1, 5),
)


def _history(run: str, key: str, count: int | None) -> Draw:
    query: dict[str, object] = {**run_id(run), "metric_key": key}
    if count is not None:
        query["max_results"] = count
    return fixed(get("metrics/get-history", query))


def _bulk(names: list[str], key: str) -> Draw:
    ids = [("run_id", f"${{{name}}}") for name in names]
    return fixed(get(BULK, [*ids, ("metric_key", key)]))


def _interval(names: list[str], key: str, ends: tuple[int, int] | None) -> Draw:
    query: list[tuple[str, object]] = [("run_ids", f"${{{name}}}") for name in names]
    query.append(("metric_key", key))
    if ends is not None:
        query += [("start_step", min(ends)), ("end_step", max(ends))]
    return fixed(get(INTERVAL, query))


some_runs = st.lists(runs, min_size=1, max_size=3, unique=True)
history = st.builds(_history, runs, metric_keys, st.none() | st.integers(1, 4))
bulk = st.builds(_bulk, some_runs, metric_keys)
interval = st.builds(_interval, some_runs, metric_keys, st.none() | st.tuples(steps, steps))

writes = st.one_of(
    log_metric,
    log_batch,
    log_batch,
    log_param,
    set_tag,
    rename_run,
    delete_tag,
    update_run,
    create_run,
    delete_run,
    restore_run,
    delete_experiment,
    restore_experiment,
    tag_experiment,
    rename_experiment,
)
reads = st.one_of(search, search, history, bulk, interval)


def _first_values(number: int, run: str) -> Call:
    """Something to meet, search and change in each run."""
    body = {
        **run_id(run),
        "metrics": [
            {"key": key, "value": number - 0.5, "timestamp": number, "step": step}
            for key in METRICS[: number + 1]
            for step in range(number, 3)
        ],
        "params": [{"key": "p", "value": TEXTS[number + 1]}],
        "tags": [{"key": "t", "value": TEXTS[number]}],
    }
    return post("runs/log-batch", body)


BEGIN: tuple[Call, ...] = (
    *(
        post("experiments/create", {"name": f"${{unique}}-{name}"}, save={name: "experiment_id"})
        for name in EXPERIMENTS
    ),
    _new_run("r0", "e0").build(0),
    _new_run("r1", "e0").build(1),
    _new_run("r2", "e1").build(2),
    *(_first_values(number, run) for number, run in enumerate(RUNS)),
)
EVERYTHING = ["${e0}", "${e1}"]
END: tuple[Call, ...] = (
    *(get("experiments/get", {"experiment_id": f"${{{name}}}"}) for name in EXPERIMENTS),
    *(_history(run, key, None).build(0) for run in RUNS for key in METRICS),
    post("runs/search", {"experiment_ids": EVERYTHING, "run_view_type": "ALL"}),
)


def in_turns(
    some_writes: st.SearchStrategy[Draw], some_reads: st.SearchStrategy[Draw]
) -> st.SearchStrategy[list[Draw]]:
    """Twice a few writes and then a few reads: 16 to 32 calls."""
    turns = st.tuples(
        st.lists(some_writes, min_size=6, max_size=10),
        st.lists(some_reads, min_size=3, max_size=6),
        st.lists(some_writes, min_size=4, max_size=10),
        st.lists(some_reads, min_size=3, max_size=6),
    )
    return turns.map(lambda parts: [call for part in parts for call in part])


@st.composite
def sequences(draw: st.DrawFn) -> list[Call]:
    """Writes, reads, writes, reads; a fixed beginning, and an end that reads everything."""
    middle = draw(in_turns(writes, reads))
    made = [one.build(place) for place, one in enumerate(middle, start=10)]
    return [*BEGIN, *made, *END]
