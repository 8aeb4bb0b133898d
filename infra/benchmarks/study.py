"""Trainings of four teams, for questions over all of them: what is logged, what is asked, and the
answers as numpy finds them in what was logged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from events.event import NewEvent
from infra.benchmarks.curves import Points, metric_keys, training
from infra.benchmarks.fill import created, experiment_created, points_events, run_id_of

EXPERIMENTS = 4
KEYS = 20
STEPS = 2_500
PARTS = 200
"""What the steps of a curve are thinned to."""
QUANTILES = (0.1, 0.5, 0.9)
KEY = metric_keys(KEYS)[7]
"""The metric that is asked for."""
STEP = 2_000
"""The step at which the best run is asked for."""

Curve = npt.NDArray[np.float64]
"""A row a part of the steps: the mean and the quantiles of all values in it, over all runs."""
Best = dict[str, tuple[str, float]]
"""The run with the least value at STEP, by experiment."""

CURVE_SQL = f"""
SELECT step * {PARTS} // {STEPS} AS part, avg(value) AS mean,
  quantile_cont(value, {list(QUANTILES)}) AS quantiles
FROM metrics WHERE key = '{KEY}' GROUP BY part ORDER BY part
"""
BEST_SQL = f"""
SELECT experiment_id, arg_min(run_id, value) AS run_id, min(value) AS best
FROM metrics WHERE key = '{KEY}' AND step = {STEP} GROUP BY experiment_id ORDER BY experiment_id
"""


@dataclass(frozen=True)
class Study:
    """So many runs, each with STEPS points of each of KEYS metrics."""

    runs: int

    @property
    def points(self) -> int:
        """How many points they have together."""
        return self.runs * STEPS * KEYS

    def run_ids(self) -> list[str]:
        """The ids of the runs, by their place."""
        return [run_id_of(place) for place in range(self.runs)]

    def points_of(self, place: int) -> Points:
        """What a run logs."""
        return training(place, STEPS, KEYS)

    def events(self) -> Iterator[NewEvent]:
        """The study as a log has it."""
        for experiment_id in experiment_ids():
            yield experiment_created(experiment_id, f"study-{experiment_id}")
        for place, run_id in enumerate(self.run_ids()):
            yield created(run_id, f"run-{place:06}", experiment_id=experiment_of(place))
            yield from points_events(run_id, self.points_of(place))

    def values(self) -> npt.NDArray[np.float64]:
        """The values of KEY: a row a run, a column a step."""
        place = metric_keys(KEYS).index(KEY)
        return np.array([self.points_of(run).values[place::KEYS] for run in range(self.runs)])


def experiment_ids() -> list[str]:
    """The experiments beside the default one."""
    return [str(number + 1) for number in range(EXPERIMENTS)]


def experiment_of(place: int) -> str:
    """A run's experiment."""
    return str(place % EXPERIMENTS + 1)


def curve_of(steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Curve:
    """The mean and the quantiles of points, in PARTS parts of their steps."""
    order = np.argsort(steps, kind="stable")
    parts = steps[order] * PARTS // STEPS
    cuts = np.flatnonzero(np.diff(parts)) + 1
    return np.array(
        [[part.mean(), *np.quantile(part, QUANTILES)] for part in np.split(values[order], cuts)]
    )


def wanted_curve(values: npt.NDArray[np.float64]) -> Curve:
    """The curve of all runs."""
    return curve_of(np.tile(np.arange(STEPS), len(values)), values.reshape(-1))


def wanted_best(values: npt.NDArray[np.float64]) -> Best:
    """The best run of each experiment."""
    found: Best = {}
    for first in range(min(EXPERIMENTS, len(values))):
        place = first + EXPERIMENTS * int(np.argmin(values[first::EXPERIMENTS, STEP]))
        found[experiment_of(place)] = (run_id_of(place), float(values[place, STEP]))
    return found


def wrong_curve(found: Curve, wanted: Curve) -> Iterator[str]:
    """Compares two curves; sums in another order differ in their last digits."""
    if found.shape != wanted.shape:
        yield f"a curve of {found.shape} for one of {wanted.shape}"
    elif not np.allclose(found, wanted, rtol=1e-9, atol=1e-12):
        wrong = ~np.isclose(found, wanted, rtol=1e-9, atol=1e-12).all(axis=1)
        part = int(np.flatnonzero(wrong)[0])
        yield f"{wrong.sum()} parts of the curve are wrong, such as {part}: {found[part].tolist()}"


def wrong_best(found: Best, wanted: Best) -> Iterator[str]:
    """Compares the best runs."""
    if found != wanted:
        yield f"the best runs are {found}, not {wanted}"
