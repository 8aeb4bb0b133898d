"""Puts runs into a peer's SQLite file directly, as its server would have them: over HTTP it would
take many minutes. The server has made the tables, so that they and their indexes are its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from infra.benchmarks.curves import FIRST_MS, Points
from infra.benchmarks.fill import run_id_of
from infra.benchmarks.rows import FASTTRACKML, MLFLOW
from infra.benchmarks.run_data import RunData
from infra.benchmarks.study import Study, experiment_ids, experiment_of

FILES = {MLFLOW: "mlflow.db", FASTTRACKML: "fasttrackml.db"}
CACHE_KB = 1_500_000
"""Enough for the indexes that are filled in another order than their own."""
_OWN_COLUMNS: dict[str, dict[str, int]] = {
    "experiments": {"namespace_id": 1},
    "latest_metrics": {"context_id": 1},
}
"""What FastTrackML has beside MLflow's: it makes one namespace and one context itself."""
Row = dict[str, Any]


class PeerFile:
    """The database of a peer that is stopped, being filled."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._connection = sqlite3.connect(folder / FILES[name])
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()

    def close(self) -> None:
        """Commits, and leaves the file as the server wants it."""
        self._connection.commit()
        self._connection.close()

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Adds rows that have the same columns."""
        if rows:
            own = _OWN_COLUMNS.get(table, {}) if self._name == FASTTRACKML else {}
            columns = [*rows[0], *own]
            marks = ", ".join("?" * len(columns))
            values = [(*row.values(), *own.values()) for row in rows]
            names = ", ".join(f'"{name}"' for name in columns)
            self._connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)

    def insert_points(self, run_id: str, points: Points) -> None:
        """Adds a run's points in the order in which they were logged, and the latest of each
        key."""
        own = ["iter", "context_id"] if self._name == FASTTRACKML else []
        columns = ["key", "value", "timestamp", "run_uuid", "step", "is_nan", *own]
        marks = ", ".join("?" * len(columns))
        self._connection.executemany(
            f"INSERT INTO metrics ({', '.join(columns)}) VALUES ({marks})",
            self._point_rows(run_id, points),
        )
        *_, latest = points.parts(len(points.keys))
        self.insert("latest_metrics", list(_latest_rows(self._name, run_id, latest)))

    def _point_rows(self, run_id: str, points: Points) -> Iterator[tuple[Any, ...]]:
        if self._name == FASTTRACKML:
            for key, value, timestamp, step in points.rows():
                yield key, value, timestamp, run_id, step, False, step + 1, 1
        else:
            for key, value, timestamp, step in points.rows():
                yield key, value, timestamp, run_id, step, False


def _latest_rows(name: str, run_id: str, points: Points) -> Iterator[Row]:
    for key, value, timestamp, step in points.rows():
        own = {"last_iter": step + 1} if name == FASTTRACKML else {}
        yield {
            "key": key,
            "value": value,
            "timestamp": timestamp,
            "step": step,
            "is_nan": False,
            "run_uuid": run_id,
            **own,
        }


def _run_row(name: str, place: int, experiment_id: str, run_name: str, start: int) -> Row:
    run_id = run_id_of(place)
    return {
        "run_uuid": run_id,
        "name": run_name,
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": "bench",
        "status": "RUNNING",
        "start_time": start,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts",
        "experiment_id": int(experiment_id),
        **({"row_num": place} if name == FASTTRACKML else {}),
    }


def fill_study(name: str, folder: Path, study: Study) -> None:
    """Adds a study's experiments, runs and points."""
    with closing(PeerFile(name, folder)) as file:
        file.insert(
            "experiments",
            [
                {
                    "experiment_id": int(experiment_id),
                    "name": f"study-{experiment_id}",
                    "artifact_location": f"mlflow-artifacts:/{experiment_id}",
                    "lifecycle_stage": "active",
                    "creation_time": FIRST_MS,
                    "last_update_time": FIRST_MS,
                }
                for experiment_id in experiment_ids()
            ],
        )
        for place, run_id in enumerate(study.run_ids()):
            run_name = f"run-{place:06}"
            row = _run_row(name, place, experiment_of(place), run_name, FIRST_MS)
            file.insert("runs", [row])
            file.insert("tags", [{"key": "mlflow.runName", "value": run_name, "run_uuid": run_id}])
            file.insert_points(run_id, study.points_of(place))


def fill_runs(name: str, folder: Path, count: int) -> None:
    """Adds runs with the params, metrics and tags of RunData."""
    with closing(PeerFile(name, folder)) as file:
        for place in range(count):
            data, run_id = RunData(place), run_id_of(place)
            file.insert("runs", [_run_row(name, place, "0", data.name, data.start_time)])
            value = "value_str" if name == FASTTRACKML else "value"
            of_run = {"run_uuid": run_id}
            params = [{"key": key, value: text, **of_run} for key, text in data.params.items()]
            file.insert("params", params)
            tags = {"mlflow.runName": data.name, **data.tags}
            rows = [{"key": key, "value": text, **of_run} for key, text in tags.items()]
            file.insert("tags", rows)
            file.insert_points(run_id, data.points())
