"""What other engines see of the lake: `experiment_id=…/<table>/*.parquet`, and `open.sql`.

The files that count are linked there. A new file is added by its link alone. Where a file takes
another's place, a new folder with all the links is made, and the table's name, a symbolic link, is
turned to it at one instant: who lists the folder sees the one or the other, never both.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from projections.lake import Lake
from projections.lake_exports import folder_of
from projections.query_points import COLUMNS_SQL
from projections.sql_rows import quoted
from projections.sql_tables import TABLES, SqlTable

OPEN_SQL = "open.sql"
LISTING_S = 5.0
"""A folder that another took the place of stays so long, for who was just listing it. It has a link
to every file, so for longer there would be many more names than files."""
Folders = dict[tuple[str, str], dict[str, str]]
"""For each experiment's folder and table the files in it, by name: their paths in the lake."""


def wanted_folders(connection: sa.Connection) -> Folders:
    """What the views say is to be seen."""
    found: Folders = {}
    for experiment_id, name, path in connection.exec_driver_sql(
        "SELECT experiment_id, name, path FROM export_files UNION ALL"
        " SELECT experiment_id, 'metrics', path FROM segments"
    ):
        files = found.setdefault((folder_of(experiment_id), name), {})
        files[path.rpartition("/")[2]] = path
    return found


class Published:
    """The folders that others read, kept as the views say."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._folder = lake.folder
        self._done: dict[tuple[str, str], frozenset[str]] | None = None
        self._opened = ""

    def sync(self, wanted: Folders, grace_s: float) -> bool:
        """Makes the folders hold these files and no others. Folders that others took the place of
        stay for `grace_s`, for who was just listing them; returns whether there are any."""
        if self._done is None:
            # An earlier layout had folders where links are now.
            self.tidy(grace_s)
            self._done = _found(self._folder)
        done = self._done
        for place in sorted({*done, *wanted}):
            files = wanted.get(place, {})
            if done.get(place) != frozenset(files):
                self._sync_one(place, files)
        self._done = {place: frozenset(files) for place, files in wanted.items()}
        self._write_open_sql({name for _, name in wanted})
        return self.tidy(grace_s)

    def _sync_one(self, place: tuple[str, str], files: Mapping[str, str]) -> None:
        experiment, name = place
        link = self._folder / experiment / name
        current = {file.name for file in link.iterdir()} if link.is_dir() else None
        if not files:
            link.unlink(missing_ok=True)
        elif current is not None and current < files.keys():
            for file in sorted(files.keys() - current):
                (link / file).hardlink_to(self._folder / files[file])
        elif current is None or current != files.keys():
            folder = link.with_name(f".{name}-{secrets.token_hex(4)}")
            folder.mkdir(parents=True)
            for file, path in files.items():
                (folder / file).hardlink_to(self._folder / path)
            new = link.with_name(f".{name}-{secrets.token_hex(4)}.link")
            new.symlink_to(folder.name)
            new.replace(link)

    def tidy(self, grace_s: float) -> bool:
        """Removes the folders that others took the place of; returns whether any are too young."""
        are_left = False
        for experiment in self._folder.glob("experiment_id=*"):
            used = {link.readlink().name for link in experiment.iterdir() if link.is_symlink()}
            for folder in experiment.iterdir():
                if folder.is_symlink() or folder.name in used:
                    continue
                # It was touched last when it was made or added to, so a fresh mark is set first.
                marked = folder.with_name(folder.name + ".gone")
                if not folder.name.endswith(".gone"):
                    folder.rename(marked)
                    os.utime(marked)
                    folder = marked
                if grace_s <= 0 or time.time() - folder.stat().st_mtime >= grace_s:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    are_left = True
            with contextlib.suppress(OSError):
                experiment.rmdir()
        return are_left

    def _write_open_sql(self, names: set[str]) -> None:
        text = open_sql(self._folder, names)
        if text == self._opened:
            return
        self._lake.publish(OPEN_SQL, text)
        self._opened = text


def _found(lake: Path) -> dict[tuple[str, str], frozenset[str]]:
    """The folders that an earlier process has left."""
    return {place: frozenset(names) for place, names in _listed(lake)}


def _listed(lake: Path) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for experiment in lake.glob("experiment_id=*"):
        for link in experiment.iterdir():
            if link.is_symlink():
                yield (experiment.name, link.name), [file.name for file in link.iterdir()]


def open_sql(lake: Path, names: set[str]) -> str:
    """The statements that make the tables in plain DuckDB; of tables that have files by now."""
    lines = [
        "-- The tables of a Runfold lake for DuckDB: `.read open.sql`, or execute it whole.",
        "-- Where the lake lies elsewhere: SET VARIABLE runfold_lake = '/path/to/lake'; first.",
        "SET VARIABLE runfold_lake = coalesce(getvariable('runfold_lake'),"
        f" {quoted(str(lake.resolve()))});",
    ]
    for table in TABLES:
        files = f"getvariable('runfold_lake') || '/experiment_id=*/{quote(table.name)}/*.parquet'"
        lines.append(view_of(table, files if table.name in names else None))
    return "\n".join(lines) + "\n"


def view_of(table: SqlTable, files: str | None) -> str:
    """What makes a table of its files, an expression; None: it has none."""
    view = f"CREATE OR REPLACE VIEW {table.name} AS SELECT "
    if files is None:
        columns = ", ".join(f"NULL::{column.type} AS {column.name}" for column in table.columns)
        return f"{view}{columns} WHERE false;"
    columns = COLUMNS_SQL if table.name == "metrics" else ", ".join(table.column_names())
    return (
        f"{view}{columns} FROM read_parquet({files}, hive_partitioning = true,"
        " hive_types = {'experiment_id': VARCHAR});"
    )
