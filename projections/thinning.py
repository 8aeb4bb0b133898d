"""Thins a curve for a chart: few of its points, which show how it runs.

Which points are chosen follows from the set of points alone, never from where they are stored, so
that a chart is the same before and after sealing, merging or a rebuild. The axis is cut at
multiples of a power of two, of steps, or of milliseconds where there are hardly any steps; of each
bucket the least and the greatest value stay. So the choice from the whole curve can also be made
from a summary of each of its parts: the least and greatest of finer buckets (`curve_of`), which a
segment has for its long curves. The longer the whole, the coarser a part's summary may be, so that
a chart of many parts takes hardly more than one of few.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from events.codec import Float64s, Int64s

POINTS_MAX = 2_500
"""No chart has more points, so that no summary needs more buckets."""
FLOAT_MAX = sys.float_info.max
_BUCKETS = (39, 312, POINTS_MAX - 2)
"""So many buckets have the summaries of a curve, coarsest first. The last is cut finer than any
choice by a level at least: a choice is cut into half as many buckets, and a level has at most twice
as many as the next. A chart needs the coarsest of a curve that is a small part of what it shows."""
POINTS_A_BUCKET = 20
"""A summary is kept of a curve that has so many points for each of its buckets; a shorter curve is
read itself."""
CURVE_POINTS = POINTS_A_BUCKET * _BUCKETS[0]
"""A curve of a run and key with so many points in a segment has a summary at least."""
_BY_STEP = 64
_LEVEL_MAX = 128
_LONG_BUCKET = 64
"""Buckets of so many points and more are looked at one by one: that costs less than to compare
each point with its bucket's extreme."""
Places = npt.NDArray[np.intp]


def kept_values(values: Float64s) -> Float64s:
    """Values as histories have them: the infinities as the largest floats, no sign on a zero."""
    kept: Float64s = np.clip(values, -FLOAT_MAX, FLOAT_MAX) + 0.0
    return kept


def thinned(
    steps: Int64s,
    timestamps: Int64s,
    values: Float64s,
    points_max: int,
    *,
    summarized: bool = False,
) -> Places:
    """The places, in order, of at most `points_max` of these points, which are in order of step
    and timestamp, without repetitions. `summarized`: some of them stand for more.

    First and last stay, and the extremes of each bucket of the axis: no peak of the curve is lost,
    however narrow. Where more buckets would fit, those with the widest range are cut in two. One
    point is the last, as in MLflow; a third alone is the one that is farthest from the line
    between first and last.
    """
    count = len(values)
    if not summarized and count <= points_max:
        return np.arange(count)
    if points_max <= 1:
        return np.array([count - 1])
    if points_max == 2:
        return np.unique([0, count - 1])
    if points_max == 3:
        return _with_farthest(values)
    parts = (points_max - 2) // 2
    axis = _Axis(steps, timestamps)
    level = axis.level(parts)
    edges = axis.edges(level)
    if level:
        edges = _cut_widest(values, edges, axis.edges(level - 1), parts - len(edges))
    return _ends_and_extremes(values, edges)


