"""What the workers count, in numbers that the API process of the same server can read.

`runfold server` gives its children a page of shared memory, and /metrics of the API shows it. Each
number has its place there and is changed by one thread of one process; it outlives a worker that
is started again. A worker that runs alone has the same numbers for itself, on its own port.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal

from events.counters import LONG_SECONDS, SECONDS, Exposition, Histogram, Labels
from events.event import LANES

ROLES: Final = ("projector", "sealer", "gc")
Kind = Literal["counter", "gauge", "histogram"]
BYTES: Final = 8


@dataclass(frozen=True, eq=False)
class Measure:
    """One number, or one histogram, of a role."""

    role: str
    name: str
    kind: Kind
    help: str
    labels: Labels = field(default_factory=dict)
    bounds: tuple[float, ...] = ()

    @property
    def places(self) -> int:
        """How many numbers it takes: one, or each bucket's count and their sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


def _counter(role: str, name: str, help: str) -> Measure:
    return Measure(role, f"runfold_{name}_total", "counter", help)


def _seconds(role: str, name: str, help: str) -> Measure:
    return Measure(role, f"runfold_{name}_seconds", "histogram", help, bounds=LONG_SECONDS)


ACTIVE: Final = {
    role: Measure(
        role,
        "runfold_worker_active",
        "gauge",
        "1 where the worker works, 0 where it stands by or ends.",
        {"role": role},
    )
    for role in ROLES
}
FOLDED_EVENTS: Final = {
    lane: Measure(
        "projector", "runfold_folded_events_total", "counter", "Events folded.", {"lane": lane}
    )
    for lane in LANES
}
FOLD_SECONDS: Final = {
    lane: Measure(
        "projector",
        "runfold_fold_seconds",
        "histogram",
        "Time to fold a batch of events and to commit it.",
        {"lane": lane},
        SECONDS,
    )
    for lane in LANES
}
FOLD_ERRORS: Final = _counter(
    "projector", "fold_errors", "Times that folding failed and was tried again."
)
SEAL_SECONDS: Final = _seconds("sealer", "seal", "Time to seal points into a segment.")
SEALED_POINTS: Final = _counter("sealer", "sealed_points", "Points sealed into segments.")
SEALED_BYTES: Final = _counter(
    "sealer", "sealed_bytes", "Bytes of the segments they were sealed into."
)
MERGE_SECONDS: Final = _seconds(
    "sealer", "merge", "Time to put one segment in the place of others."
)
MERGED_POINTS: Final = _counter("sealer", "merged_points", "Points written again by merges.")
SEAL_ERRORS: Final = _counter("sealer", "seal_errors", "Times that sealing or merging failed.")
EXPORT_SECONDS: Final = _seconds("sealer", "export", "Time of a round of exports to the lake.")
EXPORT_ERRORS: Final = _counter("sealer", "export_errors", "Rounds of exports that failed.")
GC_SECONDS: Final = _seconds("gc", "gc", "Time of a purge of what was deleted.")
GC_PURGED: Final = _counter("gc", "gc_purged", "Runs, logged models and experiments purged.")
GC_ARTIFACTS: Final = _counter("gc", "gc_artifact_files", "Files of artifacts deleted.")
GC_SCRUBBED: Final = _counter(
    "gc", "gc_scrubbed_events", "Events of the log whose data was emptied."
)
GC_ERRORS: Final = _counter("gc", "gc_errors", "Purges that failed or could not be finished.")

MEASURES: Final[tuple[Measure, ...]] = (
    *ACTIVE.values(),
    *FOLDED_EVENTS.values(),
    *FOLD_SECONDS.values(),
    FOLD_ERRORS,
    SEAL_SECONDS,
    SEALED_POINTS,
    SEALED_BYTES,
    MERGE_SECONDS,
    MERGED_POINTS,
    SEAL_ERRORS,
    EXPORT_SECONDS,
    EXPORT_ERRORS,
    GC_SECONDS,
    GC_PURGED,
    GC_ARTIFACTS,
    GC_SCRUBBED,
    GC_ERRORS,
)
"""All of them, in the order of their places; those of one name stand together."""


def _starts() -> Iterator[tuple[Measure, int]]:
    start = 0
    for measure in MEASURES:
        yield measure, start
        start += measure.places


_START: Final = dict(_starts())
SIZE_BYTES: Final = BYTES * sum(measure.places for measure in MEASURES)


class WorkerCounts:
    """The numbers, in memory of this process or shared with others."""

    def __init__(self, shared_fd: int | None = None) -> None:
        """`shared_fd`: a file that others have open too; None: nobody else sees the numbers."""
        memory: bytearray | mmap.mmap = bytearray(SIZE_BYTES)
        if shared_fd is not None:
            # Whoever comes first makes the room; it is the same size for all.
            os.ftruncate(shared_fd, SIZE_BYTES)
            memory = mmap.mmap(shared_fd, SIZE_BYTES)
        self._values = memoryview(memory).cast("d")

    def add(self, measure: Measure, amount: float = 1) -> None:
        """Adds to a counter."""
        self._values[_START[measure]] += amount

    def set(self, measure: Measure, value: float) -> None:
        """Sets a gauge."""
        self._values[_START[measure]] = value

    def observe(self, measure: Measure, value: float) -> None:
        """Counts a value of a histogram."""
        start = _START[measure]
        self._values[start + bisect_left(measure.bounds, value)] += 1
        self._values[start + len(measure.bounds) + 1] += value

    def value(self, measure: Measure) -> float:
        """What a counter or gauge stands at."""
        return float(self._values[_START[measure]])

    def histogram(self, measure: Measure) -> Histogram:
        """What a histogram has, as it is now."""
        start = _START[measure]
        found = Histogram(measure.bounds)
        found.counts = [int(self._values[start + n]) for n in range(len(found.counts))]
        found.total = float(self._values[start + len(found.counts)])
        return found

    def write(self, into: Exposition, roles: Collection[str]) -> None:
        """Adds the families of these roles."""
        of_roles = (measure for measure in MEASURES if measure.role in roles)
        for _, group in groupby(of_roles, key=lambda measure: measure.name):
            measures = list(group)
            name, help, kind = measures[0].name, measures[0].help, measures[0].kind
            if kind == "histogram":
                samples = [(one.labels, self.histogram(one)) for one in measures]
                into.histogram(name, help, samples)
            else:
                family = into.counter if kind == "counter" else into.gauge
                family(name, help, *((one.labels, self.value(one)) for one in measures))
