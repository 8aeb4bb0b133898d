"""Metrics, params and batches: rows L-30 to L-51 of the list of limits."""

from tests.differential.calls import (
    READ_RUN,
    SETUP,
    Call,
    Case,
    Json,
    Ours,
    history,
    on_run,
    post,
    raw_post,
    refused,
)
from tests.differential.runs import batch, log_metric, log_param, point, set_tag

MAX_INT64 = 2**63 - 1
MAX_DOUBLE = 1.7976931348623157e308


def bare(key: str, value: str, timestamp: str = "1", step: str = "0") -> Call:
    """A metric whose numbers are written into the JSON as they stand (NaN, 1e400, …)."""
    text = f'{{"run_id": "${{run}}", "key": "{key}", "value": {value}, '
    text += f'"timestamp": {timestamp}, "step": {step}}}'
    return raw_post("runs/log-metric", text.encode())


def bare_batch(key: str, value: str, timestamp: str = "1", step: str = "0") -> Call:
    text = f'{{"run_id": "${{run}}", "metrics": [{{"key": "{key}", "value": {value}, '
    text += f'"timestamp": {timestamp}, "step": {step}}}]}}'
    return raw_post("runs/log-batch", text.encode())


def unlike_mlflow(name: str, reason: str, *calls: Call) -> Case:
    """A case whose calls Runfold refuses, on a run that is not compared afterwards."""
    return Case(name, (*SETUP, *(call.or_else(refused(reason)) for call in calls)))


BARE_POINTS = [
    {"key": "m", "value": value, "timestamp": timestamp, "step": 3}
    for timestamp, value in ((5, "NaN"), (6, MAX_DOUBLE), (7, -MAX_DOUBLE), (8, "NaN"))
]

VALUES = (
    on_run(
        "L-30-metric-values",
        log_metric("text", "1.5"),
        log_metric("nan", "NaN"),
        log_metric("inf", "Infinity"),
        log_metric("ninf", "-Infinity"),
        batch(metrics=[point("b_text", "1.5"), point("b_nan", "NaN", 2), point("b_exp", "1e-7")]),
        log_metric("int", 3),
        log_metric("zero", 0),
        log_metric("negative zero", -0.0),
        log_metric("small", 5e-324),
        log_metric("big", 1.7976931348623157e308),
    ),
    Case(
        "L-30-bare-nan-and-infinity",
        (
            *SETUP,
            bare("m", "NaN", "5", "3"),
            bare("m", "Infinity", "6", "3"),
            bare_batch("m", "-Infinity", "7", "3"),
            bare_batch("m", "NaN", "8", "3"),
            history("m").or_else(Ours("L-30", 200, body={"metrics": BARE_POINTS})),
        ),
    ),
    on_run(
        "L-31-nan-and-infinity-out",
        log_metric("m", "NaN", 1, 0),
        log_metric("m", "Infinity", 2, 1),
        log_metric("m", "-Infinity", 3, 2),
        log_metric("m", 1.0, 4, 3),
        log_metric("m", "NaN", 5, 4),
        history("m"),
    ),
    unlike_mlflow(
        "L-32-damaged-values",
        "L-32",
        log_metric("m", "nan"),
        log_metric("m", "inf"),
        log_metric("m", True),
        bare("m", "1e400"),
        bare("m", "9" * 400),
        bare_batch("m", "1e400"),
        bare_batch("m", '"nan"'),
        bare_batch("m", "true"),
    ),
    unlike_mlflow("L-33-no-number-in-a-batch", "L-33", batch(metrics=[point("m", "abc")])),
    on_run(
        "L-33-no-number",
        log_metric("m", "abc"),
        log_metric("m", None),
        log_metric("m", ""),
        log_metric("m", []),
        log_metric("m", {}),
        post("runs/log-metric", {"run_id": "${run}", "key": "m", "timestamp": 1}),
        batch(metrics=[point("m", None)]),
        batch(metrics=[point("m", "")]),
        batch(metrics=[{"key": "m", "timestamp": 1}]),
    ),
)

