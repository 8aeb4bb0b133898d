"""Metric points of many runs as columns, in the order in which the lake keeps them.

Sorting is the dearest part of making a segment, and hardly ever needed: a training logs a key's
steps in their order, so points that are grouped by run and key are in order then. Only groups
that are not are sorted by every column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from events.codec import Block, Float64s, Int64s, Series

Name = tuple[str, Series]
"""Whose points: the run and its series."""
Range = tuple[int, int, int, int]
"""Least and greatest step, least and greatest timestamp."""
Places = npt.NDArray[np.intp]
_NARROW_MAX = 1 << 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PointColumns:
    """Points, none twice; in the lake's order, unless they were taken as they came."""

    names: list[Name]
    places: npt.NDArray[np.uint32]
    """For each point the place of its name in `names`."""
    steps: Int64s
    timestamps: Int64s
    """Milliseconds since the epoch."""
    values: Float64s

    def __len__(self) -> int:
        return len(self.values)

    def curves(self, points_min: int) -> Iterator[tuple[tuple[str, str], int, int]]:
        """The (run, key) that have so many points, with the places at which they begin and end."""
        found = self._counts()
        if max(found, default=0) < points_min:
            return
        counts: dict[tuple[str, str], int] = {}
        for (run_id, series), count in zip(self.names, found, strict=True):
            counts[run_id, series.key] = counts.get((run_id, series.key), 0) + count
        start = 0
        for name, count in counts.items():
            if count and count >= points_min:
                yield name, start, start + count
            start += count

    def _counts(self) -> list[int]:
        counts: list[int] = np.bincount(self.places, minlength=len(self.names)).tolist()
        return counts

    def runs(self) -> dict[str, int]:
        """How many points each run has."""
        found: dict[str, int] = {}
        for (run_id, _), count in zip(self.names, self._counts(), strict=True):
            found[run_id] = found.get(run_id, 0) + count
        return {run_id: count for run_id, count in found.items() if count}


class Gathered:
    """Points on their way into one file: blocks of many runs in any order."""

    def __init__(self) -> None:
        self.points = 0
        self.ranges: dict[str, Range] = {}
        """Where the points of each run lie, also once they were taken."""
        self._names: dict[Name, int] = {}
        self._places: list[npt.NDArray[np.uint32]] = []
        self._steps: list[Int64s] = []
        self._timestamps: list[Int64s] = []
        self._values: list[Float64s] = []

    def add(self, run_id: str, block: Block) -> None:
        """Adds the points of a run's block."""
        names = self._names
        mapping = [names.setdefault((run_id, series), len(names)) for series in block.series]
        if not len(block):
            return
        self.points += len(block)
        self._widen(run_id, block)
        self._places.append(np.array(mapping, np.uint32)[block.index])
        self._steps.append(block.steps)
        self._timestamps.append(block.timestamps)
        self._values.append(block.values)

    def _widen(self, run_id: str, block: Block) -> None:
        steps, times = block.steps, block.timestamps
        found = (int(steps.min()), int(steps.max()), int(times.min()), int(times.max()))
        known = self.ranges.get(run_id)
        self.ranges[run_id] = found if known is None else joined_range(known, found)

    @property
    def names(self) -> int:
        """How many runs and series they are of, which take more memory than points."""
        return len(self._names)

    def take(self) -> PointColumns:
        """Everything gathered, in the lake's order; nothing is left here, to spare memory."""
        return in_lake_order(*self._taken())

    def take_as_gathered(self) -> PointColumns:
        """The same as it came, for one who needs no order and knows that no point is here twice."""
        return PointColumns(*self._taken())

    def _taken(
        self,
    ) -> tuple[list[Name], npt.NDArray[np.uint32], Int64s, Int64s, Float64s]:
        names, self._names = list(self._names), {}
        self.points = 0
        return (
            names,
            _joined(self._places, np.uint32),
            _joined(self._steps, np.int64),
            _joined(self._timestamps, np.int64),
            _joined(self._values, np.float64),
        )


