"""Thins a curve for a chart: few of its points, which show how it runs.

Which points are chosen follows from the set of points alone, never from where they are stored, so
that a chart is the same before and after sealing, merging or a rebuild. The axis is cut at
multiples of a power of two, of steps, or of milliseconds where there are hardly any steps; of each
bucket the least and the greatest value stay. So the choice from the whole curve can also be made
from a summary of each of its parts: the least and greatest of finer buckets (`curve_of`), which a
segment has for its long curves.
"""

from __future__ import annotations

import sys
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from events.codec import Float64s, Int64s

POINTS_MAX = 2_500
"""No chart has more points, so that no summary needs more buckets."""
FLOAT_MAX = sys.float_info.max
_PARTS_MAX = (POINTS_MAX - 2) // 2
_BUCKETS_MAX = 2 * _PARTS_MAX
"""A summary is cut finer than any choice from it by a level at least: were its buckets as wide as a
choice's, or wider, those of half that width would be at most as many as this, and it had those."""
_LEVEL_MAX = 64
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
    axis = _axis(steps, timestamps, parts)
    level = axis.level(parts)
    edges = axis.edges(level)
    if level:
        edges = _cut_widest(values, edges, axis.edges(level - 1), parts - len(edges))
    return _ends_and_extremes(values, edges)


def curve_of(steps: Int64s, timestamps: Int64s, values: Float64s) -> Places:
    """The places of the points that summarize a long curve; it is in the lake's order."""
    axis = _axis(steps, timestamps, _PARTS_MAX)
    kept = kept_values(values)
    places = _ends_and_extremes(kept, axis.edges(axis.level(_BUCKETS_MAX)))
    # Points of one step and time are ordered by value in another way in the lake than in histories.
    first = np.flatnonzero((steps == steps[0]) & (timestamps == timestamps[0]))
    last = np.flatnonzero((steps == steps[-1]) & (timestamps == timestamps[-1]))
    ends = [_by_value(kept, first)[0], _by_value(kept, last)[-1]]
    return np.unique(np.concatenate((places, ends)))


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
    """What the buckets of points in order are cut by: steps, or time within each step. A level is
    the power of two that is the width of a bucket."""

    def __init__(self, column: Int64s, always: npt.NDArray[np.bool_] | None = None) -> None:
        """`always`: between which neighbours there is an edge at every level."""
        self._changed = (column[1:] ^ column[:-1]).view(np.uint64)
        self._always = always

    def _cuts(self, level: int) -> npt.NDArray[np.bool_]:
        """Whether there is an edge between two neighbours: they differ in a bit from there on."""
        if level >= _LEVEL_MAX:
            cuts = np.zeros(len(self._changed), np.bool_)
        else:
            cuts = self._changed >= np.uint64(1 << level)
        return cuts if self._always is None else cuts | self._always

    def buckets(self, level: int) -> int:
        """How many buckets have points."""
        return 1 + int(np.count_nonzero(self._cuts(level)))

    def level(self, buckets_max: int) -> int:
        """The finest level that has no more buckets than this."""
        return bisect_left(
            range(_LEVEL_MAX), True, key=lambda level: self.buckets(level) <= buckets_max
        )

    def edges(self, level: int) -> Places:
        """Where the buckets begin."""
        return np.append(0, 1 + np.flatnonzero(self._cuts(level)))


def _axis(steps: Int64s, timestamps: Int64s, parts: int) -> _Axis:
    """Steps, unless there are so few that each can have a bucket of its own."""
    by_step = _Axis(steps)
    if by_step.buckets(0) > parts:
        return by_step
    return _Axis(timestamps, steps[1:] != steps[:-1])


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
    return np.unique(np.concatenate(([0], smallest, greatest, [len(values) - 1])))


def _first_places(values: Float64s, edges: Places, best: np.ufunc) -> Places:
    """For each bucket, which begins at its edge, the first place of its least or greatest value."""
    lengths = np.diff(np.append(edges, len(values)))
    per_part = best.reduceat(values, edges)
    hits = np.flatnonzero(values == np.repeat(per_part, lengths))
    parts = np.searchsorted(edges, hits, side="right")
    firsts: Places = hits[np.append(True, parts[1:] != parts[:-1])]
    return firsts
