"""The history of metrics: every point of a key, from segments and unsealed blocks together.

A query reads which segments and blocks there are in one snapshot of the views, so that a point
that is being sealed or merged meanwhile is seen exactly once. Where a file of the snapshot is
gone by the time it is opened the query raises `SegmentGone`: ask again with a new snapshot.

Points are a set. What makes two points one is what MLflow's store keeps of them: timestamp, step
and value, with NaN as one value, no sign on zero and the infinities as the largest floats.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from events.codec import Block, Float64s, Int64s, decode_block
from projections.lake import Lake, SegmentGone, read_history, read_run
from projections.metrics import blocks
from projections.owned import owned_rows
from projections.page_tokens import Position
from projections.schema import purged
from projections.segments import StoredCurve, curves_of, paths_of
from projections.thinning import cut_level, kept_values, thinned

__all__ = ["Points", "SegmentGone", "bulk_history", "metric_history", "run_points", "sampled"]

BATCH_POINTS_MAX = 2_000_000
"""Runs are read together while they have fewer points than this, of whatever keys."""
BATCH_RUNS_MAX = 100
SUMMARIZED_FROM = 20
"""A curve of so many times the points that are wanted is drawn from summaries."""
WHOLE_POINTS = 100_000
"""A curve of fewer points is read as a whole where a summary of it won't do."""
Steps = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of one run and key, as columns of equal length, without repetitions."""

    timestamps: Int64s
    """Milliseconds since the epoch."""
    steps: Int64s
    values: Float64s
    """NaN as NaN; no infinities, see the module."""

    def __len__(self) -> int:
        return len(self.values)

    def at(self, places: slice | npt.NDArray[np.int64]) -> Points:
        """The points at these places."""
        return Points(self.timestamps[places], self.steps[places], self.values[places])


def metric_history(
    connection: sa.Connection,
    lake: Lake,
    run_id: str,
    key: str,
    limit: int | None = None,
    after: Position | None = None,
) -> tuple[Points, Position | None]:
    """A run's points of a key in order of timestamp, step, value (NaN as 0, behind 0).

    With a `limit`: so many behind the position `after`, and the position to go on from.
    """
    earliest = None if after is None else _whole(after[0])
    found = _read(connection, lake, [run_id], key, timestamp_min=earliest)
    points = _in_order(found.get(run_id, []), by_step=False)
    start = 0 if after is None else _place_behind(points, after)
    if limit is None or start + limit >= len(points):
        return points.at(slice(start, None)), None
    last = start + limit - 1
    return points.at(slice(start, start + limit)), _position(points, last)


def bulk_history(
    connection: sa.Connection, lake: Lake, run_ids: Sequence[str], key: str, limit: int
) -> list[tuple[str, Points]]:
    """The first `limit` points of runs in order of run id, timestamp, step, value."""
    answer: list[tuple[str, Points]] = []
    for batch in _batches(connection, sorted(set(run_ids))):
        if limit <= 0:
            break
        found = _read(connection, lake, batch, key)
        for run_id in batch:
            points = _in_order(found.pop(run_id, []), by_step=False).at(slice(0, limit))
            limit -= len(points)
            answer.append((run_id, points))
    return answer


def sampled(
    connection: sa.Connection,
    lake: Lake,
    run_ids: Sequence[str],
    key: str,
    points_max: int,
    steps: Steps | None = None,
) -> list[tuple[str, Points]]:
    """For each run in the order given up to `points_max` points in order of step, timestamp,
    value; of more than that a choice that keeps the first, the last and the extremes (`thinned`).

    `steps` bounds the steps, both ends included.
    """
    chosen: dict[str, Points] = {}
    wanted = list(dict.fromkeys(run_ids))
    # Summaries have the ends and the extremes, which are all that is chosen from four points on.
    if steps is None and points_max > 3:
        for run_id, curves in curves_of(connection, wanted, key, grade=0).items():
            if _is_worthwhile(curves, points_max):
                found_points = _from_summaries(connection, lake, run_id, key, points_max, curves)
                if found_points is not None:
                    chosen[run_id] = found_points
    for batch in _batches(connection, [run_id for run_id in wanted if run_id not in chosen]):
        found = _read(connection, lake, batch, key, steps)
        for run_id in batch:
            points = _in_order(found.pop(run_id, []), by_step=True)
            chosen[run_id] = points.at(
                thinned(points.steps, points.timestamps, points.values, points_max)
            )
    return [(run_id, chosen[run_id]) for run_id in run_ids]


def _is_worthwhile(curves: Sequence[StoredCurve], points_max: int) -> bool:
    """Whether to draw from summaries, and whether they are certain to stand for more points than
    are shown: the same point may be in several."""
    total = sum(curve.points for curve in curves)
    return total >= SUMMARIZED_FROM * points_max and any(
        curve.points > points_max for curve in curves
    )


def _from_summaries(
    connection: sa.Connection,
    lake: Lake,
    run_id: str,
    key: str,
    points_max: int,
    curves: Sequence[StoredCurve],
) -> Points | None:
    """The choice from the coarsest summaries that will do and from all other points; None where
    the curve is better read as a whole."""
    held = {(curve.path, curve.part): curve for curve in curves}
    found = _read(connection, lake, [run_id], key, without={path for path, _ in held})
    others = found.get(run_id)
    if others is None:
        return _in_order([], by_step=True)
    for grade in itertools.count(1):
        summarized = [_of_block(curve.block(), None) for curve in held.values()]
        points = _in_order([*others, *summarized], by_step=True)
        level = cut_level(points.steps, points.timestamps, points_max)
        coarsest = max((curve.level for curve in held.values()), default=0)
        if level > coarsest or not coarsest:
            break
        # The level is certain only as to the coarsest summaries, so only for them a file is read.
        stored = curves_of(connection, [run_id], key, grade).get(run_id, [])
        finer = {(curve.path, curve.part): curve for curve in stored}
        paths = {
            curve.path
            for place, curve in held.items()
            if curve.level == coarsest and place not in finer
        }
        held = {
            place: finer.get(place, curve) if curve.level >= level else curve
            for place, curve in held.items()
            if curve.path not in paths
        }
        if paths:
            if sum(curve.points for curve in curves) < WHOLE_POINTS:
                return None
            columns = read_history(lake, sorted(paths), [run_id], key, None)
            others.append(_Part(columns["timestamp"], columns["step"], columns["value"]))
    columns_of = (points.steps, points.timestamps, points.values)
    return points.at(thinned(*columns_of, points_max, summarized=True))


def run_points(connection: sa.Connection, lake: Lake, run_id: str) -> Iterator[Block]:
    """All points of a run with their series, a block at a time; a point may come more than once.

    Raises SegmentGone.
    """
    for (data,) in connection.execute(sa.select(blocks.c.data).where(blocks.c.run_id == run_id)):
        yield decode_block(data)
    paths = [path for path, _ in paths_of(connection, [run_id])[run_id]]
    yield from read_run(lake, paths, run_id)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Points as one block or the segments hold them."""

    timestamps: Int64s
    steps: Int64s
    values: Float64s


