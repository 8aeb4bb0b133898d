"""The runs that are created and searched: what run number n has, and what each search must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from infra.benchmarks.curves import FIRST_MS, Points

PARAMS = METRICS = 10
PAGE = 100
_OPTIMIZERS = ("adam", "adamw", "sgd", "lion")


@dataclass(frozen=True)
class RunData:
    """A run by its number. Later ones have started later."""

    place: int

    @property
    def name(self) -> str:
        """Its name."""
        return f"run-{self.place:06}"

    @property
    def start_time(self) -> int:
        """When it started, ms since the epoch."""
        return FIRST_MS + self.place * 1_000

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Ten values between 0 and 1, different in every run."""
        random = np.random.default_rng(self.place).random(METRICS)
        return {f"metric_{n}": float(value) for n, value in enumerate(random)}

    def points(self) -> Points:
        """The metrics as points at step 0."""
        count = len(self.metrics)
        return Points(
            list(self.metrics),
            np.arange(count),
            np.zeros(count, np.int64),
            np.full(count, self.start_time),
            np.array(list(self.metrics.values())),
        )

    @cached_property
    def params(self) -> dict[str, str]:
        """Ten params, of few and of many values."""
        place = self.place
        values = [
            _OPTIMIZERS[place % 4],
            f"value-{place % 50:02}",
            str(place * 7919 % 8),
            str(10.0 ** -(place % 5)),
            str(2 ** (4 + place % 6)),
            f"/data/set-{place % 20}/train.parquet",
            str(place),
            "cosine" if place % 3 else "linear",
            str(0.1 * (place % 6)),
            "true" if place % 2 else "false",
        ]
        return {f"param_{n}": value for n, value in enumerate(values)}

    @property
    def tags(self) -> dict[str, str]:
        """Three tags."""
        place = self.place
        return {
            "team": f"team-{place % 5}",
            "stage": ("dev", "test", "prod")[place % 3],
            "note": f"a run of sweep {place // 50}",
        }


@dataclass(frozen=True)
class Query:
    """A search, and what it must find."""

    filter: str
    order_by: str
    matches: Callable[[RunData], bool]
    key: Callable[[RunData], float]
    """The answer is in order of this, from the greatest."""

    def body(self, experiment_id: str = "0") -> dict[str, Any]:
        """The body of runs/search."""
        body: dict[str, Any] = {"experiment_ids": [experiment_id], "max_results": PAGE}
        if self.filter:
            body["filter"] = self.filter
        if self.order_by:
            body["order_by"] = [self.order_by]
        return body

    def expected(self, count: int) -> list[str]:
        """The names that it must find among the first `count` runs, in order."""
        found = [run for run in map(RunData, range(count)) if self.matches(run)]
        found.sort(key=self.key, reverse=True)
        return [run.name for run in found[:PAGE]]


def _newest(run: RunData) -> float:
    return run.start_time


def _all(_run: RunData) -> bool:
    return True


QUERY: dict[str, Query] = {
    "newest": Query("", "attributes.start_time DESC", _all, _newest),
    "metric": Query(
        "metrics.metric_3 > 0.9", "", lambda run: run.metrics["metric_3"] > 0.9, _newest
    ),
    "metric-param": Query(
        "metrics.metric_3 > 0.5 AND params.param_2 = '4'",
        "metrics.metric_1 DESC",
        lambda run: run.metrics["metric_3"] > 0.5 and run.params["param_2"] == "4",
        lambda run: run.metrics["metric_1"],
    ),
    "tag-status": Query(
        "tags.team = 'team-2' AND attributes.status = 'RUNNING'",
        "",
        lambda run: run.tags["team"] == "team-2",
        _newest,
    ),
    "order": Query("", "metrics.metric_5 ASC", _all, lambda run: -run.metrics["metric_5"]),
    "param-like": Query(
        "params.param_1 LIKE 'value-1%'",
        "",
        lambda run: run.params["param_1"].startswith("value-1"),
        _newest,
    ),
    "name": Query(
        "attributes.run_name LIKE '%12%'",
        "",
        lambda run: "12" in run.name,
        _newest,
    ),
}
"""The searches of the table, by the end of their rows' names."""


def create_body(run: RunData) -> dict[str, Any]:
    """The body that creates a run. Its name is a tag too, as the mlflow client sends it:
    FastTrackML searches names by that."""
    return {
        "experiment_id": "0",
        "user_id": "bench",
        "run_name": run.name,
        "start_time": run.start_time,
        "tags": [{"key": "mlflow.runName", "value": run.name}],
    }


def batch_body(run: RunData, run_id: str) -> dict[str, Any]:
    """The body that logs all that a run has."""
    return {
        "run_id": run_id,
        "params": [{"key": key, "value": value} for key, value in run.params.items()],
        "tags": [{"key": key, "value": value} for key, value in run.tags.items()],
        "metrics": [
            {"key": key, "value": value, "timestamp": run.start_time, "step": 0}
            for key, value in run.metrics.items()
        ],
    }