TIMES = (
    on_run(
        "L-34-timestamps",
        log_metric("a", 1.0, "5"),
        log_metric("b", 1.0, 0),
        log_metric("c", 1.0, -1),
        log_metric("d", 1.0, MAX_INT64),
        log_metric("e", 1.0, str(MAX_INT64)),
        log_metric("f", 1.0, None),
        log_metric("g", 1.0, "abc"),
        log_metric("h", 1.0, ""),
        batch(metrics=[point("i", 1.0, "5"), point("j", 1.0, 0)]),
        batch(metrics=[point("k", 1.0, -1)]),
        batch(metrics=[point("l", 1.0, None)]),
        bare("m", "1.0", "1.0"),
        bare("n", "1.0", "1e3"),
        *(history(key) for key in "abdejmn"),
    ),
    unlike_mlflow(
        "L-35-damaged-timestamps",
        "L-35",
        log_metric("m", 1.0, 1.5),
        log_metric("m", 1.0, 2**63),
        log_metric("m", 1.0, str(2**63)),
        batch(metrics=[point("m", 1.0, 1.5)]),
        batch(metrics=[point("m", 1.0, 2**63)]),
    ),
    on_run(
        "L-36-steps",
        post("runs/log-metric", {"run_id": "${run}", "key": "a", "value": 1, "timestamp": 1}),
        log_metric("b", 1.0, 1, -5),
        log_metric("c", 1.0, 1, MAX_INT64),
        log_metric("d", 1.0, 1, -MAX_INT64 - 1),
        log_metric("e", 1.0, 1, "7"),
        log_metric("f", 1.0, 1, None),
        batch(metrics=[{"key": "g", "value": 1.0, "timestamp": 1}]),
        batch(metrics=[point("h", 1.0, 1, "7"), point("i", 1.0, 1, None)]),
        bare("j", "1.0", "1", "2.0"),
        *(history(key) for key in "abcdefghij"),
    ),
    unlike_mlflow(
        "L-37-damaged-steps",
        "L-37",
        log_metric("m", 1.0, 1, 1.5),
        log_metric("m", 1.0, 1, 2**63),
        log_metric("m", 1.0, 1, -(2**63) - 1),
        batch(metrics=[point("m", 1.0, 1, 1.5)]),
        batch(metrics=[point("m", 1.0, 1, 2**63)]),
    ),
    on_run(
        "L-37-text-for-a-step",
        log_metric("m", 1.0, 1, "x"),
        log_metric("m", 1.0, 1, []),
    ),
)

IDENTITY = (
    on_run(
        "L-38-the-same-point",
        log_metric("m", 1.0, 1, 0),
        log_metric("m", 1.0, 1, 0),
        batch(metrics=[point("m", 1.0, 1, 0), point("m", 1.0, 1, 0), point("m", 2.0, 1, 0)]),
        log_metric("n", "NaN", 1, 0),
        log_metric("n", "NaN", 1, 0),
        batch(metrics=[point("n", "NaN", 1, 0), point("n", 0.0, 1, 0)]),
        history("m"),
        history("n"),
    ),
    on_run(
        "L-39-latest",
        batch(metrics=[point("a", 1.0, 5, 1), point("a", 2.0, 9, 0), point("a", 3.0, 4, 1)]),
        READ_RUN,
        batch(metrics=[point("a", 0.5, 5, 1)]),
        READ_RUN,
        batch(metrics=[point("a", 1.5, 5, 1)]),
        READ_RUN,
        log_metric("n", 5.0, 1, 1),
        log_metric("n", "NaN", 1, 1),
        READ_RUN,
        log_metric("n", -5.0, 1, 1),
        log_metric("o", -1.0, 1, 1),
        log_metric("o", "NaN", 1, 1),
        READ_RUN,
        log_metric("o", "NaN", 2, 1),
        log_metric("p", 1.0, 1, -5),
        log_metric("p", 2.0, 0, -4),
        READ_RUN,
        log_metric("q", "NaN", 1, 1),
        log_metric("q", 0.0, 1, 1),
    ),
)

PARAMS = (
    on_run(
        "L-40-same-param-again",
        log_param("p", "1"),
        log_param("p", "1"),
        batch(params=[{"key": "p", "value": "1"}]),
    ),
    on_run(
        "L-41-other-value",
        log_param("p", "1"),
        log_param("p", "2"),
        log_param("p", ""),
        batch(params=[{"key": "p", "value": "2"}]),
        batch(params=[{"key": "new", "value": "1"}, {"key": "p", "value": "2"}]),
    ),
    on_run(
        "L-42-param-without-a-value",
        post("runs/log-parameter", {"run_id": "${run}", "key": "missing"}),
        log_param("null", None),
        log_param("empty", ""),
        log_param("number", 5),
        log_param("list", []),
        batch(params=[{"key": "b_missing"}, {"key": "b_null", "value": None}]),
    ),
    unlike_mlflow(
        "L-42-number-in-a-batch", "wrong-type", batch(params=[{"key": "b_number", "value": 5}])
    ),
    on_run(
        "L-43-tag-overwrite",
        set_tag("t", "1"),
        set_tag("t", "2"),
        set_tag("mlflow.runName", "new name"),
        READ_RUN,
        set_tag("mlflow.runName", ""),
        READ_RUN,
        batch(tags=[{"key": "mlflow.runName", "value": "from batch"}]),
    ),
)