_PURGED = sa.select(purged.c.subject)
_BLOCKS = sa.select(blocks.c.run_id, blocks.c.data)
_BLOCK_POINTS = sa.select(blocks.c.run_id, sa.func.sum(blocks.c.points)).group_by(blocks.c.run_id)


def _read(
    connection: sa.Connection,
    lake: Lake,
    run_ids: Sequence[str],
    key: str,
    steps: Steps | None = None,
    timestamp_min: int | None = None,
    without: Collection[str] = (),
) -> dict[str, list[_Part]]:
    """What blocks and segments hold of the key, by run; not what is in the segments `without`."""
    gone = owned_rows(connection, _PURGED, purged.c.subject, run_ids)
    wanted = sorted(set(run_ids) - {subject for (subject,) in gone})
    found: dict[str, list[_Part]] = {run_id: [] for run_id in wanted}
    for run_id, data in owned_rows(connection, _BLOCKS, blocks.c.run_id, wanted):
        block = decode_block(data, key)
        if len(block):
            found[run_id].append(_of_block(block, steps))
    by_run = paths_of(connection, wanted)
    sealed = [run_id for run_id in wanted if by_run[run_id]]
    if sealed:
        paths = sorted({path for run_id in sealed for path, _ in by_run[run_id]} - set(without))
        if not paths:
            return found
        columns = read_history(lake, paths, sealed, key, steps, timestamp_min)
        all_points = _Part(columns["timestamp"], columns["step"], columns["value"])
        if len(sealed) == 1:
            found[sealed[0]].append(all_points)
        else:
            for place, part in _by_place(columns["place"], all_points):
                found[sealed[place - 1]].append(part)
    return found