def cut_level(steps: Int64s, timestamps: Int64s, points_max: int) -> int:
    """The level at which the axis is cut to choose so many of these points, of which there are
    more. Of summaries it is the level of all that they stand for where it is above theirs, and
    otherwise at most that."""
    return _Axis(steps, timestamps).level((points_max - 2) // 2)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What stands for a long curve in charts."""

    points: int
    """It has at least so many points."""
    summaries: list[tuple[int, Places]]
    """The coarsest first: the level whose buckets have their extremes among the points at these
    places. A choice that is cut above that level is the same from them as from the curve."""


def curve_of(
    steps: Int64s, timestamps: Int64s, values: Float64s, *, with_finest: bool = False
) -> Curve:
    """A curve, which is in the lake's order, and has CURVE_POINTS at least.

    It has the summaries that are much shorter than the curve; `with_finest`: also the one that
    every choice can be made from.
    """
    kept = kept_values(values)
    axis = _Axis(steps, timestamps)
    points = axis.buckets(0)
    ends = _ends(steps, timestamps, kept)
    places = np.arange(len(kept))
    level = 0
    summaries = []
    for grade in reversed(range(len(_BUCKETS))):
        wanted = _BUCKETS[grade]
        finest = grade == len(_BUCKETS) - 1
        if len(kept) < POINTS_A_BUCKET * wanted and not (finest and with_finest):
            continue
        # A coarser summary is made from the one before, which knows nothing below its level.
        level = max(level, axis.level(wanted))
        inner = places[_ends_and_extremes(kept[places], axis.edges(level))]
        places = _distinct(np.concatenate((inner, ends)))
        summaries.append((level, places))
        axis = _Axis(steps[places], timestamps[places])
    return Curve(points, summaries[::-1])


def _ends(steps: Int64s, timestamps: Int64s, kept: Float64s) -> Places:
    """The first and the last in the order of a history, in which points of one step and time are
    ordered by value in another way than in the lake."""
    behind = int(np.argmax((steps != steps[0]) | (timestamps != timestamps[0]))) or len(kept)
    others = (steps[::-1] != steps[-1]) | (timestamps[::-1] != timestamps[-1])
    before = len(kept) - (int(np.argmax(others)) or len(kept))
    first, last = np.arange(behind), np.arange(before, len(kept))
    return np.array([_by_value(kept, first)[0], _by_value(kept, last)[-1]])


def _by_value(values: Float64s, places: Places) -> Places:
    """Places in the order of a history: NaN as 0, behind 0."""
    is_nan = np.isnan(values[places])
    return places[np.lexsort((is_nan, np.where(is_nan, 0.0, values[places])))]


def _with_farthest(values: Float64s) -> Places:
    with np.errstate(over="ignore", invalid="ignore"):
        line = np.linspace(values[0], values[-1], len(values))[1:-1]
        distance = np.abs(values[1:-1] - np.nan_to_num(line))
    return np.array([0, 1 + int(np.argmax(np.nan_to_num(distance))), len(values) - 1])


class _Axis:
    """What the buckets of points in order are cut by. Levels go from time, within each step, to
    steps: up to _BY_STEP a level is the power of two that is the width of a bucket in ms, from
    there on in steps. Each bucket of a level lies within one of the next."""

    def __init__(self, steps: Int64s, timestamps: Int64s) -> None:
        self._steps = (steps[1:] ^ steps[:-1]).view(np.uint64)
        self._timestamps = timestamps

    @cached_property
    def _times(self) -> npt.NDArray[np.uint64]:
        """In which bits neighbours differ: of different steps in all, of the same in time."""
        times = (self._timestamps[1:] ^ self._timestamps[:-1]).view(np.uint64)
        return np.where(self._steps != 0, np.uint64(2**64 - 1), times)

    def _cuts(self, level: int) -> npt.NDArray[np.bool_]:
        """Whether there is an edge between two neighbours: they differ in a bit from there on."""
        if level < _BY_STEP:
            return self._times >= np.uint64(1 << level)
        if level < _LEVEL_MAX:
            return self._steps >= np.uint64(1 << (level - _BY_STEP))
        return np.zeros(len(self._steps), np.bool_)

    def buckets(self, level: int) -> int:
        """How many buckets have points."""
        return 1 + int(np.count_nonzero(self._cuts(level)))

    def level(self, buckets_max: int) -> int:
        """The finest level that has no more buckets than this."""
        if len(self._steps) < buckets_max:
            return 0
        if self.buckets(_BY_STEP) > buckets_max:
            return _BY_STEP + _bits(self._steps, buckets_max)
        return _bits(self._times, buckets_max)

    def edges(self, level: int) -> Places:
        """Where the buckets begin."""
        return np.append(0, 1 + np.flatnonzero(self._cuts(level)))


def _bits(changed: npt.NDArray[np.uint64], count: int) -> int:
    """How many bits must not count for fewer of these than `count` to have others."""
    return bisect_left(
        range(_BY_STEP),
        True,
        key=lambda bits: int(np.count_nonzero(changed >= np.uint64(1 << bits))) < count,
    )


def _cut_widest(values: Float64s, edges: Places, finer: Places, more: int) -> Places:
    """The edges with so many more among the finer ones: those within the widest range."""
    with np.errstate(over="ignore", invalid="ignore"):
        ranges = np.fmax.reduceat(values, edges) - np.fmin.reduceat(values, edges)
    between = np.setdiff1d(finer, edges, assume_unique=True)
    widths = np.nan_to_num(ranges[np.searchsorted(edges, between, side="right") - 1], nan=-1.0)
    chosen = between[np.argsort(-widths, kind="stable")[:more]]
    return np.sort(np.concatenate((edges, chosen)))


def _ends_and_extremes(values: Float64s, edges: Places) -> Places:
    is_nan = np.isnan(values)
    low = high = values
    if is_nan.any():
        low, high = np.where(is_nan, np.inf, values), np.where(is_nan, -np.inf, values)
    if len(values) > _LONG_BUCKET * len(edges):
        starts, ends = edges.tolist(), [*edges[1:].tolist(), len(values)]
        buckets = list(zip(starts, ends, strict=True))
        smallest = np.array([start + int(low[start:end].argmin()) for start, end in buckets])
        greatest = np.array([start + int(high[start:end].argmax()) for start, end in buckets])
    else:
        smallest = _first_places(low, edges, np.minimum)
        greatest = _first_places(high, edges, np.maximum)
    return _distinct(np.concatenate(([0], smallest, greatest, [len(values) - 1])))


def _distinct(places: Places) -> Places:
    """In order and each once, as np.unique has them at several times the cost."""
    places.sort()
    distinct: Places = places[np.append(True, places[1:] != places[:-1])]
    return distinct


def _first_places(values: Float64s, edges: Places, best: np.ufunc) -> Places:
    """For each bucket, which begins at its edge, the first place of its least or greatest value."""
    lengths = np.diff(np.append(edges, len(values)))
    per_part = best.reduceat(values, edges)
    hits = np.flatnonzero(values == np.repeat(per_part, lengths))
    parts = np.searchsorted(edges, hits, side="right")
    firsts: Places = hits[np.append(True, parts[1:] != parts[:-1])]
    return firsts
