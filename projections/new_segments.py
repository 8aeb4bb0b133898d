"""A segment's file on its way into the lake: whole and durable before it has its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uuid_utils

from projections.lake import WRITING, Lake, segment_path
from projections.segments import Written, WrittenCurve


@dataclass(slots=True)
class NewSegment:
    """A segment that is being written."""

    segment_id: str
    path: str
    """Relative to the lake."""
    unfinished: Path
    """Where it is until it is whole."""
    size_bytes: int = 0

    def written(self, runs: dict[str, int], curves: list[WrittenCurve]) -> Written:
        """What it is, once it is whole, with what it was filled with."""
        return Written(self.segment_id, self.path, self.size_bytes, runs, curves)


@contextlib.contextmanager
def new_segment(lake: Lake, experiment_id: str, generation: str) -> Iterator[NewSegment]:
    """A segment, which is filled within the block and is then one of the lake's files."""
    segment_id = str(uuid_utils.uuid7())
    path = segment_path(experiment_id, generation, segment_id)
    target = lake.folder / path
    temporary = target.with_name(target.name + WRITING)
    _create(temporary)
    segment = NewSegment(segment_id, path, temporary)
    try:
        yield segment
        _make_durable(temporary)
        temporary.rename(target)
        _make_durable(target.parent)
        segment.size_bytes = target.stat().st_size
        lake.keep(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        lake.discard(path)
        raise


def _create(path: Path) -> None:
    """An empty file, so that nobody takes its folder for an empty one and removes it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.touch()
        except FileNotFoundError:
            continue
        return


def _make_durable(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
