"""The points that are logged: noisy curves in float32 precision, as a training gives them, or
uniformly random float64 values, which no compressor can help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Values = Literal["curves", "random"]

FIRST_MS = 1_700_000_000_000
STEP_MS = 230
"""About the time of one training step."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one run in the order in which a training logs them: step by step, all keys at
    each step, with the same time."""

    keys: list[str]
    index: npt.NDArray[np.int64]
    """For each point the place of its key in `keys`."""
    steps: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self) -> Iterator[tuple[str, float, int, int]]:
        """Key, value, timestamp and step of each."""
        columns = (self.index, self.values, self.timestamps, self.steps)
        for place, *rest in zip(*(column.tolist() for column in columns), strict=True):
            yield self.keys[place], *rest

    def parts(self, size: int) -> Iterator[Points]:
        """The points in batches of so many."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Points(
                self.keys,
                self.index[part],
                self.steps[part],
                self.timestamps[part],
                self.values[part],
            )


def metric_keys(count: int) -> list[str]:
    """The names of so many metrics."""
    return [f"train/metric_{place:02}" for place in range(count)]


def curve_values(random: np.random.Generator, steps: int, keys: int) -> npt.NDArray[np.float64]:
    """Falling curves with noise, one column a key, in float32 precision."""
    time = np.linspace(0.0, 6.0, steps)[:, None]
    height = random.uniform(0.5, 4.0, keys)
    floor = random.uniform(0.01, 0.5, keys)
    curves = height * np.exp(-time) + floor + random.normal(0, 0.03, (steps, keys))
    return curves.astype(np.float32).astype(np.float64)


def training(seed: int, steps: int, keys: int, values: Values = "curves") -> Points:
    """What one training logs: so many steps of so many keys."""
    random = np.random.default_rng(seed)
    if values == "curves":
        table = curve_values(random, steps, keys)
    else:
        table = random.random((steps, keys))
    times = FIRST_MS + np.cumsum(random.integers(STEP_MS - 20, STEP_MS + 20, steps))
    return Points(
        metric_keys(keys),
        np.tile(np.arange(keys), steps),
        np.repeat(np.arange(steps), keys),
        np.repeat(times, keys),
        table.reshape(-1),
    )
