"""The questions of the study, answered the only way a tracking server without SQL allows: its REST
API in a loop, and the arithmetic in the client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import urlencode

import nanoarrow
import numpy as np
import numpy.typing as npt

from infra.benchmarks.bodies import API
from infra.benchmarks.rows import FASTTRACKML, MLFLOW
from infra.benchmarks.study import KEY, STEP, Best, Curve, curve_of

PAGE = 1_000
RUNS_A_REQUEST = 100
"""MLflow's most for the histories of several runs."""
POINTS_A_RUN = 2_500
"""MLflow's most for each of them; a run of the study has as many."""
TIMEOUT_S = 600.0

Values = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


class Loop:
    """Calls a server over one connection, as a script with a session does."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self.calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: object = None, **query: Any) -> bytes:
        """The bytes of an answer. Raises RuntimeError where it is not 200."""
        self.calls += 1
        target = API + path + ("?" + urlencode(query, doseq=True) if query else "")
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        self._connection.request(method, target, data, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {answer[:300]!r}")
        return answer

    def runs(self, experiment_ids: list[str]) -> Iterator[dict[str, Any]]:
        """All runs of these experiments, by pages of runs/search."""
        body: dict[str, Any] = {"experiment_ids": experiment_ids, "max_results": PAGE}
        while True:
            page = json.loads(self.call("POST", "runs/search", body))
            yield from page.get("runs", [])
            if not page.get("next_page_token"):
                return
            body["page_token"] = page["next_page_token"]


def _mlflow_histories(loop: Loop, run_ids: list[str], **query: int) -> Iterator[dict[str, Any]]:
    """The points of KEY of these runs, by its endpoint for the charts of several runs."""
    for start in range(0, len(run_ids), RUNS_A_REQUEST):
        chunk = run_ids[start : start + RUNS_A_REQUEST]
        answer = loop.call(
            "GET",
            "metrics/get-history-bulk-interval",
            run_ids=chunk,
            metric_key=KEY,
            max_results=POINTS_A_RUN,
            **query,
        )
        yield from json.loads(answer)["metrics"]


def _mlflow_curve(loop: Loop, experiment_ids: list[str]) -> tuple[Steps, Values]:
    run_ids = [run["info"]["run_id"] for run in loop.runs(experiment_ids)]
    points = list(_mlflow_histories(loop, run_ids))
    steps = np.array([int(point.get("step", 0)) for point in points], np.int64)
    return steps, np.array([point["value"] for point in points], np.float64)


def _mlflow_best(loop: Loop, experiment_ids: list[str]) -> Best:
    found: Best = {}
    for experiment_id in experiment_ids:
        run_ids = [run["info"]["run_id"] for run in loop.runs([experiment_id])]
        points = list(_mlflow_histories(loop, run_ids, start_step=STEP, end_step=STEP))
        if points:
            best = min(points, key=lambda point: float(point["value"]))
            found[experiment_id] = (best["run_id"], float(best["value"]))
    return found


def _fasttrackml_histories(loop: Loop, experiment_ids: list[str]) -> dict[str, Any]:
    """The points of KEY of all runs of these experiments, which it sends as Arrow."""
    body = {
        "experiment_ids": experiment_ids,
        "metric_keys": [KEY],
        "run_view_type": "ACTIVE_ONLY",
        "max_results": 10_000_000,
    }
    stream = nanoarrow.ArrayStream.from_readable(loop.call("POST", "metrics/get-histories", body))
    names, columns = stream.to_columns_pysequence()
    return dict(zip(names, columns, strict=True))


def _fasttrackml_curve(loop: Loop, experiment_ids: list[str]) -> tuple[Steps, Values]:
    found = _fasttrackml_histories(loop, experiment_ids)
    return np.array(found["step"], np.int64), np.array(found["value"], np.float64)


def _fasttrackml_best(loop: Loop, experiment_ids: list[str]) -> Best:
    best: Best = {}
    for experiment_id in experiment_ids:
        found = _fasttrackml_histories(loop, [experiment_id])
        at_step = [
            (value, run_id)
            for run_id, step, value in zip(
                found["run_id"], found["step"], found["value"], strict=True
            )
            if step == STEP
        ]
        if at_step:
            value, run_id = min(at_step)
            best[experiment_id] = (run_id, value)
    return best


_CURVES: dict[str, Callable[[Loop, list[str]], tuple[Steps, Values]]] = {
    MLFLOW: _mlflow_curve,
    FASTTRACKML: _fasttrackml_curve,
}
_BEST: dict[str, Callable[[Loop, list[str]], Best]] = {
    MLFLOW: _mlflow_best,
    FASTTRACKML: _fasttrackml_best,
}


def rest_curve(name: str, loop: Loop, experiment_ids: list[str]) -> Curve:
    """The mean and the quantiles over all runs of these experiments."""
    steps, values = _CURVES[name](loop, experiment_ids)
    return curve_of(steps, values)


def rest_best(name: str, loop: Loop, experiment_ids: list[str]) -> Best:
    """The best run of each experiment at STEP."""
    return _BEST[name](loop, experiment_ids)


def rest_table(loop: Loop) -> dict[str, dict[str, Any]]:
    """Each run's params and latest metrics, by the run's id."""
    return {
        run["info"]["run_id"]: {
            f"{kind}.{one['key']}": one["value"]
            for kind in ("params", "metrics")
            for one in run["data"].get(kind, [])
        }
        for run in loop.runs(["0"])
    }
