"""The lake's files: sorted Parquet of metric points, written and read by DuckDB.

This is the one home of DuckDB. What a file holds and how it is named is told in docs/lake.md;
which files belong to the views is told by the manifest (projections/segments.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import numpy.typing as npt

from events.codec import Block, Series
from events.errors import TemporarilyUnavailable
from events.s3_settings import S3Access

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
SPILL = ".spill-"
SEGMENTS, EXPORTS = ".segments", ".exports"
"""The folders of the segments and of the exports; what other engines read are links to what is in
them (projections/lake_published.py)."""
STORES = (SEGMENTS, EXPORTS)
WRITING = ".writing"
"""The ending of a file that is not whole yet."""

_SEGMENT_NAME = re.compile(r"([0-9a-f]{8})-[0-9a-f-]{36}\.parquet(\.writing)?")

DuckDB = duckdb.DuckDBPyConnection


class SegmentGone(Exception):
    """A segment file that a snapshot named is no longer there: compaction has replaced it, or the
    views were replaced. A new snapshot names the files that are there."""


@dataclass(frozen=True, slots=True)
class LakePlace:
    """Where a lake is, for another process to open the same (projections/opened_lake.py)."""

    folder: str
    uri: str = ""
    """The `s3:` URI of the files; without one they are in the folder."""
    owner: str = ""
    """Whose lake it is: the id of the log."""
    cache_mb: int = 0
    """How much the folder may have of what is elsewhere."""
    s3: S3Access = field(default_factory=S3Access)


class Lake:
    """The lake's files, in a folder. Paths are relative to it.

    Where the files are elsewhere (projections/s3_lake.py) the folder has those that were written
    or read lately, and what is done to a file here is done there too.
    """

    is_remote = False
    """Whether the files are elsewhere than in the folder."""
    retired_s = 60.0
    """A file that others took the place of is kept so long for readers that have begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def place(self) -> LakePlace:
        """What opens it in another process."""
        return LakePlace(str(self.folder))

    @property
    def away(self) -> str | None:
        """Why files can't be kept and had, where they were asked for in vain just now."""
        return None

    def ready(self) -> None:
        """Raises TemporarilyUnavailable where files can't be kept at this moment."""

    def keep(self, path: str) -> None:
        """Makes a file, which is in the folder, whole and durable, one of the lake; only then may
        the views name it. Raises TemporarilyUnavailable: it is not used then."""

    def fetch(self, paths: Collection[str]) -> None:
        """Sees to it that files are in the folder for the next moment.

        Raises SegmentGone where one is not in the lake, TemporarilyUnavailable where it can't be
        had now. Here nothing is looked at: who opens a file that is gone is told.
        """

    def files(self, paths: Sequence[str]) -> list[str]:
        """Files, fetched, as DuckDB's read_parquet takes them. Raises what `fetch` does."""
        self.fetch(paths)
        return [escaped(self.folder / path) for path in paths]

    def link(self, places: Mapping[Path, str]) -> None:
        """Links files elsewhere on the folder's file system, where they stay whatever becomes of
        them here. Raises what `fetch` does."""
        for target, path in places.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.folder / path, target)
            except FileNotFoundError as error:
                raise SegmentGone(f"{path} was replaced") from error

    @contextlib.contextmanager
    def held(self, paths: Sequence[str], folder: Path) -> Iterator[list[str]]:  # noqa: ARG002
        """Files, as `files` names them, for a long time. `folder` may be made for that, on this
        file system; it is gone then. Raises what `fetch` does."""
        yield self.files(paths)

    def remove(self, path: str) -> None:
        """Deletes a file, and its experiment's folders where they are empty then. One that is not
        there is fine. Raises TemporarilyUnavailable."""
        target = self.folder / path
        target.unlink(missing_ok=True)
        for folder in (target.parent, target.parent.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def discard(self, path: str) -> None:
        """Deletes a file that the views never named; at the latest a sweep does."""
        with contextlib.suppress(TemporarilyUnavailable):
            self.remove(path)

    def found(self, store: str, *, young_s: float = 0.0) -> Iterator[tuple[str, bool]]:
        """Every file of a store, whatever the views say, also those that are not whole; and whether
        it was written to within the last `young_s`."""
        since = time.time() - young_s
        for file in (self.folder / store).glob("experiment_id=*/*/*"):
            with contextlib.suppress(FileNotFoundError):
                is_young = young_s > 0 and file.stat().st_mtime > since
                yield str(file.relative_to(self.folder)), is_young

    def publish(self, name: str, text: str) -> None:
        """Puts a small file, whole, where other engines look for it."""
        new = self.folder / f".{name}-{secrets.token_hex(4)}"
        new.write_text(text, "utf-8")
        new.replace(self.folder / name)

    def tidy(self, known: Callable[[], Collection[str]]) -> None:
        """Drops from the folder what it has of another place and the views know no more."""


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


def escaped(path: Path) -> str:
    """A path as DuckDB's read_parquet takes it: it would expand `*`, `?` and `[`."""
    return re.sub(r"([\[*?])", r"[\1]", str(path))


def read_history(
    lake: Lake,
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
    values: list[Any] = [list(run_ids), lake.files(paths), key, *run_ids]
    if steps is not None:
        query += " AND step BETWEEN ? AND ?"
        values += steps
    if timestamp_min is not None:
        query += " AND timestamp >= ?"
        values.append(timestamp_min)
    return _fetch(query, values)


def read_run(lake: Lake, paths: Sequence[str], run_id: str) -> Iterator[Block]:
    """All points of a run, as blocks in the files' order. Raises SegmentGone."""
    query = f"SELECT {', '.join(COLUMNS[1:])} FROM read_parquet(?, hive_partitioning = false)"
    for path in paths:
        found = _fetch(query + " WHERE run_id = ?", [lake.files([path]), run_id])
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


def spill_folder(lake: Lake, generation: str) -> Path:
    """For what does not fit the memory while files of this generation are made."""
    return lake.folder / f"{SPILL}{generation}"


@dataclass(frozen=True, slots=True)
class Found:
    """A segment file that is there, whatever the manifest says."""

    path: str
    generation: str
    is_young: bool


def found_files(lake: Lake, *, young_s: float = 0.0) -> Iterator[Found]:
    """Every segment file in the lake, as `Lake.found` finds them."""
    for path, is_young in lake.found(SEGMENTS, young_s=young_s):
        named = _SEGMENT_NAME.fullmatch(path.rpartition("/")[2])
        if named is not None:
            yield Found(path, named[1], is_young)
