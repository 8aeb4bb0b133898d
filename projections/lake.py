"""The lake's files: sorted Parquet of metric points, written and read by DuckDB.

This is the one home of DuckDB. What a file holds and how it is named is told in docs/lake.md;
which files belong to the views is told by the manifest (projections/segments.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import numpy.typing as npt

from events.codec import Block, Series

COLUMNS = (
    "run_id",
    "key",
    "step",
    "timestamp",
    "value",
    "model_id",
    "dataset_name",
    "dataset_digest",
)
"""The columns of a segment, which are also its sort order."""

ROW_GROUP_ROWS = 32_768
"""Small enough that one run's history of one key reads little besides, large enough that the
footer of a file with 16 million points stays under 1 MB."""
READER_MEMORY_MB = 256
READER_THREADS = 2
LOCK = ".lock-"
SPILL = ".spill-"
SEGMENTS = ".segments"
"""The folder of the segments; what other engines read are links (projections/lake_published.py)."""
WRITING = ".writing"
"""The ending of a file that is not whole yet."""

_SEGMENT_NAME = re.compile(r"([0-9a-f]{8})-[0-9a-f-]{36}\.parquet(\.writing)?")

DuckDB = duckdb.DuckDBPyConnection


class SegmentGone(Exception):
    """A segment file that a snapshot named is no longer there: compaction has replaced it, or the
    views were replaced. A new snapshot names the files that are there."""


def open_duckdb(*, memory_mb: int, threads: int, temp: Path | None) -> DuckDB:
    """An in-memory DuckDB with these bounds; it never goes to the network.

    `temp` is the folder for what does not fit the memory; None: nothing is spilled.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{memory_mb}MB",
            "threads": threads,
            "temp_directory": "" if temp is None else str(temp),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        },
    )
    # Parquet is part of the wheel; this reads no file and downloads nothing.
    connection.execute("LOAD parquet")
    return connection


_local = threading.local()
_lock = threading.Lock()
_shared: list[DuckDB] = []


def reader_cursor() -> DuckDB:
    """This thread's cursor on the one connection for reading that a process has.

    The first call opens DuckDB; a server that was never asked for a sealed history has not.
    """
    cursor: DuckDB | None = getattr(_local, "cursor", None)
    if cursor is None:
        with _lock:
            if not _shared:
                # Its cache of footers stays off: it takes nine times the memory that it counts,
                # and saves a fifth of a millisecond.
                _shared.append(
                    open_duckdb(memory_mb=READER_MEMORY_MB, threads=READER_THREADS, temp=None)
                )
            cursor = _local.cursor = _shared[0].cursor()
    return cursor


def files(lake: Path, paths: Sequence[str]) -> list[str]:
    """Paths of the lake as DuckDB's read_parquet takes them: it would expand `*`, `?` and `[`."""
    return [re.sub(r"([\[*?])", r"[\1]", str(lake / path)) for path in paths]


def read_history(
    lake: Path,
    paths: Sequence[str],
    run_ids: Sequence[str],
    key: str,
    steps: tuple[int, int] | None,
    timestamp_min: int | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Points of one key: arrays `place` (1 for the first of `run_ids`), `timestamp`, `step`,
    `value`, in no order. `steps` bounds the step, both ends included.

    Raises SegmentGone where a file is missing.
    """
    query = "SELECT list_position(?, run_id) AS place, timestamp, step, value"
    query += " FROM read_parquet(?, hive_partitioning = false) WHERE key = ? AND run_id IN ("
    query += ", ".join("?" * len(run_ids)) + ")"
    values: list[Any] = [list(run_ids), files(lake, paths), key, *run_ids]
    if steps is not None:
        query += " AND step BETWEEN ? AND ?"
        values += steps
    if timestamp_min is not None:
        query += " AND timestamp >= ?"
        values.append(timestamp_min)
    return _fetch(query, values)


def read_run(lake: Path, paths: Sequence[str], run_id: str) -> Iterator[Block]:
    """All points of a run, as blocks in the files' order. Raises SegmentGone."""
    query = f"SELECT {', '.join(COLUMNS[1:])} FROM read_parquet(?, hive_partitioning = false)"
    for path in paths:
        found = _fetch(query + " WHERE run_id = ?", [files(lake, [path]), run_id])
        names = [_texts(found[name]) for name in ("key", *COLUMNS[5:])]
        places: dict[Series, int] = {}
        index = [
            places.setdefault(Series(*entry), len(places)) for entry in zip(*names, strict=True)
        ]
        yield Block(
            list(places),
            np.array(index, np.uint32),
            found["step"],
            found["timestamp"],
            found["value"],
        )


def _texts(column: npt.NDArray[Any]) -> list[Any]:
    """A column of text as a list; DuckDB gives a masked array where there are nulls."""
    return column.tolist()  # type: ignore[no-any-return]


def _fetch(query: str, values: list[Any]) -> dict[str, npt.NDArray[Any]]:
    try:
        return reader_cursor().execute(query, values).fetchnumpy()
    except duckdb.IOException as error:
        raise SegmentGone(str(error)) from error


def segment_path(experiment_id: str, generation: str, segment_id: str) -> str:
    """Where a segment lies in the lake."""
    return (
        f"{SEGMENTS}/experiment_id={quote(experiment_id, safe='')}/metrics/"
        f"{generation}-{segment_id}.parquet"
    )


def spill_folder(lake: Path, generation: str) -> Path:
    """For what does not fit the memory while files of this generation are made."""
    return lake / f"{SPILL}{generation}"


@contextlib.contextmanager
def generation_lock(lake: Path, generation: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds the right to write and delete a generation's files; the system frees it with the
    process. Yields False where another has it and `wait` is off."""
    lake.mkdir(parents=True, exist_ok=True)
    path = lake / f"{LOCK}{generation}"
    mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(opened, mode)
            except BlockingIOError:
                yield False
                return
            # A sweep may have removed the file between the two calls: then it locks nobody out.
            if not path.exists() or path.stat().st_ino != os.fstat(opened).st_ino:
                continue
            yield True
            return
        finally:
            os.close(opened)


def locked_generations(lake: Path) -> set[str]:
    """The generations that ever had a lock in this lake, and still have its file."""
    return {path.name.removeprefix(LOCK) for path in lake.glob(f"{LOCK}*")}


def remove_file(lake: Path, path: str) -> None:
    """Deletes a segment file, and its experiment's folders where they are empty then."""
    target = lake / path
    target.unlink(missing_ok=True)
    for folder in (target.parent, target.parent.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


@dataclass(frozen=True, slots=True)
class Found:
    """A segment file that is there, whatever the manifest says."""

    path: str
    generation: str


def found_files(lake: Path) -> Iterator[Found]:
    """Every segment file in the lake, also those that are not whole."""
    for file in lake.glob(f"{SEGMENTS}/experiment_id=*/metrics/*"):
        named = _SEGMENT_NAME.fullmatch(file.name)
        if named is not None:
            yield Found(str(file.relative_to(lake)), named[1])
