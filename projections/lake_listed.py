"""What other engines see of a lake that is in S3: `files.json`, and `open.sql` which reads it.

S3 has no links. So a list names the files that count; it is one object, and a new one takes its
place at once: whoever reads it has all of one moment.
"""

from __future__ import annotations

import json
import time

from projections.lake import Lake
from projections.lake_published import OPEN_SQL, Folders, view_of
from projections.sql_rows import quoted
from projections.sql_tables import TABLES

FILES = "files.json"
AGAIN_S = 600.0
"""So often they are written all the same: a writer that had lost its lock may have come late."""


class Listed:
    """The list, kept as the views say."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._done: dict[str, str] = {}
        self._again_at = 0.0

    def sync(self, wanted: Folders, grace_s: float) -> bool:  # noqa: ARG002
        """Makes the list have these files and no others; of what was replaced nothing is left."""
        if time.monotonic() >= self._again_at:
            self._done.clear()
            self._again_at = time.monotonic() + AGAIN_S
        rows = sorted(
            (name, path) for (_, name), files in wanted.items() for path in files.values()
        )
        # One a line: whoever looks at it sees what it is.
        lines = ",\n".join(json.dumps({"table": name, "path": path}) for name, path in rows)
        self._publish(FILES, f"[\n{lines}\n]\n")
        self._publish(OPEN_SQL, open_sql(self._lake.place.uri, {name for name, _ in rows}))
        return False

    def tidy(self, grace_s: float) -> bool:  # noqa: ARG002
        """There is nothing to remove, now or later."""
        return False

    def _publish(self, name: str, text: str) -> None:
        if self._done.get(name) != text:
            self._lake.publish(name, text)
            self._done[name] = text


def open_sql(uri: str, names: set[str]) -> str:
    """The statements that make the tables in plain DuckDB; of tables that have files by now."""
    lines = [
        "-- The tables of a Runfold lake for DuckDB: `.read open.sql`, or execute it whole.",
        "-- From S3 itself: LOAD httpfs, and CREATE SECRET (TYPE s3, ...); first.",
        "-- Of files fetched from there: SET VARIABLE runfold_lake = '/path/to/folder'; first.",
        f"SET VARIABLE runfold_lake = coalesce(getvariable('runfold_lake'), {quoted(uri)});",
        "SET VARIABLE runfold_files = (SELECT map(list(name), list(files)) FROM (",
        "    SELECT \"table\" AS name, list(getvariable('runfold_lake') || '/' || path) AS files",
        f"    FROM read_json(getvariable('runfold_lake') || '/{FILES}',",
        "        columns = {\"table\": 'VARCHAR', path: 'VARCHAR'}) GROUP BY 1));",
    ]
    for table in TABLES:
        files = f"getvariable('runfold_files')[{quoted(table.name)}]"
        lines.append(view_of(table, files if table.name in names else None))
    return "\n".join(lines) + "\n"
