"""Search and pages: rows L-80 to L-93 of the list of limits."""

import base64
import json

from tests.differential.calls import (
    SETUP,
    Case,
    Json,
    Ours,
    get,
    history,
    new_run,
    post,
    refused,
)
from tests.differential.experiments import MINE
from tests.differential.experiments import search as search_experiments
from tests.differential.logged_models import create as create_model
from tests.differential.logged_models import search as search_models
from tests.differential.metrics import BULK, INTERVAL, bulk, search_datasets
from tests.differential.runs import batch, point
from tests.differential.searches import search


def token(content: Json) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


GARBAGE = ("garbage", "!!!", token({"nothing": 1}), token({"offset": "x"}), "é", "AAAA")
# MLflow fails with a 500 on some of these and takes others, -5 among them.
ODD = (token([]), token({"offset": 2**70}), token({"offset": -5}), token({"offset": 1}))


def many_runs(count: int) -> list[tuple[str, object]]:
    return [("run_id", f"{number:032x}") for number in range(count)]


POINTS = batch(metrics=[point("m", float(step), step, step) for step in range(5)])

CASES = (
    Case(
        "L-80-runs-search-max-results",
        (
            *SETUP,
            *(search(max_results=count) for count in (0, -1, 50001, 50000, 1, "2", "abc")),
            search(max_results=1.0),
            search(max_results=1.5).or_else(refused("L-80")),
        ),
    ),
    Case(
        "L-81-experiments-search-max-results",
        (
            *SETUP,
            *(
                search_experiments(MINE, max_results=count)
                for count in (0, -1, 50001, 50000, 1, "2")
            ),
            post("experiments/search", {"filter": MINE}).or_else(Ours("L-81", 200)),
            get("experiments/search", {"filter": MINE}).or_else(Ours("L-81", 200)),
        ),
    ),
    Case(
        "L-82-history-max-results",
        (
            *SETUP,
            POINTS,
            *(history("m", max_results=count) for count in (0, -1, 1, 5, 6, 10**6)),
            history("m", max_results="abc"),
        ),
    ),
    Case(
        "L-83-bulk-runs",
        (
            *SETUP,
            POINTS,
            get(BULK, [*many_runs(100), ("metric_key", "m")]),
            get(BULK, [*many_runs(101), ("metric_key", "m")]),
            bulk("run", max_results=25001),
            bulk("run", max_results="abc").or_else(refused("L-83")),
        ),
    ),
    Case(
        "L-84-interval",
        (
            *SETUP,
            POINTS,
            *(
                get(INTERVAL, {"run_ids": "${run}", "metric_key": "m", "max_results": count})
                for count in (0, -1, 2501, 2500, "abc")
            ),
            get(INTERVAL, [*(("run_ids", run) for _, run in many_runs(101)), ("metric_key", "m")]),
            get(INTERVAL, {"run_ids": "${run}", "metric_key": "m", "start_step": 1}),
            get(INTERVAL, {"run_ids": "${run}", "metric_key": "m", "end_step": 1}),
            get(
                INTERVAL,
                {"run_ids": "${run}", "metric_key": "m", "start_step": 2, "end_step": 1},
            ),
            get(
                INTERVAL,
                {"run_ids": "${run}", "metric_key": "m", "start_step": 1, "end_step": 1},
            ),
        ),
    ),
    Case(
        "L-85-search-datasets",
        (
            *SETUP,
            search_datasets(),
            search_datasets(*["exp"] * 20),
            search_datasets(*["exp"] * 21),
        ),
    ),
    Case(
        "L-88-logged-models-search-max-results",
        (
            *SETUP,
            create_model(name="m"),
            search_models(max_results=1),
            search_models(max_results=1000),
            search_models(max_results="2"),
            search_models(max_results=10**6).or_else(refused("L-88")),
            search_models(max_results=-1).or_else(refused("L-88")),
        ),
    ),
    Case(
        "L-89-page-tokens",
        (
            *SETUP,
            new_run("second", 2000),
            POINTS,
            create_model(name="m"),
            *(search(page_token=text) for text in GARBAGE),
            *(search(page_token=text).or_else(refused("L-89")) for text in ODD),
            *(search_experiments(MINE, page_token=text) for text in GARBAGE),
            *(search_experiments(MINE, page_token=text).or_else(refused("L-89")) for text in ODD),
            *(history("m", max_results=2, page_token=text) for text in GARBAGE),
            *(
                history("m", max_results=2, page_token=text).or_else(refused("L-89"))
                for text in ODD
            ),
            *(search_models(page_token=text) for text in GARBAGE),
        ),
    ),
    Case(
        "L-90-filter-limits",
        (
            *SETUP,
            search(" AND ".join(["metrics.m > 0"] * 50)),
            search(" AND ".join(["metrics.m > 0"] * 51)).or_else(refused("L-90")),
            search("params.p = '" + "x" * 9000 + "'").or_else(refused("L-90")),
            search("run_id IN (" + ",".join(["'a'"] * 1000) + ")"),
            search("run_id IN (" + ",".join(["'a'"] * 1001) + ")").or_else(refused("L-90")),
        ),
    ),
    Case(
        "L-91-order-by",
        (
            *SETUP,
            search(order_by=["dataset.name"]),
            search(order_by=["nonsense.x"]),
            search(order_by=["attributes.nonsense"]),
            search_experiments(MINE, order_by=["nonsense"]),
        ),
    ),
    Case(
        "L-92-view-type",
        (
            *SETUP,
            search(run_view_type=99).or_else(refused("L-92")),
            search(run_view_type="BOGUS").or_else(refused("L-92")),
            search_experiments(MINE, view_type="BOGUS").or_else(refused("L-92")),
        ),
    ),
    Case(
        "L-93-experiment-ids",
        (
            *SETUP,
            post("runs/search", {"experiment_ids": ["987654"]}),
            post("runs/search", {"experiment_ids": ["abc"]}),
            post("runs/search", {"experiment_ids": "${exp}"}),
            post("runs/search", {"experiment_ids": {"a": 1}}),
            post("runs/search", {"experiment_ids": None}),
        ),
    ),
)
