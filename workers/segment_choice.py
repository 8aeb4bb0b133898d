"""Which segments of an experiment become one: few files, and points are rewritten rarely.

Files are few, and none is so large that it is dear to fetch from S3 for one curve, or to write
again for one purged run; so they don't grow with their experiment. See docs/lake.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from projections.segments import Segment

TIERS_FROM_POINTS = 50_000
TIER_FACTOR = 4
LARGE = 32
"""So many large segments, at most, fill one."""


def to_merge(given: Sequence[Segment], points_max: int, tier_segments: int) -> list[Segment]:
    """Of an experiment's segments, smallest first, the ones to merge now; none is a result.

    A tier with `tier_segments` small segments is merged together with what is smaller, so that each
    point is rewritten about once a tier. Large ones wait until they fill a segment of `points_max`
    points, so that the points of a busy experiment, which come in large ones, are rewritten once in
    all. One with half as many is full, and stays.
    """
    open_ones = [segment for segment in given if segment.points < points_max // 2]
    small = [segment for segment in open_ones if segment.points < points_max // LARGE]
    counts = Counter(_tier(segment.points) for segment in small)
    for tier in sorted(counts):
        if counts[tier] >= tier_segments:
            return _fitting((one for one in small if _tier(one.points) <= tier), points_max)
    if sum(segment.points for segment in open_ones) >= points_max:
        return _fitting(open_ones, points_max)
    return []


def _fitting(given: Iterable[Segment], points_max: int) -> list[Segment]:
    """The first of these that fit one segment; none where there is nothing to merge."""
    left = points_max
    chosen: list[Segment] = []
    for segment in given:
        left -= segment.points
        if left < 0:
            break
        chosen.append(segment)
    return chosen if len(chosen) > 1 else []


def _tier(points: int) -> int:
    """Segments of one tier differ in size by less than TIER_FACTOR; the small are all in one."""
    if points < TIERS_FROM_POINTS:
        return 0
    return 1 + int(math.log(points / TIERS_FROM_POINTS, TIER_FACTOR))