def many(count: int, kind: str) -> list[Json]:
    if kind == "m":
        return [point(f"m{number}", float(number), 1, 0) for number in range(count)]
    return [{"key": f"{kind}{number}", "value": "v"} for number in range(count)]


BATCHES = (
    on_run(
        "L-44-batch-size",
        batch(metrics=many(1000, "m")),
        batch(params=many(100, "p")),
        batch(tags=many(100, "t")),
        batch(metrics=many(800, "m"), params=many(100, "p"), tags=many(100, "t")),
        batch(metrics=many(1001, "m")),
        batch(params=many(101, "p")),
        batch(tags=many(101, "t")),
        batch(metrics=many(801, "m"), params=many(100, "p"), tags=many(100, "t")),
    ),
    on_run(
        "L-45-batch-bytes",
        batch(
            tags=[{"key": f"t{number}", "value": "v" * 8000} for number in range(100)],
            params=[{"key": f"p{number}", "value": "v" * 6000} for number in range(100)],
        ),
    ),
    on_run(
        "L-46-duplicate-params",
        batch(params=[{"key": "p", "value": "1"}, {"key": "p", "value": "1"}]),
        batch(params=[{"key": "p", "value": "1"}, {"key": "p", "value": "2"}]),
    ),
    on_run(
        "L-47-duplicate-tags",
        batch(tags=[{"key": "t", "value": "1"}, {"key": "t", "value": "2"}]),
    ),
    on_run(
        "L-48-all-or-nothing",
        log_param("p", "1"),
        batch(
            metrics=[point("m", 1.0)],
            params=[{"key": "q", "value": "1"}, {"key": "p", "value": "2"}],
            tags=[{"key": "t", "value": "1"}],
        ),
        READ_RUN,
        batch(metrics=[point("m", 1.0), point("bad;key", 1.0)], tags=[{"key": "t", "value": "1"}]),
        batch(metrics=[point("m", 1.0)], tags=[{"key": "bad;key", "value": "1"}]),
        batch(metrics=[point("m", 1.0), point("m", 2.0, -1)]),
        history("m"),
    ),
    on_run(
        "L-49-required-in-a-batch",
        batch(metrics=[{"value": 1.0, "timestamp": 1}]),
        batch(metrics=[{"key": "m", "timestamp": 1}]),
        batch(metrics=[{"key": "m", "value": 1.0}]),
        batch(metrics=[{"key": "m", "value": 1.0, "timestamp": 1}]),
        batch(params=[{"value": "1"}]),
        batch(tags=[{"value": "1"}]),
        batch(params=[{"key": ""}]),
        batch(tags=[{"key": "t"}]),
    ),
    on_run(
        "L-50-run-uuid",
        post("runs/log-batch", {"run_uuid": "${run}", "params": [{"key": "a", "value": "b"}]}),
        post("runs/set-tag", {"runId": "${run}", "key": "k", "value": "v"}),
        post("runs/set-tag", {"runUuid": "${run}", "key": "k", "value": "v"}),
        post("runs/set-tag", {"run_id": "${run}", "runId": "${run}", "key": "k", "value": "v"}),
        post("runs/set-tag", {"run_id": "", "run_uuid": "${run}", "key": "k", "value": "v"}),
        post("runs/set-tag", {"run_id": None, "run_uuid": "${run}", "key": "k2", "value": "v"}),
        post("runs/delete", {"run_uuid": "${run}"}).or_else(refused("L-50")),
        post("runs/restore", {"run_uuid": "${run}"}).or_else(refused("L-50")),
        post("runs/delete-tag", {"run_uuid": "${run}", "key": "k"}).or_else(refused("L-50")),
    ),
    on_run(
        "L-51-empty-batch",
        batch(),
        batch(metrics=[], params=[], tags=[]),
        batch(run="nothing"),
    ),
)

CASES = (*VALUES, *TIMES, *IDENTITY, *PARAMS, *BATCHES)