def _by_place(places: npt.NDArray[np.int32], part: _Part) -> Iterator[tuple[int, _Part]]:
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]).tolist()
    ends = [*starts[1:], len(ordered)] if starts else []
    for start, end in zip(starts, ends, strict=True):
        at = order[start:end]
        yield int(ordered[start]), _Part(part.timestamps[at], part.steps[at], part.values[at])


def _of_block(block: Block, steps: Steps | None) -> _Part:
    if steps is None:
        return _Part(block.timestamps, block.steps, block.values)
    chosen = (block.steps >= steps[0]) & (block.steps <= steps[1])
    return _Part(block.timestamps[chosen], block.steps[chosen], block.values[chosen])


def _in_order(parts: Sequence[_Part], *, by_step: bool) -> Points:
    """The points as a set, sorted by timestamp and step or by step and timestamp, then value."""
    # Parts come as requests did; each has its points in order, mostly, and is behind another.
    parts = sorted(
        (part for part in parts if len(part.values)),
        key=lambda part: (part.steps if by_step else part.timestamps)[0],
    )
    if not parts:
        return Points(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    timestamps = np.concatenate([part.timestamps for part in parts])
    steps = np.concatenate([part.steps for part in parts])
    values = kept_values(np.concatenate([part.values for part in parts]))
    points = Points(timestamps, steps, values)
    first, second = (steps, timestamps) if by_step else (timestamps, steps)
    if len(first) < 2 or bool(np.all(first[1:] > first[:-1])):
        return points
    is_nan = np.isnan(values)
    compared = np.where(is_nan, 0.0, values)
    order = np.lexsort((is_nan, compared, second, first))
    columns = [column[order] for column in (first, second, compared, is_nan)]
    differs = np.append(True, np.zeros(len(order) - 1, np.bool_))
    for column in columns:
        differs[1:] |= column[1:] != column[:-1]
    return points.at(order[differs])


def _position(points: Points, place: int) -> Position:
    value = float(points.values[place])
    is_nan = value != value
    compared = 0.0 if is_nan else value
    return int(points.timestamps[place]), int(points.steps[place]), compared, is_nan


def _place_behind(points: Points, after: Position) -> int:
    """The first place behind a position."""
    timestamp = _whole(after[0])
    low = int(np.searchsorted(points.timestamps, timestamp, side="left"))
    high = int(np.searchsorted(points.timestamps, timestamp, side="right"))
    wanted = tuple(after)
    while low < high:
        middle = (low + high) // 2
        # Four numbers each, compared in their order.
        if _position(points, middle) <= wanted:
            low = middle + 1
        else:
            high = middle
    return low


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a position in a history begins with a timestamp, not {value!r}")
    return value


def _batches(connection: sa.Connection, run_ids: Sequence[str]) -> Iterator[list[str]]:
    """The runs in their order, so many at a time as have a bounded number of points."""
    if len(run_ids) < 2:
        yield from ([run_id] for run_id in run_ids)
        return
    counts = {run_id: 0 for run_id in run_ids}
    for run_id, found in paths_of(connection, run_ids).items():
        counts[run_id] += sum(points for _, points in found)
    for run_id, points in owned_rows(connection, _BLOCK_POINTS, blocks.c.run_id, run_ids):
        counts[run_id] += points
    batch: list[str] = []
    total = 0
    for run_id in run_ids:
        if batch and (total + counts[run_id] > BATCH_POINTS_MAX or len(batch) >= BATCH_RUNS_MAX):
            yield batch
            batch, total = [], 0
        batch.append(run_id)
        total += counts[run_id]
    yield batch