def joined_range(one: Range, other: Range) -> Range:
    """Where both lie."""
    return (
        min(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        max(one[3], other[3]),
    )


def _joined(parts: list[Any], dtype: Any) -> npt.NDArray[Any]:
    """One array of many, which are let go."""
    joined = np.concatenate(parts) if parts else np.empty(0, dtype)
    parts.clear()
    return joined


def in_lake_order(
    names: Sequence[Name],
    places: npt.NDArray[np.integer],
    steps: Int64s,
    timestamps: Int64s,
    values: Float64s,
) -> PointColumns:
    """Points in any order, each with the place of its name in `names`, in the lake's: by run, key,
    step, timestamp, value, model and dataset; NaN behind all values, null behind all names."""
    ranked, groups = _ranked(names)
    rank = np.empty(len(names), np.uint32)
    rank[ranked] = np.arange(len(names), dtype=np.uint32)
    kept = [names[place] for place in ranked.tolist()]
    found = rank[places]
    if len(names) <= _NARROW_MAX:
        # A stable sort of numbers so narrow is a radix sort.
        groups = groups.astype(np.uint16)
    grouped = groups[found]
    order = np.argsort(grouped, kind="stable")
    grouped, found = grouped[order], found[order]
    steps, timestamps, values = steps[order], timestamps[order], values[order]
    del order
    unsorted = _unsorted(grouped, steps)
    if len(unsorted):
        part = (found[unsorted], values[unsorted], timestamps[unsorted], steps[unsorted])
        inner = unsorted[np.lexsort((*part, grouped[unsorted]))]
        # What is grouped stays where its group is, so the places that are filled are the same.
        for column in (found, steps, timestamps, values):
            column[unsorted] = column[inner]
        keep = _first_of_each(found, steps, timestamps, values)
        if not keep.all():
            found, steps = found[keep], steps[keep]
            timestamps, values = timestamps[keep], values[keep]
    return PointColumns(kept, found, steps, timestamps, values)


def _ranked(names: Sequence[Name]) -> tuple[Places, Int64s]:
    """The places of names in their order, and in that order the number of each one's group: those
    of one run and key. Python compares each run and series once, however many runs have a key."""
    run_ranks = _ranks({run_id for run_id, _ in names})
    series_ranks = _ranks({series for _, series in names}, _series_order)
    key_ranks = _ranks({series.key for series in series_ranks})
    runs = np.fromiter((run_ranks[run_id] for run_id, _ in names), np.int64, len(names))
    series = np.fromiter((series_ranks[one] for _, one in names), np.int64, len(names))
    keys = np.fromiter((key_ranks[one.key] for _, one in names), np.int64, len(names))
    ranked = np.lexsort((series, runs))
    runs, keys = runs[ranked], keys[ranked]
    groups = np.zeros(len(names), np.int64)
    groups[1:] = np.cumsum((runs[1:] != runs[:-1]) | (keys[1:] != keys[:-1]))
    return ranked, groups


def _ranks(found: set[T], order: Callable[[T], Any] | None = None) -> dict[T, int]:
    return {one: place for place, one in enumerate(sorted(found, key=order))}  # type: ignore


def _series_order(series: Series) -> tuple[object, ...]:
    key, *rest = series
    return key, *((one is None, one or "") for one in rest)


def _unsorted(groups: npt.NDArray[np.integer], steps: Int64s) -> Places:
    """The places of all points of groups whose steps do not rise from each to the next."""
    if len(steps) < 2:
        return np.empty(0, np.intp)
    same = groups[1:] == groups[:-1]
    wrong = np.flatnonzero(same & (steps[1:] <= steps[:-1]))
    if not len(wrong):
        return wrong
    has_wrong = np.zeros(int(groups[-1]) + 1, np.bool_)
    has_wrong[groups[wrong]] = True
    return np.flatnonzero(has_wrong[groups])


def _first_of_each(
    places: npt.NDArray[np.uint32], steps: Int64s, timestamps: Int64s, values: Float64s
) -> npt.NDArray[np.bool_]:
    """Which points are not the same as the one before; NaN is the same as NaN."""
    differs = np.ones(len(values), np.bool_)
    same_value = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    differs[1:] = ~same_value
    for column in (places, steps, timestamps):
        differs[1:] |= column[1:] != column[:-1]
    return differs
